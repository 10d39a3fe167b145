"""Earlier reruns as a tracker remembers them: tags and metrics enter, figures over time leave; and the other way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metantk_core.ports import MetricPoint, TrackedRun
from metantk_core.reruns.comparison import Comparison
from metantk_core.reruns.figures import FIGURES, Estimate, Status
from metantk_core.reruns.rerun import Surroundings

EXPERIMENT = "metantk.benchmark"
"""Tag of a rerun that holds the digest of its experiment."""
RECIPE = f"{EXPERIMENT}.recipe"
"""Tag with the name of the recipe."""
ACCEPTED = f"{EXPERIMENT}.accepted"
"""Tag with the time at which a rerun was made the baseline; of several of an experiment, the latest counts."""
VERDICT = f"{EXPERIMENT}.verdict"
"""Tag with the verdict: ``regression``, ``incomplete``, ``better``, ``fine`` or ``no baseline``."""
_SENTENCE = f"{EXPERIMENT}.sentence"
_WORSE = f"{EXPERIMENT}.worse"
_BASELINE = f"{EXPERIMENT}.baseline"
_DATE, _SOFTWARE, _MACHINE, _DIGEST = (
    f"{EXPERIMENT}.{part}" for part in ("date", "software", "machine", "leaderboard")
)
_GROUP = "benchmark/"
_LONGEST_TAG = 4000  # characters; MLflow takes 8,000 bytes


@dataclass(frozen=True)
class Past:
    """A rerun that has ended, as it is remembered.

    Attributes:
        run: Its identifier in the tracker.
        date: When it began, ISO 8601 in UTC.
        figures: What was measured, by the name of the figure; those without a number are left out.
        verdict: The verdict on it; empty if it did not come so far.
        worse: Names of the figures that had left their tolerance.
        sentence: What was told of it.
        software: Versions for people.
        machine: Kind of machine for people.
        digest: Digest of its leaderboard; empty if it had none.
        accepted: When it was made the baseline; empty if it is not.
        recipe: Name of the recipe.
        experiment: Digest of the experiment.
        status: How the run ended.
    """

    run: str
    date: str
    figures: Mapping[str, Estimate]
    verdict: str
    worse: tuple[str, ...]
    sentence: str
    software: str
    machine: str
    digest: str
    accepted: str
    recipe: str
    experiment: str
    status: str

    @classmethod
    def of(cls, tracked: TrackedRun) -> "Past":
        """Return what a tracker remembers of a rerun."""
        tags, metrics = tracked.tags, tracked.metrics
        figures = {
            name: Estimate(
                metrics[f"{_GROUP}{name}"], metrics.get(f"{_GROUP}{name} low"), metrics.get(f"{_GROUP}{name} high")
            )
            for name in FIGURES
            if f"{_GROUP}{name}" in metrics
        }
        return cls(
            run=tracked.identifier,
            date=tags.get(_DATE, ""),
            figures=figures,
            verdict=tags.get(VERDICT, ""),
            worse=tuple(filter(None, tags.get(_WORSE, "").split(", "))),
            sentence=tags.get(_SENTENCE, ""),
            software=tags.get(_SOFTWARE, ""),
            machine=tags.get(_MACHINE, ""),
            digest=tags.get(_DIGEST, ""),
            accepted=tags.get(ACCEPTED, ""),
            recipe=tags.get(RECIPE, ""),
            experiment=tags.get(EXPERIMENT, ""),
            status=tracked.status,
        )

    @classmethod
    def now(cls, run: str, comparison: Comparison) -> "Past":
        """Return how a rerun that has just been compared will be remembered."""
        return cls.of(TrackedRun(run, "", "finished", 0, tags_of(comparison, ""), numbers_of(comparison)))


def tags_of(comparison: Comparison, baseline: str) -> dict[str, str]:
    """Return what a tracker shall remember of a rerun in words.

    Args:
        comparison: The rerun and what became of it.
        baseline: Identifier of the baseline's run; empty if there is none.
    """
    now = comparison.now
    tags = {
        VERDICT: comparison.verdict,
        _SENTENCE: comparison.sentence,
        _WORSE: ", ".join(verdict.figure for verdict in comparison.having(Status.WORSE)),
        _BASELINE: baseline,
        _DIGEST: now.leaderboard.digest if now.leaderboard else "",
        **begun_tags(now.recipe, now.experiment, now.date, now.surroundings),
    }
    return {tag: text[:_LONGEST_TAG] for tag, text in tags.items()}


def begun_tags(recipe: str, experiment: str, date: str, surroundings: Surroundings) -> dict[str, str]:
    """Return what a tracker shall remember of a rerun from its beginning on.

    Args:
        recipe: Name of the configuration.
        experiment: Digest of what decides its numbers.
        date: When it began, ISO 8601 in UTC.
        surroundings: Software and machine.
    """
    return {
        EXPERIMENT: experiment,
        RECIPE: recipe,
        _DATE: date,
        _SOFTWARE: surroundings.software,
        _MACHINE: surroundings.machine,
    }


def metrics_of(comparison: Comparison) -> list[MetricPoint]:
    """Return the figures of a rerun as metrics, with the ends of their intervals, and what they are made of."""
    return [MetricPoint(name, value) for name, value in numbers_of(comparison).items()]


def numbers_of(comparison: Comparison) -> dict[str, float]:
    """Return the numbers of a rerun by the names of their metrics; those that are missing are left out."""
    now = comparison.now
    values: dict[str, float | None] = {}
    for verdict in comparison.verdicts:
        if isinstance(verdict.now, Estimate):
            name = f"{_GROUP}{verdict.figure}"
            values |= {name: verdict.now.value, f"{name} low": verdict.now.low, f"{name} high": verdict.now.high}
    values[f"{_GROUP}regressions"] = len(comparison.having(Status.WORSE))
    values[f"{_GROUP}seconds of the reference operation"] = now.reference_seconds
    if now.timings:
        values[f"{_GROUP}seconds a candidate"] = sum(timing.seconds for timing in now.timings) / len(now.timings)
    return {name: float(value) for name, value in values.items() if value is not None}


def columns_of(comparison: Comparison) -> dict[str, Sequence[object]]:
    """Return the figures as columns of equal length, one row a figure."""

    def shown(verdict_value: object, name: str) -> str:
        if isinstance(verdict_value, Estimate):
            return FIGURES[name].shown(verdict_value.value)
        return str(verdict_value or "–")

    verdicts = comparison.verdicts
    return {
        "figure": [verdict.figure for verdict in verdicts],
        "this rerun": [shown(verdict.now, verdict.figure) for verdict in verdicts],
        "baseline": [shown(verdict.before, verdict.figure) for verdict in verdicts],
        "status": [str(verdict.status) for verdict in verdicts],
        "what happened": [verdict.words for verdict in verdicts],
    }


def markdown_of(comparison: Comparison) -> str:
    """Return the verdict as Markdown: the sentence, and the figures in a table."""
    columns = columns_of(comparison)
    rows = [" | ".join(str(value).replace("|", "\\|") for value in row) for row in zip(*columns.values(), strict=True)]
    heading = [" | ".join(columns), " | ".join("---" for _ in columns)]
    return f"**{comparison.sentence}**\n\n" + "".join(f"| {row} |\n" for row in (*heading, *rows))
