"""Architectures: a genotype, a named network or a person's module enters, a network leaves; one type for all."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
