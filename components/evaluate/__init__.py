"""Step: meta-trained network and dataset in, accuracy on test classes out."""

from typing import Any

from components.evaluate import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
evaluate: Any = component.evaluate

__all__ = ["evaluate"]
