"""The page of a rerun as a file: its comparison and earlier reruns enter, one self-contained HTML file leaves."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup

from metantk_core.config import BenchmarkTolerances
from metantk_core.files import write_atomically
from metantk_core.report.templates import environment, style
from metantk_core.reruns.charts import figure_history
from metantk_core.reruns.comparison import Comparison, Verdict
from metantk_core.reruns.figures import FIGURES, Estimate, Figure
from metantk_core.reruns.history import Past

_MOST_SHOWN = 60
"""Reruns on the page, the last ones: a year of weeks."""


@dataclass(frozen=True)
class HistoryData:
    """Everything that the page of a rerun shows.

    Attributes:
        comparison: The rerun, and what became of its figures.
        run: Identifier of its run in the tracker.
        baseline_run: That of the baseline; empty if there is none.
        why: Why there is no baseline, as a sentence; empty if there is one.
        earlier: Reruns of the same experiment before this one, the oldest first.
        tolerances: How far figures may fall behind.
        configuration: ``RunConfig`` as JSON.
    """

    comparison: Comparison
    run: str
    baseline_run: str
    why: str
    earlier: tuple[Past, ...]
    tolerances: BenchmarkTolerances
    configuration: str


def write_history(data: HistoryData, path: Path) -> None:
    """Write the page; the file is there as a whole or not at all.

    Args:
        data: What to show. Equal data give equal bytes.
        path: The HTML file.
    """
    write_atomically(path, render_history(data).encode(), durable=False)


def render_history(data: HistoryData) -> str:
    """Return the page as HTML: no script, nothing loaded from elsewhere, all texts of people escaped."""
    now, before = data.comparison.now, data.comparison.before
    reruns = [*data.earlier, Past.now(data.run, data.comparison)]
    left_out = max(0, len(reruns) - _MOST_SHOWN)
    shown = reruns[left_out:]
    return (
        environment("metantk_core.reruns")
        .get_template("history.html.j2")
        .render(
            data=data,
            style=style(),
            now=now,
            before=before,
            verdict=data.comparison.verdict,
            changes=now.changes_since(before) if before else (),
            rows=[_row(verdict) for verdict in data.comparison.verdicts],
            charts=_charts(data, shown),
            reruns=list(reversed(_rerun_rows(shown, data.run, data.baseline_run))),
            left_out=left_out,
            meanings=[(figure.name, figure.meaning) for figure in FIGURES.values()],
            tolerances=_settings(data.tolerances),
            configuration=json.dumps(json.loads(data.configuration), indent=2, ensure_ascii=False),
        )
    )


def _row(verdict: Verdict) -> dict[str, object]:
    figure = FIGURES[verdict.figure]
    return {
        "figure": verdict.figure,
        "now": _shown(figure, verdict.now),
        "before": _shown(figure, verdict.before),
        "status": str(verdict.status),
        "kind": str(verdict.status).split()[0],
        "words": verdict.words[:1].upper() + verdict.words[1:],
    }


def _shown(figure: Figure, measured: Estimate | str | None) -> tuple[str, str]:
    """Return a number and its interval for people."""
    if isinstance(measured, Estimate):
        interval = ""
        if measured.low is not None and measured.high is not None and measured.low < measured.high:
            interval = f"{figure.shown(measured.low)} to {figure.shown(measured.high)}"
        return figure.shown(measured.value), interval
    return (measured[:8] if measured else "–"), ""


def _charts(data: HistoryData, reruns: list[Past]) -> list[tuple[str, str, Markup]]:
    made = []
    baseline_at = next((place for place, past in enumerate(reruns) if past.run == data.baseline_run), None)
    breaks = [
        place
        for place, (old, new) in enumerate(pairwise(reruns), start=1)
        if (old.software, old.machine) != (new.software, new.machine)
    ]
    for place, verdict in enumerate(data.comparison.verdicts):
        figure = FIGURES[verdict.figure]
        estimates = [past.figures.get(figure.name) for past in reruns]
        if not any(estimates):
            continue
        svg = figure_history(
            estimates,
            _labels(reruns),
            worse=[figure.name in past.worse for past in reruns],
            baseline=verdict.before.value if isinstance(verdict.before, Estimate) else None,
            baseline_at=baseline_at,
            breaks=breaks,
            name=figure.name,
            shown=figure.shown,
            scale=figure.scale,
            identifier=f"history-{place}",
        )
        direction = f"{figure.better} is better" if figure.better else ""
        made.append((figure.name, direction, Markup(svg)))  # noqa: S704 - an SVG of ours, its texts escaped
    return made


def _labels(reruns: list[Past]) -> list[str]:
    """Return a label for each rerun: month and day, with the time where two are of one day."""
    days = [past.date[5:10] for past in reruns]
    return [
        day if days.count(day) == 1 else f"{day}\n{past.date[11:16]}" for day, past in zip(days, reruns, strict=True)
    ]


def _rerun_rows(reruns: list[Past], run: str, baseline: str) -> list[dict[str, object]]:
    rows = []
    previous: Past | None = None
    for past in reruns:
        changed = [] if previous is None else _changed(previous, past)
        rows.append(
            {
                "date": past.date[:16].replace("T", " "),
                "run": past.run,
                "this": past.run == run,
                "baseline": past.run == baseline,
                "verdict": past.verdict,
                "worse": ", ".join(past.worse),
                "digest": past.digest[:8] or "–",
                "around": "; ".join(changed) if previous is not None else f"{past.software}; {past.machine}",
            }
        )
        previous = past
    return rows


def _changed(old: Past, new: Past) -> list[str]:
    """Return what became other between two reruns around them."""
    before = dict(part.rsplit(" ", 1) for part in old.software.split(", ") if " " in part)
    after = dict(part.rsplit(" ", 1) for part in new.software.split(", ") if " " in part)
    changed = [
        f"{name} {before.get(name, 'none')} → {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    ]
    return [*changed, *([new.machine] if old.machine != new.machine else [])]


def _settings(tolerances: BenchmarkTolerances) -> list[tuple[str, str, str]]:
    """Return name, value and meaning of each tolerance."""
    return [
        (f"benchmark.{name}", json.dumps(getattr(tolerances, name)), field.description or "")
        for name, field in BenchmarkTolerances.model_fields.items()
    ]
