from .data import (
    admit_dataset,
    dataset_folder,
    episode_source,
    prepare_dataset,
    prepare_images,
    score_source,
)
from .limits import check_limits, num_rounds
from .own_models import OwnRanking, OwnScores, own_model, own_models, rank_own_models, score_own_model
from .records import Records, load_records, read_records, write_records
from .reporting import RunResult, read_result, report
from .runs import Ports, open_run, versions
from .scoring import found_a_value, score, score_shard, shard_names, shard_number
from .searching import SearchResult, close_round, finish_search, search, start_search
from .together import join_shards, search_together
from .tracked import leaderboard_columns, ranking_metrics, round_columns, training_metrics, watched_search
from .training import evaluate, genotype_of, meta_train, register_model
from .unsent import KeepingRegistry, KeepingTracker, Sent, Unsent, send, unsent_runs

__all__ = [
    "KeepingRegistry",
    "KeepingTracker",
    "OwnRanking",
    "OwnScores",
    "Ports",
    "Records",
    "RunResult",
    "SearchResult",
    "Sent",
    "Unsent",
    "admit_dataset",
    "check_limits",
    "close_round",
    "dataset_folder",
    "episode_source",
    "evaluate",
    "finish_search",
    "found_a_value",
    "genotype_of",
    "join_shards",
    "leaderboard_columns",
    "load_records",
    "meta_train",
    "num_rounds",
    "open_run",
    "own_model",
    "own_models",
    "prepare_dataset",
    "prepare_images",
    "rank_own_models",
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
    "search_together",
    "send",
    "shard_names",
    "shard_number",
    "start_search",
    "training_metrics",
    "unsent_runs",
    "versions",
    "watched_search",
    "write_records",
]
