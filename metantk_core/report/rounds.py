"""How a search went, round by round: its history enters, sentences, tables and drawings for the page leave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from metantk_core.candidates import Genotype
from metantk_core.ranking import Criterion, Leaderboard, Reliability
from metantk_core.report import findings
from metantk_core.report.cells import cell_names, operation_name
from metantk_core.report.formatting import fixed, significant, with_error
from metantk_core.report.round_charts import (
    Agreement,
    agreement_chart,
    progress_chart,
    race_chart,
    reliability_chart,
)
from metantk_core.report.thinning import draw_round, grouped, removed
from metantk_core.scores import SCORES
from metantk_core.search import Choice, Removal, SearchHistory, SearchRound, tied

ALL_SCORES = "all together"


@dataclass(frozen=True)
class Panel:
    """One drawing of a cell that thins out.

    Attributes:
        title: The round.
        counts: Operations of the cell before and after.
        svg: The drawing.
        gone: Names of removed operations with the edges that lost them.
    """

    title: str
    counts: str
    svg: Markup
    gone: tuple[tuple[str, str], ...]


def how_it_went(history: SearchHistory | None, board: Leaderboard) -> dict[str, object] | None:
    """Return what the page shows of the rounds of a search, or None if there was one only.

    Args:
        history: The search.
        board: Its ranking.
    """
    if history is None or len(history.rounds) < 2:
        return None
    pruned = [closed for closed in history.rounds if closed.removals]
    agreement = tuple(found for closed in pruned if (found := agreement_of(closed)) is not None)
    charts: list[tuple[str, str]] = []
    if agreement:
        charts.append(("How often both halves of the draws choose the same", agreement_chart(agreement)))
    if history.strategy == "evolve":
        best, mean = _curve(history, "best"), _curve(history, "mean")
        if board.criterion.single and len(best) == len(mean) > 1:
            label = f"{board.label} ({board.direction} is better)"
            charts.append(("Score over the generations", progress_chart(best, mean, label=label)))
    if history.strategy == "race":
        stages = [(closed.draws, closed.scored) for closed in history.rounds]
        charts.append(("Candidates that were still running", race_chart(stages)))
    elif series := _reliabilities(history, board.criterion):
        charts.append(("Reliability over the rounds, with 95 % intervals", reliability_chart(series)))
    return {
        "sentences": sentences(history, board),
        "charts": [(title, Markup(svg)) for title, svg in charts],  # noqa: S704 - ours, texts escaped by matplotlib
        "cells": _panels(_steps(history)),
        "when": _when(_steps(history)),
        "table": _table(history, board.criterion),
        "candidates": [_candidates(closed) for closed in pruned],
        "judged": bool(agreement),
    }


def sentences(history: SearchHistory, board: Leaderboard) -> tuple[str, ...]:
    """Return plain sentences on how a search went: what it did, and what that was worth."""
    return {"prune": _prune_sentences, "evolve": _evolve_sentences, "race": _race_sentences}.get(
        history.strategy, _sample_sentences
    )(history, board)


def warnings(history: SearchHistory | None) -> tuple[str, ...]:
    """Return sentences on what a search decided without any reason."""
    blind = [] if history is None else blind_cells(history)
    return tuple(
        f"No choice in the {cell} cell was made by a score: all removals changed the scores alike, in all rounds. It "
        "may not occur in the scored network. What is left of it is the order of names, not a finding."
        for cell in blind
    )


def blind_cells(history: SearchHistory) -> tuple[str, ...]:
    """Return the cell types whose every choice was a tie."""
    decided: dict[str, bool] = {}
    for closed in history.rounds:
        for choice in closed.choices:
            decided[choice.cell] = decided.get(choice.cell, False) or not tied(closed, choice)
    return tuple(cell for cell, by_score in decided.items() if not by_score)


def agreement_of(closed: SearchRound) -> Agreement | None:
    """Return how far the halves of a round's draws choose alike, ties left out; None if there is nothing to compare."""
    choices = _judged(closed)
    if not choices:
        return None
    shares = tuple(choice.agreement for choice in choices if choice.agreement is not None)
    return Agreement(closed.number, shares, float(np.mean([choice.chance for choice in choices])))


def _judged(closed: SearchRound) -> list[Choice]:
    return [choice for choice in closed.choices if choice.agreement is not None and not tied(closed, choice)]


def _prune_sentences(history: SearchHistory, board: Leaderboard) -> tuple[str, ...]:
    pruned = [closed for closed in history.rounds if closed.removals]
    said = []
    if steps := _steps(history):
        first, last = (sum(1 for _ in genotype.operations()) for genotype in (steps[0].before, steps[-1].after))
        said.append(
            f"In {findings.number(len(pruned), 'round')} the supernet went from {first} operations to {last}; "
            f"{sum(closed.scored for closed in pruned)} removals were tried."
        )
    said += [_round_sentence(closed) for closed in pruned]
    compared = findings.scored(board)
    if history.winner and board.standings and board.best.mean is not None and len(compared) > 1:
        as_good = sum(standing.rank <= board.best.rank for standing in compared)
        others = findings.number(len(compared) - 1, "random candidate")
        said.append(
            f"Beside {others} the one that is left is {findings.ordinal(board.best.rank)} of {len(compared)}: picked "
            f"blindly, one would do as well in {as_good} of {len(compared)} cases."
        )
    return tuple(said)


def _round_sentence(closed: SearchRound) -> str:
    if all(choice.agreement is None for choice in closed.choices):
        return f"Round {closed.number}: each candidate was drawn once: nothing can be said about how sure it is."
    ties = sum(tied(closed, choice) for choice in closed.choices)
    equal = f"{findings.number(ties, 'tie')} decided by the order of names"
    found = agreement_of(closed)
    if found is None:
        return f"Round {closed.number}: {equal}."
    sure = sum(share > 0.5 for share in found.shares)
    several = "choice" if len(found.shares) == 1 else "choices"
    options = {choice.options for choice in _judged(closed)}
    chance = f"1 in {options.pop()}" if len(options) == 1 else f"{fixed(100 * found.chance, 0)} %"
    return (
        f"In round {closed.number}, {sure} of {len(found.shares)} {several} would be made by both halves of the draws "
        f"in more than half of all splits ({fixed(100 * found.mean, 0)} % on average; chance is {chance}): "
        f"{_verdict(closed, found)}" + (f"; {equal}." if ties else ".")
    )


def _verdict(closed: SearchRound, found: Agreement) -> str:
    """Return whether halves agree clearly more often than by chance: by two standard errors of single splits."""
    chances = np.array([choice.chance for choice in _judged(closed)])
    error = float(np.sqrt((chances * (1 - chances)).sum())) / len(chances)
    return "more than chance" if found.mean > found.chance + 2 * error else "not clearly more than chance"


def _evolve_sentences(history: SearchHistory, board: Leaderboard) -> tuple[str, ...]:
    rounds = history.rounds
    total = sum(closed.scored for closed in rounds)
    said = [
        f"{rounds[0].scored} random candidates were followed by {findings.number(len(rounds) - 1, 'generation')} of "
        f"children, {total} candidates in all."
    ]
    best = _curve(history, "best")
    if not board.criterion.single:
        return (
            *said,
            "Candidates are ordered by mean ranks among all so far, which change with every new one: there is no "
            "curve to draw over generations.",
        )
    if len(best) > 1:
        found = next(generation for generation, value in enumerate(best) if value == best[-1])
        where = f"generation {found}" if found else "the first population"
        said.append(
            f"The best of the first population scores {significant(best[0])}, the best of all "
            f"{significant(best[-1])} (found in {where}; {board.direction} is better). The best of many noisy means "
            "looks better than it is, the more so the more candidates there are; reliability says how much is noise."
        )
    return tuple(said)


def _race_sentences(history: SearchHistory, board: Leaderboard) -> tuple[str, ...]:
    measures = dict(history.rounds[-1].measures)
    spent, saved = measures.get("draws spent"), measures.get("draws saved")
    first, last = history.rounds[0], history.rounds[-1]
    said = [
        f"All {first.scored} candidates had {findings.number(first.draws, 'draw')}; only those that might still be the "
        f"best had more, {findings.number(last.scored, 'candidate')} up to {last.draws}."
    ]
    if spent is not None and saved is not None:
        everyone = spent + saved
        share = f" ({fixed(100 * saved / everyone, 0)} % saved)" if everyone else ""
        said.append(f"The race took {spent:.0f} draws instead of {everyone:.0f}{share}.")
    return tuple(said)


def _sample_sentences(history: SearchHistory, board: Leaderboard) -> tuple[str, ...]:
    known = [(closed.draws, closed.reliability[-1][1].icc) for closed in history.rounds if closed.reliability]
    if len(known) < 2:
        return ()
    listed = ", ".join(f"{fixed(icc, 2)} with {draws}" for draws, icc in known)
    return (f"Draws were added until the ranking was reliable enough or the most were made. Reliability: {listed}.",)


def _curve(history: SearchHistory, name: str) -> list[float]:
    values = [dict(closed.measures).get(name) for closed in history.rounds]
    return [value for value in values if value is not None]


def _reliabilities(
    history: SearchHistory, criterion: Criterion
) -> list[tuple[str, list[tuple[int, int, Reliability]]]]:
    """Return the reliabilities by criterion; of a pruning search those of changes, not of the last comparison."""
    series: dict[str, list[tuple[int, int, Reliability]]] = {}
    for closed in history.rounds:
        if history.strategy == "prune" and not _prunes(closed):
            continue
        for name, value in closed.reliability:
            series.setdefault(_criterion_name(name, criterion), []).append((closed.number, closed.draws, value))
    return list(series.items()) if sum(map(len, series.values())) > 1 else []


def _prunes(closed: SearchRound) -> bool:
    """Return whether a round compares removals, also if it was repeated with more draws before it removed anything."""
    return closed.before is not None


def _criterion_name(name: str, criterion: Criterion) -> str:
    if name in SCORES:
        return SCORES[name].label
    return SCORES[criterion.names[0]].label if criterion.single else ALL_SCORES


class _Step(NamedTuple):
    """A round that took something away, from what it took it, and what it left."""

    closed: SearchRound
    before: Genotype
    after: Genotype


def _steps(history: SearchHistory) -> list[_Step]:
    return [_Step(closed, closed.before, closed.after) for closed in history.rounds if closed.before and closed.after]


def _panels(steps: Sequence[_Step]) -> list[tuple[str, list[Panel]]]:
    """Return for each cell type its drawings in the rounds that took something from it, and what is left."""
    if not steps:
        return []
    whole, left = steps[0].before, steps[-1].after
    found = []
    for cell in cell_names(whole):
        panels = []
        for closed, before, after in steps:
            gone = removed(before, after, cell)
            if gone:
                title = f"Round {closed.number}"
                name = f"round-{closed.number}-{cell}"
                svg = draw_round(whole, before, after, cell, name=name, title=title)
                counts = f"{_size(before, cell)} → {_size(after, cell)} operations"
                panels.append(Panel(title, counts, Markup(svg), grouped(gone)))  # noqa: S704
        svg = draw_round(whole, left, None, cell, name=f"round-left-{cell}", title="What is left")
        panels.append(Panel("What is left", f"{_size(left, cell)} operations", Markup(svg), ()))  # noqa: S704
        found.append((cell, panels))
    return found


def _size(genotype: Genotype, cell: str) -> int:
    return sum(edge.cell == cell for edge, _ in genotype.operations())


def _when(steps: Sequence[_Step]) -> list[dict[str, object]]:
    """Return a table for each cell type: by edge and operation the round in which it went, and how sure that was."""
    if not steps:
        return []
    whole, last = steps[0].before, steps[-1].closed.number
    tables = []
    for cell in cell_names(whole):
        gone: dict[tuple[int, int, str], tuple[int, str]] = {}
        for closed, before, after in steps:
            for source, target, operation in removed(before, after, cell):
                gone[source, target, operation] = closed.number, _how_sure(closed, cell, source, target)
        edges = [edge for edge in whole.edges if edge.cell == cell]
        operations = list(dict.fromkeys(operation for edge in edges for operation in edge.operations))
        rows = []
        for edge in edges:
            row: list[dict[str, object]] = []
            for operation in operations:
                number, sure = gone.get((edge.source, edge.target, operation), (None, ""))
                row.append(
                    {
                        "there": operation in edge.operations,
                        "round": number,
                        "shade": round(65 * (1 - (number - 1) / last)) if number else 0,
                        "sure": sure,
                    }
                )
            rows.append((f"{edge.source} → {edge.target}", row))
        tables.append({"cell": cell, "operations": [operation_name(name) for name in operations], "rows": rows})
    return tables


def _how_sure(closed: SearchRound, cell: str, source: int, target: int) -> str:
    for choice in closed.choices:
        if (choice.cell, choice.target) == (cell, target) and choice.source in (None, source):
            if tied(closed, choice):
                return "tie"
            return "" if choice.agreement is None else f"{fixed(100 * choice.agreement, 0)} %"
    return ""


def _table(history: SearchHistory, criterion: Criterion) -> dict[str, list]:
    """Return the rounds as a table."""
    names = list(
        dict.fromkeys(_criterion_name(name, criterion) for closed in history.rounds for name, _ in closed.reliability)
    )
    distinct = [_criterion_name(name, criterion) for name, _ in history.rounds[0].distinct]
    # The numbers of decided candidates appear in the last round of a pruning search only, and in the leaderboard.
    left_out = ("reliability", "agreement", *(("best", "mean") if history.strategy == "prune" else ()))
    taken = [
        name
        for name in dict.fromkeys(name for closed in history.rounds for name, _ in closed.measures)
        if not name.startswith(left_out)
    ]
    decides = any(closed.choices for closed in history.rounds)
    ties = any(tied(closed, choice) for closed in history.rounds for choice in closed.choices)
    headings = ["round", "", "scored", "draws", "failed", *taken, *(f"reliability: {name}" for name in names)]
    headings += [f"distinct values: {' · '.join(distinct)}"] if distinct else []
    headings += [*(["ties"] if ties else []), "halves agree", "chance"] if decides else []
    rows = []
    for closed in history.rounds:
        measures = dict(closed.measures)
        trusted = {_criterion_name(name, criterion): value for name, value in closed.reliability}
        row = [str(closed.number), closed.title, str(closed.scored), str(closed.draws), str(closed.failed)]
        row += [_plain(measures.get(name)) for name in taken]
        row += [_interval(trusted.get(name)) for name in names]
        row += [" · ".join(str(many) for _, many in closed.distinct) or "–"] if distinct else []
        if decides:
            found = agreement_of(closed)
            shares = (found.mean, found.chance) if found else (None, None)
            if ties:
                row += [str(sum(tied(closed, choice) for choice in closed.choices)) if closed.choices else "–"]
            row += ["–" if share is None else f"{fixed(100 * share, 0)} %" for share in shares]
        rows.append(row)
    return {"headings": headings, "rows": rows}


def _plain(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value == int(value) else significant(value)


def _interval(found: Reliability | None) -> str:
    if found is None:
        return "–"
    return f"{fixed(found.icc, 2)} [{fixed(found.low, 2)}, {fixed(found.high, 2)}]"


def _candidates(closed: SearchRound) -> dict[str, object]:
    """Return the candidates of a pruning round as a table, in order of the decision: best removal first."""
    names = list(dict.fromkeys(name for removal in closed.removals for name, _ in removal.changes))
    return {
        "number": closed.number,
        "title": closed.title,
        "names": [SCORES[name].label if name in SCORES else name for name in names],
        "rows": [_removal(removal, names) for removal in sorted(closed.removals, key=lambda removal: removal.total)],
    }


def _removal(removal: Removal, names: Iterable[str]) -> dict[str, object]:
    changes, errors, ranks = dict(removal.changes), dict(removal.standard_errors), dict(removal.ranks)
    return {
        "cell": removal.cell,
        "edge": f"{removal.source} → {removal.target}",
        "operation": operation_name(removal.operation),
        "values": [(with_error(changes[name], errors[name]), _plain(ranks[name])) for name in names],
        "total": _plain(removal.total),
        "removed": removal.removed,
        "reason": removal.reason,
    }
