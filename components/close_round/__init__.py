"""Step: the records of a round and of those before it in, the state of the search after it and all records out."""

from typing import Any

from components.close_round import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
close_round: Any = component.close_round

__all__ = ["close_round"]
