"""Which steps Kubeflow may skip, with the outputs of an earlier run in their place, and why.

Kubeflow tells equal steps by image, command, parameters and the identities of input artifacts. What else a step reads
or leaves behind (images where they lie, MLflow, the registry) it doesn't see. Finished work is kept in the store
anyway, so a step that runs again does little.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pipelines.profile import StepName


class Caching(NamedTuple):
    """Whether a step may be skipped, and why."""

    on: bool
    why: str


CACHING: Mapping[StepName, Caching] = MappingProxyType(
    {
        "prepare_dataset": Caching(False, "opens the run in MLflow, and the images may have changed where they lie"),
        "start_search": Caching(False, "opens the search's run in MLflow, and may measure latency"),
        "score_shard": Caching(True, "reads its inputs alone and leaves nothing but its output"),
        "close_round": Caching(False, "logs the round in MLflow"),
        "search_shard": Caching(False, "meets the other shards in the store"),
        "join_shards": Caching(False, "logs the rounds in MLflow"),
        "rank_candidates": Caching(False, "logs the ranking and the leaderboard in MLflow"),
        "search": Caching(False, "logs rounds and ranking in MLflow"),
        "meta_train": Caching(False, "logs the training in MLflow"),
        "evaluate": Caching(False, "logs the accuracy in MLflow"),
        "write_report": Caching(False, "attaches the report to the run in MLflow"),
        "register_model": Caching(False, "registers the model and ends the run in MLflow"),
        "close_run": Caching(False, "says how the pipeline ended"),
        "rerun_benchmark": Caching(False, "measures anew what an earlier run measured"),
        "judge_benchmark": Caching(False, "says what the rerun found"),
        "close_benchmarks": Caching(False, "says how the pipeline ended"),
    }
)
