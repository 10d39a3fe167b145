"""Networks of candidates: genotypes and configurations enter, torch modules leave."""

from metantk_core.networks.build import FewShotNetwork, NetworkConfig, Variant, build, build_thin, restricted
from metantk_core.networks.costs import CostTable, LatencyTable, What, cost_table, measure_latency
from metantk_core.networks.counts import count_macs, count_parameters
from metantk_core.networks.initialisation import Scheme, initialise
from metantk_core.networks.normalisation import Normalisation, batch_normalised, forget_moments
from metantk_core.networks.operations import REVISIONS

__all__ = [
    "REVISIONS",
    "CostTable",
    "FewShotNetwork",
    "LatencyTable",
    "NetworkConfig",
    "Normalisation",
    "Scheme",
    "Variant",
    "What",
    "batch_normalised",
    "build",
    "build_thin",
    "cost_table",
    "count_macs",
    "count_parameters",
    "forget_moments",
    "initialise",
    "measure_latency",
    "restricted",
]
