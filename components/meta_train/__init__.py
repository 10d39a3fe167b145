"""Step: leaderboard, role and dataset in, meta-trained network out."""

from typing import Any

from components.meta_train import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
meta_train: Any = component.meta_train

__all__ = ["meta_train"]
