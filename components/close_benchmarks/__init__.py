"""Step: how a benchmark pipeline ended in, runs in MLflow that say so out; it runs whatever happened to the others."""

from typing import Any

from components.close_benchmarks import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
close_benchmarks: Any = component.close_benchmarks

__all__ = ["close_benchmarks"]
