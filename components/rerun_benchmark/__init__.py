"""Step: configuration in, what became of its figures since the accepted baseline out."""

from typing import Any

from components.rerun_benchmark import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
rerun_benchmark: Any = component.rerun_benchmark

__all__ = ["rerun_benchmark"]
