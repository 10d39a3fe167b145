from .reading import read_pickle, unpickled
from .results import Value

__all__ = ["Value", "read_pickle", "unpickled"]
