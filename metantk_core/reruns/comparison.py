"""The verdict on a rerun: it and the accepted baseline enter, what became of each figure and one sentence leave."""

import math
from dataclasses import dataclass

from metantk_core.config import BenchmarkTolerances
from metantk_core.reruns.figures import FIGURES, Change, Estimate, Figure, Measured, Status
from metantk_core.reruns.rerun import Rerun

NO_BASELINE = "no baseline"
"""Verdict on a rerun that there is nothing to compare with."""
INCOMPLETE = "incomplete"
"""Verdict on a rerun in which nothing is known to be worse, and something was measured too badly to know."""


@dataclass(frozen=True)
class Verdict:
    """What became of one figure.

    Attributes:
        figure: Name of the figure.
        now: What it is of the rerun; none if it could not be measured.
        before: What it is of the baseline.
        status: What that means.
        words: What happened, as a part of a sentence.
    """

    figure: str
    now: Measured
    before: Measured
    status: Status
    words: str


@dataclass(frozen=True)
class Comparison:
    """What became of a rerun's figures.

    Attributes:
        now: The rerun.
        before: The accepted baseline; none if there is none.
        verdicts: One a figure.
    """

    now: Rerun
    before: Rerun | None
    verdicts: tuple[Verdict, ...]

    def having(self, status: Status) -> tuple[Verdict, ...]:
        """Return the verdicts with this status."""
        return tuple(verdict for verdict in self.verdicts if verdict.status is status)

    @property
    def is_regression(self) -> bool:
        """Whether any figure left its tolerance."""
        return bool(self.having(Status.WORSE))

    @property
    def is_incomplete(self) -> bool:
        """Whether nothing is known to be worse than at the baseline, and something was measured too badly to know."""
        return not self.is_regression and self.before is not None and bool(self.having(Status.NOT_MEASURED))

    @property
    def verdict(self) -> str:
        """The verdict on the whole: ``regression``, ``incomplete``, ``better``, ``fine`` or ``no baseline``."""
        if self.is_regression:
            return "regression"
        if self.before is None:
            return NO_BASELINE
        if self.is_incomplete:
            return INCOMPLETE
        return "better" if self.having(Status.BETTER) else "fine"

    @property
    def sentence(self) -> str:
        """What to tell a person who reads nothing else."""
        recipe = self.now.recipe
        if self.is_regression:
            return f"{recipe} got worse: {_joined(self.having(Status.WORSE))}."
        if self.before is None:
            return f"{recipe} is measured, and compared with nothing."
        apart, unknown = len(self.having(Status.NOT_COMPARED)), self.having(Status.NOT_MEASURED)
        judged = len(self.verdicts) - apart - len(unknown)
        aside = f"; {apart} can't be compared" if apart else ""
        aside += f"; not measured: {_joined(unknown)}" if unknown else ""
        so_far = "as far as was measured, " if unknown else ""
        said = f"{recipe} is {so_far}as good as its baseline of {self.before.date[:10]}: "
        said += f"{judged} figures are within tolerance"
        better = self.having(Status.BETTER)
        return f"{said}{aside}{f'; better: {_joined(better)}' if better else ''}."


def compare(now: Rerun, before: Rerun | None, tolerances: BenchmarkTolerances) -> Comparison:
    """Return what became of each figure of a rerun.

    A figure that the baseline has and the rerun lacks, or that is not finite, is a regression; so is one that is
    missing where there is no baseline, if the rerun itself says what went wrong.

    Args:
        now: The rerun.
        before: The accepted baseline of the same experiment; none if there is none.
        tolerances: How far figures may fall behind.
    """
    return Comparison(now, before, tuple(_judged(figure, now, before, tolerances) for figure in FIGURES.values()))


def _judged(figure: Figure, now: Rerun, before: Rerun | None, tolerances: BenchmarkTolerances) -> Verdict:
    mine = _known(figure.of(now, before))
    theirs = _known(figure.of(before, before)) if before else None
    if mine is not None and theirs is not None and before is not None:
        change = figure.change(now, before, tolerances)
    elif mine is None and (theirs is not None or (before is None and now.problem and now.leaderboard is None)):
        change = Change(Status.WORSE, f"the {figure.name} is missing{f': {now.problem}' if now.problem else ''}")
    elif before is None:
        change = Change(Status.NOT_COMPARED, "there is no baseline")
    elif mine is None:
        change = Change(Status.NOT_COMPARED, f"neither has the {figure.name}")
    else:
        change = Change(Status.NOT_COMPARED, f"the baseline has no {figure.name}")
    return Verdict(figure.name, mine, theirs, change.status, change.words)


def _known(measured: Measured) -> Measured:
    """Return what was measured, or none if that is not a finite number."""
    return None if isinstance(measured, Estimate) and not math.isfinite(measured.value) else measured


def _joined(verdicts: tuple[Verdict, ...]) -> str:
    return "; ".join(verdict.words.rstrip(".") for verdict in verdicts)
