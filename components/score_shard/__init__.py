"""Step: the state of a search and the name of a shard in, one record a candidate and score out."""

from typing import Any

from components.score_shard import component

# Any: what Kubeflow makes of a function takes a graph's channels, which the function's own annotations don't tell.
score_shard: Any = component.score_shard

__all__ = ["score_shard"]
