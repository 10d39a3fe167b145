"""Pickles of arrays from anywhere: a file enters, arrays, numbers, text, lists and dictionaries leave, or a sentence.

A pickle is a program. This package is an interpreter of its own for the few instructions that archives of images need:
nothing is imported or called by name, whatever the file asks for, and memory is bounded by the size of the file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
