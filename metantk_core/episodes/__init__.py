"""Episodes: labelled images and a seed enter, few-shot tasks leave, as pixels and as what a network is shown."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
