from .baselines import (
    RERUN_FILE,
    Baseline,
    accept,
    all_reruns,
    close_reruns,
    earlier_reruns,
    find_baseline,
    latest_accepted,
)
from .classifying import Classified, classify_folders
from .data import (
    admit_dataset,
    dataset_folder,
    episode_source,
    prepare_dataset,
    prepare_images,
    score_source,
)
from .estimating import Estimate, estimate
from .importing import import_into
from .limits import check_limits, num_rounds
from .own_models import OwnRanking, OwnScores, own_model, own_models, rank_own_models, score_own_model
from .records import Records, load_records, read_records, write_records
from .reporting import RunResult, read_result, report
from .rerunning import PAGE, finished_rerun, log_rerun, open_rerun, rerun, rerun_key
from .runs import Ports, open_run, registered_address, remark, versions
from .scoring import found_a_value, score, score_shard, shard_names, shard_number
from .searching import SearchResult, close_round, finish_search, search, start_search
from .surroundings import surroundings
from .together import join_shards, search_together
from .tracked import leaderboard_columns, ranking_metrics, round_columns, training_metrics, watched_search
from .training import (
    architecture_of,
    evaluate,
    genotype_of,
    meta_train,
    register_model,
    register_trained,
    train,
    training_costs,
)
from .unsent import KeepingRegistry, KeepingTracker, Sent, Unsent, send, unsent_runs

__all__ = [
    "PAGE",
    "RERUN_FILE",
    "Baseline",
    "Classified",
    "Estimate",
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
    "accept",
    "admit_dataset",
    "all_reruns",
    "architecture_of",
    "check_limits",
    "classify_folders",
    "close_reruns",
    "close_round",
    "dataset_folder",
    "earlier_reruns",
    "episode_source",
    "estimate",
    "evaluate",
    "find_baseline",
    "finish_search",
    "finished_rerun",
    "found_a_value",
    "genotype_of",
    "import_into",
    "join_shards",
    "latest_accepted",
    "leaderboard_columns",
    "load_records",
    "log_rerun",
    "meta_train",
    "num_rounds",
    "open_rerun",
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
    "register_trained",
    "registered_address",
    "remark",
    "report",
    "rerun",
    "rerun_key",
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
    "surroundings",
    "train",
    "training_costs",
    "training_metrics",
    "unsent_runs",
    "versions",
    "watched_search",
    "write_records",
]
