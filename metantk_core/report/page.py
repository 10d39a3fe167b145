"""The report as a file: ``ReportData`` enters, one self-contained HTML file leaves."""

import base64
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from markupsafe import Markup, escape
from PIL import Image

from metantk_core.architectures import format_architecture
from metantk_core.candidates import Genotype, parse_genotype
from metantk_core.episodes import Episode
from metantk_core.files import write_atomically
from metantk_core.meta_training import LEAST_EPISODES, Evaluation, Validation, accuracies
from metantk_core.ranking import Leaderboard, Standing, is_role
from metantk_core.report import charts, findings
from metantk_core.report.cells import NONE, cell_names, draw_cell_svg
from metantk_core.report.charts import Curve
from metantk_core.report.class_table import ClassTable, class_table
from metantk_core.report.data import CandidateKernel, ReportData, TrainedCandidate
from metantk_core.report.formatting import (
    count,
    fixed,
    percent,
    percent_with_interval,
    points_with_interval,
    significant,
    with_error,
)
from metantk_core.report.rounds import how_it_went, warnings
from metantk_core.report.templates import environment, style
from metantk_core.scores import SCORES
from metantk_core.search import pareto_front
from metantk_core.statistics import crossed_half_width

_TOP, _MOST_ROWS, _MOST_FAILED, _MOST_FRONT = 20, 1000, 50, 30
_MOST_PIXELS, _MOST_QUERIES, _MOST_EPISODES = 56, 6, 3


def write_report(data: ReportData, path: Path) -> None:
    """Write the report; the file is there as a whole or not at all.

    Args:
        data: What to show. Equal data give equal bytes.
        path: The HTML file.
    """
    write_atomically(path, render(data).encode(), durable=False)


def render(data: ReportData) -> str:
    """Return the report as HTML: no script, nothing loaded from elsewhere, all texts of people escaped."""
    pages = environment("metantk_core.report")
    pages.filters["breakable"] = _breakable
    board = data.leaderboard
    scored, failed = findings.scored(board), findings.failed(board)
    return pages.get_template("template.html.j2").render(
        data=data,
        style=style(),
        better=_better(board),
        summary=_summary(data),
        trust=(*warnings(data.history), *findings.trust_sentences(board)),
        leads=findings.leads(board),
        draws=findings.different_draws(board),
        scored=len(scored),
        failed=len(failed),
        headings=[SCORES[name].scaled_label if name in SCORES else name for name in _columns(board)],
        top=[_row(board, standing, data.trained) for standing in scored[:_TOP]],
        below=_below(board, scored, data.trained),
        rest=[_row(board, standing, data.trained) for standing in scored[_TOP:_MOST_ROWS]]
        if len(scored) > _TOP + 1
        else [],
        left_out=max(0, len(scored) - _MOST_ROWS),
        failed_rows=[(standing.genotype, str(standing.outcome), standing.reason) for standing in failed[:_MOST_FAILED]],
        failed_left_out=max(0, len(failed) - _MOST_FAILED),
        failed_reasons=Counter(standing.reason or str(standing.outcome) for standing in failed).most_common(8),
        went=how_it_went(data.history, board),
        score_charts=_score_charts(data),
        front=_smallest(board),
        kernels=_kernels(data.kernels),
        cells=_cells(data),
        episodes=[_episode(episode) for episode in data.episodes[:_MOST_EPISODES]],
        learning=_learning(data.trained),
        accuracy=_accuracy(data.trained),
        test_classes=_test_classes(data.trained),
        least_episodes=LEAST_EPISODES,
        seeds=max((len(candidate.iterations) for candidate in data.trained), default=0),
        glossary=_glossary(board),
        configuration=_pretty(data.configuration),
    )


def _summary(data: ReportData) -> dict[str, object]:
    """Return the numbers and sentences at the top."""
    evaluated = [(trained.role, trained.evaluation) for trained in data.trained if trained.evaluation is not None]
    chance = findings.chance([evaluation for _, evaluation in evaluated])
    board = data.leaderboard
    winner = board.best if findings.scored(board) else None
    return {
        "winner": winner.genotype if winner else None,
        "score": with_error(winner.mean, winner.standard_error) if winner and winner.mean is not None else None,
        "tied": sum(standing.rank == winner.rank for standing in board.standings) - 1 if winner else 0,
        "place": findings.place_sentence(board) if winner and not findings.leads(board) else None,
        "accuracies": [
            (role, *percent_with_interval(evaluation.accuracy, evaluation.half_width).partition(" ")[::2])
            for role, evaluation in evaluated
        ],
        "problems": [(trained.role, trained.problem) for trained in data.trained if trained.problem],
        "chance": percent(chance) if chance else None,
        "chart": Markup(  # noqa: S704 - an SVG of ours, its texts escaped by matplotlib
            charts.accuracy_dots(
                [(role, float(e.accuracy), float(e.half_width)) for role, e in evaluated],
                chance=chance,
                trainings={role: accuracies(e).mean(axis=1) for role, e in evaluated if e.trainings},
            )
        )
        if evaluated and chance
        else None,
        "comparisons": findings.candidate_sentences(dict(evaluated)),
        "yardsticks": findings.yardstick_sentences(
            dict(evaluated),
            {trained.role: trained.costs for trained in data.trained if trained.costs is not None},
            [role for role, _ in evaluated if not is_role(role)],
            [trained.role for trained in data.trained if trained.own_settings],
        ),
        "published": findings.published_sentences(dict(evaluated)),
        "protocol": _protocol(evaluated[0][1]) if evaluated else None,
    }


def _row(board: Leaderboard, standing: Standing, trained: Sequence[TrainedCandidate]) -> dict[str, object]:
    others = dict(standing.others)
    chosen = standing.genotype == board.winner and not findings.leads(board)
    return {
        "rank": standing.rank,
        "genotype": standing.genotype,
        "score": with_error(standing.mean, standing.standard_error),
        "draws": standing.draws,
        "others": [_other(name, others.get(name)) for name in _columns(board)],
        "chosen": chosen,
        "roles": [candidate.role for candidate in trained if str(candidate.architecture) == standing.genotype],
    }


def _below(
    board: Leaderboard, scored: Sequence[Standing], trained: Sequence[TrainedCandidate]
) -> list[tuple[int, dict[str, object]]]:
    """Return the rows after the first ones that are shown in any case, each with the number left out before it."""
    last = _TOP - 1
    rows = []
    for index in range(_TOP, len(scored)):
        if index == len(scored) - 1 or scored[index].genotype == board.winner:
            rows.append((index - last - 1, _row(board, scored[index], trained)))
            last = index
    return rows


def _columns(board: Leaderboard) -> tuple[str, ...]:
    """Return the names of the other scores, counts last."""
    names = {name for standing in board.standings[:_TOP] for name, _ in standing.others} - {board.score}
    return tuple(sorted(names - {"params", "flops"})) + tuple(name for name in ("params", "flops") if name in names)


def _other(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return count(value) if name in ("params", "flops") else significant(value, 3)


def _score_charts(data: ReportData) -> list[tuple[str, Markup]]:
    board = data.leaderboard
    scored = findings.comparable(board)
    if not scored:
        return []
    label = f"{board.label} ({_better(board)})"
    means = np.array([standing.mean for standing in scored], dtype=np.float64)
    errors = np.array([np.nan if s.standard_error is None else s.standard_error for s in scored], dtype=np.float64)
    place = {standing.genotype: index for index, standing in enumerate(scored)}
    marked = [(t.role, place[str(t.architecture)]) for t in data.trained if str(t.architecture) in place]
    if not marked and board.winner in place:
        marked = [("best", place[board.winner])]
    made = [
        (
            "How the scores are distributed",
            charts.score_histogram(
                means,
                [(role, float(means[index])) for role, index in marked],
                label=label,
                failed=len(findings.failed(board)),
            ),
        ),
        (
            "Scores in order of rank, ± one standard error over the draws",
            charts.score_strip(means, errors, marked, label=label),
        ),
    ]
    for name, words in (("params", "parameters"), ("flops", "multiply-accumulates (MACs)")):
        # A candidate without the count is left out of both coordinates.
        values = np.array([dict(standing.others).get(name, np.nan) for standing in scored], dtype=np.float64)
        known = np.flatnonzero(np.isfinite(values))
        if len(known):
            moved = {int(old): new for new, old in enumerate(known)}
            shown = [(role, moved[index]) for role, index in marked if index in moved]
            front = _front(board, values[known], means[known])
            svg = charts.scatter(
                values[known], means[known], shown, x_label=words, label=label, name=f"scatter-{name}", front=front
            )
            made.append((f"Score against {words}", svg))
    return [(title, Markup(svg)) for title, svg in made]  # noqa: S704


def _front(board: Leaderboard, counts: Float[np.ndarray, " n"], means: Float[np.ndarray, " n"]) -> tuple[int, ...]:
    """Return the positions of the candidates that no other one beats in size and score."""
    losses = -means if board.direction == "higher" else means
    return pareto_front([(float(size), float(loss)) for size, loss in zip(counts, losses, strict=True)])


def _smallest(board: Leaderboard) -> dict[str, object] | None:
    """Return the candidates on the Pareto front of score and parameters, the smallest first; equal ones in one row."""
    sized = [(dict(standing.others).get("params"), standing) for standing in findings.comparable(board)]
    known = [(size, standing.mean, standing) for size, standing in sized if size is not None]
    if len(known) < 2:
        return None
    sizes, means = (np.array([row[column] for row in known], dtype=np.float64) for column in (0, 1))
    groups: dict[tuple[float, float], list[Standing]] = {}
    for index in _front(board, sizes, means):
        groups.setdefault((float(sizes[index]), float(means[index])), []).append(known[index][2])
    rows = [
        {
            "size": count(size),
            "score": with_error(group[0].mean, group[0].standard_error),
            "rank": group[0].rank,
            "genotype": group[0].genotype,
            "more": len(group) - 1,
        }
        for (size, _), group in groups.items()
    ]
    return {"rows": rows[:_MOST_FRONT], "left_out": max(0, len(rows) - _MOST_FRONT), "of": len(known)}


def _kernels(kernels: Sequence[CandidateKernel]) -> dict[str, object] | None:
    if not kernels:
        return None
    limit = charts.kernel_limit([kernel.meta_ntk for kernel in kernels])
    first = kernels[0]
    maps = []
    for kernel in kernels:
        svg = charts.kernel_heat_map(
            np.asarray(kernel.meta_ntk),
            tasks=len(kernel.classes),
            ways=len(kernel.classes[0]),
            limit=limit,
            role=kernel.role,
        )
        scale = float(np.trace(kernel.meta_ntk)) / len(kernel.meta_ntk)
        maps.append((kernel.role, str(kernel.genotype), significant(scale, 3), Markup(svg)))  # noqa: S704
    return {
        "maps": maps,
        "spectrum": Markup(charts.spectrum([(kernel.role, kernel.meta_ntk) for kernel in kernels])),  # noqa: S704
        "tasks": first.classes,
        "rows": len(first.meta_ntk),
    }


def _cells(data: ReportData) -> list[tuple[str, str, Markup, bool]]:
    """Return role, cell type, drawing and whether something may be faint, for the best and the worst candidate."""
    wanted: dict[str, Genotype] = {}
    cells = [(trained.role, trained.architecture) for trained in data.trained]
    for role, architecture in (*cells, *((kernel.role, kernel.genotype) for kernel in data.kernels)):
        if isinstance(architecture, Genotype) and (role in ("best", "worst") or not wanted):
            wanted.setdefault(role, architecture)
    if not wanted and findings.scored(data.leaderboard):
        wanted["best"] = parse_genotype(data.leaderboard.space, data.leaderboard.winner)
    drawings = []
    for place, (role, genotype) in enumerate(sorted(wanted.items())):
        for cell in cell_names(genotype):
            svg = draw_cell_svg(genotype, cell, name=f"cell-{place}-{cell}", standalone=False)
            drawings.append((role, cell, Markup(svg), any(NONE in edge.operations for edge in genotype.edges)))  # noqa: S704
    return drawings


def _learning(trained: Sequence[TrainedCandidate]) -> list[tuple[str, Markup]]:
    curves = [_curve(candidate) for candidate in trained if candidate.history]
    ways = findings.chance([candidate.evaluation for candidate in trained if candidate.evaluation is not None])
    if not curves:
        return []
    return [(title, Markup(svg)) for title, svg in charts.learning_curves(curves, chance=ways)]  # noqa: S704


def _curve(candidate: TrainedCandidate) -> Curve:
    epochs = all(point.epoch is not None for point in candidate.history)
    unit = "epoch" if epochs else "iteration"

    def column(name: str, history: Sequence[Validation] = candidate.history) -> Float[np.ndarray, " v"]:
        values = [getattr(point, name) for point in history]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    chosen = next((p for p in candidate.history if p.iteration == candidate.best_iteration), None)
    return Curve(
        role=candidate.role,
        iterations=column(unit),
        train_loss=column("train_loss"),
        train_accuracy=column("train_accuracy"),
        validation_accuracy=column("validation_accuracy"),
        validation_half_width=column("validation_half_width"),
        chosen=chosen.epoch if chosen is not None and chosen.epoch is not None else candidate.best_iteration,
        unit=unit,
        training=candidate.training,
        others=tuple(
            (column(unit, history), column("train_loss", history), column("validation_accuracy", history))
            for history in candidate.other_histories
        ),
    )


def _accuracy(trained: Sequence[TrainedCandidate]) -> list[dict[str, object]]:
    """Return the rows of the accuracy table, the first of them the reference of the paired differences."""
    evaluated = [candidate for candidate in trained if candidate.evaluation is not None]
    rows: list[dict[str, object]] = []
    for candidate in evaluated:
        evaluation, reference = candidate.evaluation, evaluated[0].evaluation
        assert evaluation is not None
        assert reference is not None
        difference = None if candidate is evaluated[0] else findings.paired_difference(reference, evaluation)
        rows.append(
            {
                "role": candidate.role,
                "genotype": format_architecture(candidate.architecture),
                "params": count(candidate.costs.params) if candidate.costs else None,
                "macs": count(candidate.costs.macs) if candidate.costs else None,
                "accuracy": percent_with_interval(evaluation.accuracy, evaluation.half_width),
                "worst": percent(evaluation.worst_decile),
                "chosen": ", ".join(map(str, candidate.iterations or (candidate.best_iteration,))),
                "difference": points_with_interval(difference.mean, difference.half_width) if difference else None,
                "apart": difference.clear if difference else None,
                "p_value": _p_value(difference.p_value) if difference else None,
                "reference": candidate is evaluated[0],
                "trainings": [
                    (f"seed {number}", percent_with_interval(float(one.mean()), crossed_half_width(one[None])))
                    for number, one in enumerate(accuracies(evaluation), 1)
                    if evaluation.trainings
                ],
                "others": [
                    (
                        f"{other.shots}-shot, {other.classifier.replace('_', ' ')}",
                        percent_with_interval(other.accuracy, other.half_width),
                    )
                    for other in evaluation.others
                ],
            }
        )
    return rows


def _test_classes(trained: Sequence[TrainedCandidate]) -> ClassTable | None:
    """Return how the test classes fared with the first network that was evaluated, which is the search's choice."""
    found = next((candidate for candidate in trained if candidate.evaluation is not None), None)
    if found is None or found.evaluation is None:
        return None
    return class_table(found.role, found.evaluation)


def _p_value(value: float) -> str:
    return "< 0.001" if value < 0.001 else fixed(value, 3)


def _protocol(evaluation: Evaluation) -> str:
    """Return in one sentence how accuracy was measured."""
    over = (
        "; of one training, with its seed, over episodes alone"
        if evaluation.trainings
        else ", of one training run each: it does not cover what another training seed would change"
    )
    kind = "transductive: queries of an episode share their moments" if evaluation.transductive else "not transductive"
    return (
        f"{evaluation.ways}-way {evaluation.shots}-shot, {evaluation.queries} query images a class, "
        f"{evaluation.episodes} episodes of the {evaluation.split} classes of {evaluation.dataset} drawn with seed "
        f"{evaluation.seed}; {_learner(evaluation)}; normalisation {evaluation.norm} ({kind}). ± is the "
        f"{evaluation.interval}{over}."
        f"{f' Computed on {evaluation.device}.' if evaluation.device else ''} "
        "docs/protocol.md says what each of these means."
    )


def _learner(evaluation: Evaluation) -> str:
    """Return by what the network was trained and how it answers."""
    if evaluation.inner_steps is not None and evaluation.classifier == "gradient_steps":
        steps = f"{evaluation.inner_steps} inner steps of size {evaluation.inner_learning_rate:g}"
        return f"{evaluation.algorithm.upper()}, {steps}"
    names = {"protonet": "ProtoNet", "rfs": "RFS"}
    copies = f" with {evaluation.augmented_copies} augmented copies of a support image"
    return (
        f"{names.get(evaluation.algorithm, evaluation.algorithm.upper())}, answers by "
        f"{evaluation.classifier.replace('_', ' ')}{copies if evaluation.augmented_copies else ''}"
    )


def _episode(episode: Episode) -> list[dict[str, object]]:
    """Return one row a class: its name, its support images and its first query images, as PNGs."""
    rows: list[dict[str, object]] = []
    for label, name in enumerate(episode.class_names):
        support = episode.support_pixels[episode.support_labels == label]
        query = episode.query_pixels[episode.query_labels == label]
        rows.append(
            {
                "name": name,
                "support": [_png(image.numpy()) for image in support[:_MOST_QUERIES]],
                "query": [_png(image.numpy()) for image in query[:_MOST_QUERIES]],
                "more": max(0, len(query) - _MOST_QUERIES),
            }
        )
    return rows


def _png(image: UInt8[np.ndarray, "c h w"]) -> str:
    """Return an image as a data URI, large ones as thumbnails."""
    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _glossary(board: Leaderboard) -> list[dict[str, str]]:
    entries = []
    if not board.criterion.single:
        meaning = (
            "Within each draw, candidates are ranked by each score, 1 for the best; the weighted sum of a candidate's "
            "ranks, divided by the number of candidates, is averaged over draws."
        )
        entries.append(
            {"name": board.score, "label": board.label, "meaning": meaning, "better": _better(board), "source": ""}
        )
    for name in dict.fromkeys((*board.criterion.names, *_columns(board))):
        definition = SCORES.get(name)
        entries.append(
            {
                "name": name,
                "label": definition.scaled_label if definition else name,
                "meaning": definition.meaning if definition else "",
                "better": f"{definition.direction} is better" if definition else "",
                "source": definition.source if definition else "",
            }
        )
    return entries


def _breakable(genotype: str) -> Markup:
    """Return a genotype's text, escaped, that may break after its bars (and is copied as it is)."""
    return Markup("|<wbr>").join(escape(part) for part in genotype.split("|"))


def _better(board: Leaderboard) -> str:
    return f"{board.direction} is better"


def _pretty(text: str) -> str:
    """Return JSON with indentation; anything else as it is."""
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except json.JSONDecodeError:
        return text
