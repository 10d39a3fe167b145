"""Candidates without feedback: settings and a seed enter, a list of distinct candidates leaves."""

from collections.abc import Iterable

from metantk_core.candidates import FiniteSearchSpace, Genotype, space_named
from metantk_core.errors import InputError
from metantk_core.search.config import SearchConfig
from metantk_core.search.state import Allowed, everything
from metantk_core.seeding import numpy_generator

_PATIENCE = 1000  # draws in a row without a new candidate


def candidates(config: SearchConfig, seed: int, allowed: Allowed = everything) -> tuple[Genotype, ...]:
    """Return the candidates that are looked at without feedback: distinct, decided, in the order of drawing.

    That is all of them for ``enumerate``; otherwise ``num_candidates`` random ones. The number of shards has no
    influence, and a larger ``num_candidates`` only adds candidates at the end.

    Args:
        config: What to search.
        seed: Seed of the whole run.
        allowed: Which candidates may be taken.

    Raises:
        InputError: Too few candidates are allowed.
    """
    space = space_named(config.space)
    if config.strategy == "enumerate" and isinstance(space, FiniteSearchSpace):
        everyone = space if config.unique == "no" else space.representatives(config.unique)
        kept = tuple(genotype for genotype in everyone if allowed(genotype))
        if not kept:
            raise _too_few(0, 1)
        return kept
    return sample(config.space, seed, config.num_candidates, allowed)


def sample(
    space_name: str, seed: int, number: int, allowed: Allowed = everything, without: Iterable[Genotype] = ()
) -> tuple[Genotype, ...]:
    """Return random candidates, distinct, all equally likely among those allowed.

    Args:
        space_name: The search space.
        seed: Seed of the whole run.
        number: How many.
        allowed: Which candidates may be taken.
        without: Candidates that are left out.

    Raises:
        InputError: Too few candidates are allowed.
    """
    space = space_named(space_name)
    left_out = frozenset(without)
    rng = numpy_generator(seed, "search", "sample", space_name)
    if isinstance(space, FiniteSearchSpace):
        found: list[Genotype] = []
        for index in rng.permutation(len(space)):
            if len(found) == number:
                break
            genotype = space.genotype(int(index))
            if genotype not in left_out and allowed(genotype):
                found.append(genotype)
        if len(found) < number:
            raise _too_few(len(found), number)
        return tuple(found)
    drawn: dict[Genotype, None] = {}
    missed = 0
    while len(drawn) < number:
        genotype = space.sample(rng)
        if genotype in drawn or genotype in left_out or not allowed(genotype):
            missed += 1
            if missed == _PATIENCE:
                raise _too_few(len(drawn), number)
            continue
        missed = 0
        drawn[genotype] = None
    return tuple(drawn)


def _too_few(found: int, wanted: int) -> InputError:
    return InputError(
        f"Expected {wanted} candidates within search.constraints, but found {found}; raise the limits or lower "
        "search.num_candidates."
    )
