from .pages import let_go
from .reading import read_pickle, unpickled
from .results import Value

__all__ = ["Value", "let_go", "read_pickle", "unpickled"]
