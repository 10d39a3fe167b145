"""Step: configuration in, prepared dataset and the run, completed by the digest of its images, out."""

from typing import Any

from components.prepare_dataset import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
prepare_dataset: Any = component.prepare_dataset

__all__ = ["prepare_dataset"]
