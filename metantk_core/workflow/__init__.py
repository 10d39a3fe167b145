"""The steps of a run, one function each: configuration, data and ports enter, values leave; every step can be repeated.

The functions know no cluster and no server. Whoever calls them (a Kubeflow component, an MLflow project, the command
line) gives them ``Ports``. What is expensive is stored at once in the artifact store under a digest of all that it
depends on: a step repeated after a crash, or for the second time, computes only what is missing and logs nothing twice.
"""

from metantk_core.workflow.data import (
    admit_dataset,
    dataset_folder,
    episode_source,
    prepare_dataset,
    prepare_images,
    score_source,
)
from metantk_core.workflow.ports import Ports, open_run, versions
from metantk_core.workflow.records import Records, load_records, read_records, write_records
from metantk_core.workflow.reporting import RunResult, read_result, report
from metantk_core.workflow.searching import (
    OwnModel,
    SearchResult,
    check_limits,
    check_own_model,
    close_round,
    finish_search,
    found_a_value,
    leaderboard_columns,
    num_rounds,
    ranking_metrics,
    round_columns,
    score,
    score_own_model,
    score_shard,
    search,
    start_search,
)
from metantk_core.workflow.training import evaluate, genotype_of, meta_train, register_model, training_metrics

__all__ = [
    "OwnModel",
    "Ports",
    "Records",
    "RunResult",
    "SearchResult",
    "admit_dataset",
    "check_limits",
    "check_own_model",
    "close_round",
    "dataset_folder",
    "episode_source",
    "evaluate",
    "finish_search",
    "found_a_value",
    "genotype_of",
    "leaderboard_columns",
    "load_records",
    "meta_train",
    "num_rounds",
    "open_run",
    "prepare_dataset",
    "prepare_images",
    "ranking_metrics",
    "read_records",
    "read_result",
    "register_model",
    "report",
    "round_columns",
    "score",
    "score_own_model",
    "score_shard",
    "score_source",
    "search",
    "start_search",
    "training_metrics",
    "versions",
    "write_records",
]
