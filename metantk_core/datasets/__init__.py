"""Labelled images per split: a configuration enters, a stored, memory-mapped `ImageDataset` leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
