"""Candidate networks and the spaces that they come from: texts, indices and random numbers enter, genotypes leave."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
