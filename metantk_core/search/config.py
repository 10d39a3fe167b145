"""What to search and how: the settings of all strategies."""

from math import ceil
from typing import Literal

from pydantic import BaseModel, Field, model_validator

from metantk_core.candidates import FiniteSearchSpace, space_named
from metantk_core.errors import InputError
from metantk_core.search.constraints import ConstraintsConfig
from metantk_core.settings_text import HOW

MOST_GENERATIONS = 100
"""Of an evolution in shards: each has steps of its own in the pipeline, and a cluster keeps that as one object."""

MOST_SHARDS = 256
"""Of a round: the step that closes it is told of all their records in one argument, of at most 128 KiB on Linux."""

Strategy = Literal["sample", "enumerate", "prune", "evolve", "race"]


class PruneConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """The pruning search [Wang et al. 2022, Algorithm 1]; the defaults are the paper's, with better statistics."""

    draws: Literal["shared", "own"] = Field(
        default="shared",
        description="'shared': all candidates of a round see the same weights and episodes, and the supernet is scored "
        "once a draw; 'own': each candidate has its own, and the supernet is scored again for each (as published).",
    )
    change: Literal["log", "relative"] = Field(
        default="log",
        description="Change of a score that is averaged: 'log' of the ratio for scores with a log10 scale, or always "
        "the 'relative' change (as published).",
    )
    ranks: Literal["average", "dense"] = Field(
        default="average",
        description="'average': equal changes share the mean of their ranks; 'dense': each draw's change is rounded to "
        "3 decimals, means are sorted at 3 significant digits, and only equal means share a rank, which leaves no gap "
        "(as published).",
    )
    edges: Literal["together", "one node at a time"] = Field(
        default="together",
        description="The last phase, which leaves 2 edges a node: all nodes in one round, or a round for each node, "
        "whose kernel is compared with that of the supernet before the first of them (as published).",
    )


class EvolveConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """Regularised evolution [Real et al. 2019]: the oldest die, the best of a random few have children."""

    population: int = Field(
        default=16,
        ge=2,
        le=10_000,
        description="Candidates alive; the first ones are drawn at random, and all are scored.",
    )
    tournament: int = Field(
        default=4, ge=1, le=10_000, description="Candidates drawn for each child; the best is its parent."
    )
    children: int = Field(
        default=8, ge=1, le=10_000, description="Children of a generation, which are scored side by side."
    )

    @model_validator(mode="after")
    def _possible(self) -> "EvolveConfig":
        if self.tournament > self.population:
            raise ValueError(f"a tournament of {self.tournament} needs a population as large, not {self.population}")
        return self


class RaceConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """Successive elimination: only candidates that may still be the best get more draws."""

    # Intervals of fewer draws are so wide (Student's t) that hardly anybody can be dropped.
    first: int = Field(
        default=5, ge=2, le=1000, description="Draws of all candidates; scoring.num_inits is the most of any."
    )
    growth: float = Field(
        default=2.0,
        ge=1.1,
        le=100,
        description="Each round has so many times the draws; from 1.1, for fewer than 70 rounds.",
    )
    confidence: float = Field(
        default=0.95, gt=0.5, lt=1, description="Confidence that no candidate as good as the best is dropped."
    )


class SearchConfig(BaseModel, frozen=True, extra="forbid", strict=True):
    """Which candidates are scored, and in how many parts."""

    space: str = Field(default="nasbench201", description="Search space: nasbench201, darts_fewshot or darts.")
    strategy: Strategy = Field(
        default="sample",
        description="'sample' draws distinct candidates at random, 'enumerate' takes the whole space, 'prune' takes a "
        "supernet apart, 'evolve' changes good candidates, 'race' samples and gives draws to the promising ones.",
    )
    num_candidates: int = Field(
        default=20,
        ge=1,
        le=1_000_000,
        description="Number of candidates, as many as a leaderboard in memory can hold; "
        "with 'enumerate' the size of the space (or of 'unique' ones), with 'prune' "
        "the number of random ones that the found one is compared with at the end.",
    )
    unique: Literal["no", "benchmark", "function"] = Field(
        default="no",
        description="With 'enumerate' of nasbench201, one candidate a class only: of the 6,466 'benchmark' classes, or "
        "of the 5,044 classes that compute the same 'function'.",
    )
    target_reliability: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Draw on, in doubling steps from scoring.num_inits, until a round's ICC(C,k) reaches this; none "
        "draws scoring.num_inits times.",
    )
    max_inits: int = Field(default=24, ge=2, le=1000, description="Most draws that target_reliability may take.")
    constraints: ConstraintsConfig = Field(
        default=ConstraintsConfig(), description="Limits on the networks that may be found."
    )
    prune: PruneConfig = Field(default=PruneConfig(), description="Settings of 'prune'.")
    evolve: EvolveConfig = Field(default=EvolveConfig(), description="Settings of 'evolve'.")
    race: RaceConfig = Field(default=RaceConfig(), description="Settings of 'race'.")
    shards: int = Field(
        default=2,
        ge=1,
        le=MOST_SHARDS,
        description="Number of parts that are scored side by side, on a cluster each in a pod; never changes a result.",
        json_schema_extra=HOW,
    )
    mix_devices: bool = Field(
        default=False,
        description="Whether candidates that were scored on different kinds of device (cpu, cuda), which round "
        "differently, may be compared; otherwise that is refused.",
        json_schema_extra=HOW,
    )

    @model_validator(mode="after")
    def _possible(self) -> "SearchConfig":
        space = space_named(self.space)
        if self.unique != "no" and self.strategy != "enumerate":
            raise InputError(
                f"unique is a setting of the strategy 'enumerate', not of {self.strategy!r}: leave it out."
            )
        if self.strategy == "enumerate":
            self._check_enumeration()
        elif self.num_candidates > space.size:
            raise InputError(
                f"{self.space} has {space.size:,} candidates, but num_candidates is {self.num_candidates:,}: lower it."
            )
        if self.strategy == "evolve" and self.num_candidates < self.evolve.population:
            raise InputError(
                f"evolve starts from a population of {self.evolve.population}, but num_candidates is "
                f"{self.num_candidates}: raise it, or lower evolve.population."
            )
        if self.strategy == "evolve" and self.shards > 1 and self._generations > MOST_GENERATIONS:
            raise InputError(
                f"{self.num_candidates:,} candidates in generations of {self.evolve.children} are "
                f"{self._generations:,} generations, and a pipeline of several shards has steps for at most "
                f"{MOST_GENERATIONS}: raise evolve.children, lower num_candidates, or set shards to 1."
            )
        if self.target_reliability is not None and self.strategy in ("evolve", "race"):
            raise InputError(
                f"target_reliability is for the strategies sample, enumerate and prune, not {self.strategy!r}: "
                "leave it out (race has race.confidence)."
            )
        return self

    @property
    def _generations(self) -> int:
        return ceil((self.num_candidates - self.evolve.population) / self.evolve.children)

    def _check_enumeration(self) -> None:
        space = space_named(self.space)
        if not isinstance(space, FiniteSearchSpace):
            raise InputError(
                f"{self.space} has {space.size:,} candidates, too many to enumerate: use the strategy 'sample'."
            )
        size = space.size if self.unique == "no" else len(space.representatives(self.unique))
        if self.num_candidates != size:
            raise InputError(
                f"The strategy 'enumerate' takes all {size:,} {'candidates' if self.unique == 'no' else 'classes'} of "
                f"{self.space}: set num_candidates to {size} instead of {self.num_candidates}, or use the strategy "
                "'sample'."
            )
