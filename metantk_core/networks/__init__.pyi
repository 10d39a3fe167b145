from .batch_norm import (
    BATCH_NORM_TREATMENTS,
    batch_norm_as,
    batch_norm_to_group_norm,
    batch_norm_to_running_statistics,
    mixes_images,
)
from .build import FewShotNetwork, build, build_named, build_thin, restricted
from .cells import dropping_paths
from .config import (
    BatchNormTreatment,
    EpisodeNormalisation,
    ImageNormalisation,
    NetworkConfig,
    Normalisation,
    Scheme,
    Variant,
)
from .costs import CostTable, LatencyTable, What, cost_table, measure_latency
from .counts import count_macs, count_parameters, macs_of_pass
from .dropping import dropping
from .initialisation import initialise
from .normalisation import batch_normalised, forget_moments, written_out
from .operations import REVISIONS

__all__ = [
    "BATCH_NORM_TREATMENTS",
    "REVISIONS",
    "BatchNormTreatment",
    "CostTable",
    "EpisodeNormalisation",
    "FewShotNetwork",
    "ImageNormalisation",
    "LatencyTable",
    "NetworkConfig",
    "Normalisation",
    "Scheme",
    "Variant",
    "What",
    "batch_norm_as",
    "batch_norm_to_group_norm",
    "batch_norm_to_running_statistics",
    "batch_normalised",
    "build",
    "build_named",
    "build_thin",
    "cost_table",
    "count_macs",
    "count_parameters",
    "dropping",
    "dropping_paths",
    "forget_moments",
    "initialise",
    "macs_of_pass",
    "measure_latency",
    "mixes_images",
    "restricted",
    "written_out",
]
