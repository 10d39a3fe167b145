"""Randomness by purpose: a seed and a purpose enter, a generator that depends on nothing else leaves.

What is drawn for one purpose never depends on what was drawn before for another. That makes a score a pure function of
(configuration, genotype, seed), whatever the number of shards, their order, or a restart.
"""

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def digest(value: object, *, length: int = 16) -> str:
    """Return the first ``length`` hexadecimal digits of the SHA-256 of a JSON-like value in canonical form.

    Args:
        value: Anything that ``json.dumps`` takes; dictionaries are compared without regard to the order of their keys.
        length: Number of digits, at most 64.
    """
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def derive(seed: int, *purpose: str | int) -> int:
    """Return the seed, at least 0 and below 2^63, of the stream of random numbers for one purpose.

    Args:
        seed: The seed of the whole run.
        purpose: What the numbers are for, from the general to the particular, as in ``("episode", "test", 17)``.
    """
    return int(digest([seed, *purpose]), 16) >> 1


def generator(seed: int, *purpose: str | int) -> "torch.Generator":
    """Return a torch generator (on the CPU, so that numbers do not depend on the device) for one purpose."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a numpy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))
