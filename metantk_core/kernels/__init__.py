"""Kernels at initialisation: a network and a batch of episodes enter, symmetric float64 matrices on the CPU leave.

Axes: n images of the batch (all query images, episode by episode, then all support images, episode by episode) ·
t tasks · q, s query and support images of one task · tq, ts those of all tasks.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
