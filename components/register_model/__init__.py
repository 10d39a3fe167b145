"""Step: the best candidate's network and accuracy in, a version in the model registry out."""

from typing import Any

from components.register_model import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
register_model: Any = component.register_model

__all__ = ["register_model"]
