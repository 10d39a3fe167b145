"""Augmentation: pixels and a generator enter, pixels leave that show the same things a little otherwise."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
