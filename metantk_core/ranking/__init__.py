"""Rankings: score records enter in any order, a leaderboard that says how far to trust itself leaves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
