"""Meta-training and evaluation: a genotype and episodes enter, a few-shot classifier and its accuracy leave.

Importing this package does not import learn2learn; ``meta_train`` does, when it is called.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
