"""What orders candidates: scores and their weights enter, losses that can be averaged over draws leave.

Axes: n candidates without failures · k draws, the same for all candidates.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from metantk_core.errors import InputError
from metantk_core.ranking.records import RecordTable, failure, scaled_values, tabulate
from metantk_core.scores.definitions import SCORES, Direction, Scale
from metantk_core.scores.record import Outcome, ScoreRecord
from metantk_core.statistics import ranks


@dataclass(frozen=True)
class Criterion:
    """One score, or a weighted combination of the ranks by several.

    Ranks, not values, because scores have different units: a rank means the same for each. The combination of two
    scores with weight 1 is the rank sum of the pruning search of Wang, Wang, Sun and Li (CVPR 2022, Algorithm 1) and of
    TE-NAS (Chen, Gong, Wang, ICLR 2021), up to the division by the number of candidates.

    Build it with ``Criterion.of``, which checks.

    Attributes:
        weights: Names of scores with their weights, which are above 0, in the order given.
    """

    weights: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, value: "str | Mapping[str, float] | Criterion") -> "Criterion":
        """Return the criterion that somebody wrote.

        Args:
            value: Name of a score, or its text form as ``str`` gives it ("metantk_cond + 0.5*linear_regions"), or a
                weight by the name of each score. The weight of a single score has no meaning and becomes 1.

        Raises:
            InputError: There is no such score, a score has no better direction, a weight is no finite number above 0,
                or no score was named.
        """
        if isinstance(value, Criterion):
            value = dict(value.weights)
        weights = _parsed(value) if isinstance(value, str) else dict(value)
        if not weights:
            raise InputError("Expected at least one score to rank by, but got none; name one, such as metantk_cond.")
        for name, weight in weights.items():
            if name not in SCORES:
                raise InputError(f"There is no score {name!r} to rank by; the scores are {', '.join(SCORES)}.")
            if SCORES[name].direction not in ("higher", "lower"):
                raise InputError(f"Neither higher nor lower values of {name} are better; rank by another score.")
            if not (math.isfinite(weight) and weight > 0):
                raise InputError(
                    f"Expected a finite weight above 0 for {name}, but got {weight:g}; to ignore it, leave it out."
                )
        single = len(weights) == 1
        return cls(tuple((name, 1.0 if single else float(weight)) for name, weight in weights.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the scores."""
        return tuple(name for name, _ in self.weights)

    @property
    def single(self) -> bool:
        """Whether there is one score only, whose own values order the candidates."""
        return len(self.weights) == 1

    @property
    def direction(self) -> Direction:
        """Which means are better: of a score its own direction, of combined ranks the lower ones."""
        return SCORES[self.names[0]].direction if self.single else "lower"

    @property
    def scale(self) -> Scale:
        """Scale of the means."""
        return SCORES[self.names[0]].scale if self.single else "linear"

    @property
    def label(self) -> str:
        """Name of a mean for people, as in "0.5·NASWOT + linear regions, mean ranks"."""
        if self.single:
            return SCORES[self.names[0]].scaled_label
        terms = (f"{_weight_text(weight)}{SCORES[name].label}" for name, weight in self.weights)
        return f"{' + '.join(terms).replace('*', '·')}, mean ranks"

    def __str__(self) -> str:
        return " + ".join(f"{_weight_text(weight)}{name}" for name, weight in self.weights)


@dataclass(frozen=True)
class Losses:
    """Every draw of every candidate by one criterion; lower is better, whatever the direction of its scores.

    Attributes:
        genotypes: Text forms of the n candidates without failures, in alphabetical order.
        values: A score's draws on its scale, with the sign turned if higher is better; or, of a combination, weighted
            sums of the ranks within each draw, divided by n.
        failed: Text form, outcome and reason of every candidate with a failed draw, in alphabetical order.
    """

    genotypes: tuple[str, ...]
    values: Float64[np.ndarray, "n k"]
    failed: tuple[tuple[str, Outcome, str], ...]


def losses(records: Iterable[ScoreRecord], criterion: Criterion) -> Losses:
    r"""Return what a criterion makes of the records of one run.

    A combination of scores :math:`s` with weights :math:`w_s` gives candidate :math:`i` in draw :math:`j`

    .. math:: \ell_{ij} = \frac{1}{n} \sum_s w_s \, \mathrm{rank}_s(i, j),

    where ranks go from 1, the best, to n among the candidates without failures, equal ones sharing the average of their
    ranks: whatever is done with a score's draws can be done with these.

    Scores that are counted instead of drawn (parameters, multiply-accumulates) are the same in all draws. Where numbers
    of draws differ, the first ones are taken, as many as all have.

    Args:
        records: Records in any order; each candidate has one of every score of the criterion.
        criterion: What to judge by.

    Raises:
        InputError: The records are incomplete, contradict each other, or are not those of one run.
    """
    table = tabulate(records, criterion.names)
    failed = failures(table, criterion)
    good = [genotype for genotype in sorted(table[criterion.names[0]]) if genotype not in failed]
    draws = min((number_of_draws(table, criterion, genotype) for genotype in good), default=0)
    values, unit = loss_matrix(table, criterion, good, draws)
    return Losses(tuple(good), values / unit, tuple((genotype, *failed[genotype]) for genotype in sorted(failed)))


def failures(table: RecordTable, criterion: Criterion) -> dict[str, tuple[Outcome, str]]:
    """Return outcome and reason, by the criterion's first score that failed, of every candidate with a failed draw."""
    failed: dict[str, tuple[Outcome, str]] = {}
    for name in criterion.names:
        for genotype, record in table[name].items():
            found = None if genotype in failed else failure(record)
            if found is not None:
                outcome, reason = found
                failed[genotype] = outcome, reason if criterion.single else f"{SCORES[name].label}: {reason}"
    return failed


def number_of_draws(table: RecordTable, criterion: Criterion, genotype: str) -> int:
    """Return how many draws of a candidate can be used: as many as each score has that is not just counted."""
    if criterion.single:
        return len(table[criterion.names[0]][genotype].draws)
    return min((len(table[name][genotype].draws) for name in criterion.names if SCORES[name].cost != "none"), default=1)


def loss_matrix(
    table: RecordTable, criterion: Criterion, genotypes: Sequence[str], draws: int
) -> tuple[Float64[np.ndarray, "n k"], int]:
    """Return the losses of some candidates over their first draws, and the number by which they are to be divided.

    Undivided, ranks and their sums are exact, so that what is equal in exact arithmetic is equal.

    Args:
        table: Records by score and candidate.
        criterion: What to judge by.
        genotypes: Candidates without failures, in the order of the rows.
        draws: Number of draws, which each of the candidates has.
    """
    shape = (len(genotypes), draws)
    total = np.zeros(shape)
    # In the order of the names: the order in which they were written must not change a rounding.
    for name, weight in sorted(criterion.weights):
        definition = SCORES[name]
        scale: Scale = definition.scale if criterion.single else "linear"  # ranks are the same on every scale
        rows = [scaled_values(table[name][genotype], scale) for genotype in genotypes]
        counted = definition.cost == "none" and not criterion.single
        values = np.array([row[:1] * draws if counted else row[:draws] for row in rows], dtype=np.float64)
        values = values.reshape(shape) * (1.0 if definition.direction == "lower" else -1.0)
        if criterion.single:
            return values, 1
        if genotypes:
            total += weight * ranks(values.T).T
    return total, max(len(genotypes), 1)


def _parsed(text: str) -> dict[str, float]:
    """Return the weights of a text form; a name alone has weight 1."""
    weights: dict[str, float] = {}
    for term in re.split(r"\s\+\s", text.strip()):
        weight, times, name = term.strip().rpartition("*")
        name = name.strip()
        if name in weights:
            raise InputError(f"Expected each score once, but {name} came twice in {text!r}; add up its weights.")
        try:
            weights[name] = float(weight) if times else 1.0
        except ValueError:
            raise InputError(
                f"Expected scores with weights, such as 'metantk_cond + 0.5*linear_regions', but got {text!r}."
            ) from None
    return weights


def _weight_text(weight: float) -> str:
    if weight == 1:
        return ""
    return f"{int(weight) if weight.is_integer() and weight < 1e6 else weight!r}*"
