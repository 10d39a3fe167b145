"""One file for each way in which people keep images: a place enters, what lies there is recognised, a source leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
