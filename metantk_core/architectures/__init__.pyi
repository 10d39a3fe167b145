from .architecture import (
    Architecture,
    build_network,
    part_of,
    running,
    seeded,
)
from .own_modules import OwnModule, own_code, own_module

__all__ = [
    "Architecture",
    "OwnModule",
    "build_network",
    "own_code",
    "own_module",
    "part_of",
    "running",
    "seeded",
]
