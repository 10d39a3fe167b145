"""Searching: settings and what was found so far enter, the next candidates to score leave, and in the end a winner."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
