"""Benchmark reruns: what two reruns of an experiment measured enters, what got worse, and a page, leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
