from .architecture import (
    Architecture,
    build_network,
    format_architecture,
    identity_of,
    parse_architecture,
    part_of,
    running,
    seeded,
)
from .learnable import LearnableNetwork, OwnNetwork, costs_of, initial_network, learnable_network
from .own_modules import OwnModule, own_code, own_module

__all__ = [
    "Architecture",
    "LearnableNetwork",
    "OwnModule",
    "OwnNetwork",
    "build_network",
    "costs_of",
    "format_architecture",
    "identity_of",
    "initial_network",
    "learnable_network",
    "own_code",
    "own_module",
    "parse_architecture",
    "part_of",
    "running",
    "seeded",
]
