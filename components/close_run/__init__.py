"""Step: how the pipeline ended in, a run in MLflow that says so out; it runs whatever happened to the others."""

from typing import Any

from components.close_run import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
close_run: Any = component.close_run

__all__ = ["close_run"]
