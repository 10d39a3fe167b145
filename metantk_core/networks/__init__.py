"""Networks of candidates: genotypes and configurations enter, torch modules leave."""

from metantk_core.networks.build import FewShotNetwork, NetworkConfig, Variant, build
from metantk_core.networks.counts import count_macs, count_parameters
from metantk_core.networks.initialisation import Scheme, initialise
from metantk_core.networks.normalisation import Normalisation, forget_moments

__all__ = [
    "FewShotNetwork",
    "NetworkConfig",
    "Normalisation",
    "Scheme",
    "Variant",
    "build",
    "count_macs",
    "count_parameters",
    "forget_moments",
    "initialise",
]
