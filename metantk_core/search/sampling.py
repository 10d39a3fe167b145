"""Search without feedback: a configuration and a seed enter, a list of distinct candidates leaves."""

from typing import Literal

from pydantic import BaseModel, Field, model_validator

from metantk_core.candidates import FiniteSearchSpace, Genotype, space_named
from metantk_core.errors import InputError
from metantk_core.seeding import numpy_generator


class SearchConfig(BaseModel, frozen=True, extra="forbid"):
    """Which candidates are scored, and in how many parts."""

    space: str = Field(default="nasbench201", description="Search space: nasbench201 or darts_fewshot.")
    strategy: Literal["sample", "enumerate"] = Field(
        default="sample", description="'sample' draws distinct candidates at random, 'enumerate' takes the whole space."
    )
    num_candidates: int = Field(
        default=20, ge=1, description="Number of candidates; with 'enumerate' the size of the space."
    )
    shards: int = Field(
        default=2, ge=1, description="Number of parts that are scored side by side; never changes a result."
    )

    @model_validator(mode="after")
    def _possible(self) -> "SearchConfig":
        space = space_named(self.space)
        if self.strategy == "enumerate" and not isinstance(space, FiniteSearchSpace):
            raise InputError(
                f"{self.space} has {space.size:,} candidates, too many to enumerate: use the strategy 'sample'."
            )
        if self.num_candidates > space.size:
            raise InputError(
                f"{self.space} has {space.size:,} candidates, but num_candidates is {self.num_candidates:,}: lower it."
            )
        if self.strategy == "enumerate" and self.num_candidates < space.size:
            raise InputError(
                f"The strategy 'enumerate' takes all {space.size} candidates of {self.space}: set num_candidates to "
                f"{space.size} instead of {self.num_candidates}, or use the strategy 'sample'."
            )
        return self


def candidates(config: SearchConfig, seed: int) -> tuple[Genotype, ...]:
    """Return the candidates of a search: distinct, decided, in the order in which they were drawn.

    The number of shards has no influence, and a larger ``num_candidates`` only adds candidates at the end.

    Args:
        config: What to search.
        seed: Seed of the whole run.
    """
    space = space_named(config.space)
    if isinstance(space, FiniteSearchSpace):
        if config.strategy == "enumerate":
            return tuple(space)
        order = numpy_generator(seed, "search", "sample", config.space).permutation(len(space))
        return tuple(space.genotype(int(index)) for index in order[: config.num_candidates])
    rng = numpy_generator(seed, "search", "sample", config.space)
    drawn: dict[Genotype, None] = {}
    while len(drawn) < config.num_candidates:
        drawn.setdefault(space.sample(rng))
    return tuple(drawn)
