"""Scores at initialisation: genotypes and episodes enter, records with explicit outcomes leave."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
