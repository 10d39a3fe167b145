"""The search spaces by name: a name and a text enter, a space or a genotype leaves."""

from collections.abc import Mapping
from types import MappingProxyType

from metantk_core.candidates.darts_family import DARTS, DARTS_FEWSHOT
from metantk_core.candidates.genotype import Genotype
from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.candidates.published import named
from metantk_core.candidates.space import SearchSpace
from metantk_core.errors import InputError

SPACES: Mapping[str, SearchSpace] = MappingProxyType(
    {space.name: space for space in (NASBENCH201, DARTS_FEWSHOT, DARTS)}
)

MODEL_SPACE = "model"
"""What records of a person's own model say instead of a search space."""


def space_named(name: str) -> SearchSpace:
    """Return the search space of a name.

    Raises:
        InputError: If there is no such space.
    """
    if name not in SPACES:
        raise InputError(f"'{name}' is no search space; the search spaces are {', '.join(SPACES)}.")
    return SPACES[name]


def parse_genotype(space: str, text: str) -> Genotype:
    """Return the genotype that a text describes in a search space.

    Args:
        space: Name of the search space.
        text: A text form of the space, or the name of a published candidate of the space, such as ``paper-mini-5-a``.

    Raises:
        InputError: If there is no such space, the text is malformed, or it names an unknown operation or a candidate
            of another space.
    """
    return space_named(space).parse(named(space, text))
