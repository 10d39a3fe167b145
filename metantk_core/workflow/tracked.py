"""What a tracker shows: a search, its leaderboard, training and evaluation enter; tables and metrics leave."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from metantk_core.config import RunConfig
from metantk_core.meta_training import ClassAnswers, Evaluation, TrainedModel, Validation
from metantk_core.ports import MetricPoint
from metantk_core.ranking import Leaderboard
from metantk_core.search import SearchRound
from metantk_core.workflow.limits import num_rounds
from metantk_core.workflow.runs import Ports

if TYPE_CHECKING:
    from metantk_core.report.findings import Difference


def track_search(config: RunConfig, ports: Ports) -> None:
    """Open the run of a search below the pipeline's and note what it was asked to do."""
    ports.tracker.log_parameters(
        search_run(config, ports),
        {
            "strategy": config.search.strategy,
            "space": config.search.space,
            "criterion": config.criterion.label,
            "rounds at most": num_rounds(config),
        },
    )


def watched_search(config: RunConfig, ports: Ports, part: str = "") -> AbstractContextManager[object]:
    """Note what this machine does while it searches, in the run of the search.

    Args:
        config: The run.
        ports: Ports of the step.
        part: Names this machine among those that score side by side.
    """
    return ports.tracker.watched(search_run(config, ports), part)


def track_round(config: RunConfig, ports: Ports, closed: SearchRound) -> None:
    """Note what a round found."""
    ports.tracker.log_metrics(search_run(config, ports), round_metrics(closed))


def track_ranking(config: RunConfig, ports: Ports, rounds: Sequence[SearchRound], leaderboard: Leaderboard) -> None:
    """Note the rounds of a search that has ended and its leaderboard, and close its run."""
    run = search_run(config, ports, leaderboard.devices)
    ports.tracker.log_table(run, round_columns(rounds), "rounds.json")
    if any(closed.removals for closed in rounds):
        ports.tracker.log_table(run, removal_columns(rounds), "prunings.json")
    ports.tracker.log_table(ports.run, leaderboard_columns(leaderboard), "leaderboard.json")
    ports.tracker.log_metrics(ports.run, ranking_metrics(leaderboard))
    ports.tracker.close_run(run, "finished")


def leaderboard_columns(leaderboard: Leaderboard) -> dict[str, list[str | int | float | None]]:
    """Return the leaderboard as columns of equal length, one row a candidate, best first."""
    names = sorted({name for standing in leaderboard.standings for name, _ in standing.others})
    columns: dict[str, list[str | int | float | None]] = {
        "rank": [standing.rank for standing in leaderboard.standings],
        "genotype": [standing.genotype for standing in leaderboard.standings],
        leaderboard.label: [standing.mean for standing in leaderboard.standings],
        "standard error": [standing.standard_error for standing in leaderboard.standings],
        "draws": [standing.draws for standing in leaderboard.standings],
        "outcome": [
            f"{standing.outcome}{': ' if standing.reason else ''}{standing.reason}"
            for standing in leaderboard.standings
        ],
    }
    for name in names:
        columns[name] = [dict(standing.others).get(name) for standing in leaderboard.standings]
    return columns


def round_columns(rounds: Sequence[SearchRound]) -> dict[str, list[str | int | float | None]]:
    """Return the rounds of a search as columns of equal length, one row a round."""
    names = list(dict.fromkeys(name for closed in rounds for name, _ in closed.measures))
    columns: dict[str, list[str | int | float | None]] = {
        "round": [closed.number for closed in rounds],
        "title": [closed.title for closed in rounds],
        "scored": [closed.scored for closed in rounds],
        "draws": [closed.draws for closed in rounds],
        "failed": [closed.failed for closed in rounds],
    }
    for name in names:
        columns[name] = [dict(closed.measures).get(name) for closed in rounds]
    return columns


def removal_columns(rounds: Sequence[SearchRound]) -> dict[str, list[str | int | float | None]]:
    """Return all candidates of all pruning rounds as columns of equal length, one row a candidate."""
    rows = [(closed, removal) for closed in rounds for removal in closed.removals]
    names = list(dict.fromkeys(name for _, removal in rows for name, _ in removal.changes))
    columns: dict[str, list[str | int | float | None]] = {
        "round": [closed.number for closed, _ in rows],
        "cell": [removal.cell for _, removal in rows],
        "edge": [f"{removal.source}-{removal.target}" for _, removal in rows],
        "operation": [removal.operation for _, removal in rows],
        "removed": [str(removal.removed).lower() for _, removal in rows],
        "rank sum": [removal.total for _, removal in rows],
        "reason": [removal.reason for _, removal in rows],
    }
    for name in names:
        columns[f"change of {name}"] = [dict(removal.changes)[name] for _, removal in rows]
        columns[f"standard error of {name}"] = [dict(removal.standard_errors)[name] for _, removal in rows]
        columns[f"rank by {name}"] = [dict(removal.ranks)[name] for _, removal in rows]
    return columns


def round_metrics(closed: SearchRound) -> list[MetricPoint]:
    """Return a round as points of curves over rounds."""
    numbers = [("scored", closed.scored), ("draws", closed.draws), ("failed", closed.failed), *closed.measures]
    return [MetricPoint(f"search/{name}", float(value), closed.number) for name, value in numbers]


def ranking_metrics(leaderboard: Leaderboard) -> list[MetricPoint]:
    """Return what a ranking says about itself as metrics: its size, its failures and how far it can be trusted."""
    failed = sum(standing.mean is None for standing in leaderboard.standings)
    values: dict[str, float | None] = {
        "rank/candidates": len(leaderboard.standings),
        "rank/failed": failed,
        "rank/reliability": leaderboard.reliability.icc if leaderboard.reliability else None,
        "rank/leader stability": leaderboard.leader_stability,
        "rank/best": leaderboard.best.mean,
        "rank/place of the winner": leaderboard.best.rank,
    }
    values |= {f"rank/stability of the best {size}": share for size, share in leaderboard.top_stability}
    return [MetricPoint(name, float(value), 0) for name, value in values.items() if value is not None]


def training_metrics(model: TrainedModel) -> list[MetricPoint]:
    """Return the validation accuracy of a network's kept weights, and the iteration that they are from."""
    return [
        metric
        for point in model.history  # empty if training diverged before the first validation
        if point.iteration == model.best_iteration
        for metric in (
            MetricPoint("train/best validation accuracy", point.validation_accuracy, 0),
            MetricPoint("train/best iteration", point.iteration, 0),
        )
    ]


def learning_metrics(point: Validation) -> list[MetricPoint]:
    """Return a validation during training as points of curves over iterations."""
    return [
        MetricPoint("train/loss", point.train_loss, point.iteration),
        MetricPoint("train/accuracy", point.train_accuracy, point.iteration),
        MetricPoint("val/accuracy", point.validation_accuracy, point.iteration),
        *([MetricPoint("train/epoch", point.epoch, point.iteration)] if point.epoch is not None else []),
    ]


def accuracy_metrics(evaluation: Evaluation, role: str = "") -> list[MetricPoint]:
    """Return the accuracy on test classes and the half width of its 95 % interval, named after a role if given."""
    named = f" {role}" if role else ""
    return [
        MetricPoint(f"eval/accuracy{named}", evaluation.accuracy),
        MetricPoint(f"eval/half width 95{named}", evaluation.half_width),
        MetricPoint(f"eval/worst decile accuracy{named}", evaluation.worst_decile),
        *(
            MetricPoint(f"eval/accuracy{named} {other.shots}-shot {other.classifier}", other.accuracy)
            for other in evaluation.others
        ),
    ]


def difference_metrics(differences: "Mapping[str, Difference]") -> list[MetricPoint]:
    """Return by how much the search's choice is more accurate than each other network, with interval and p-value.

    Args:
        differences: Paired differences by what the other networks are called.
    """
    return [
        point
        for name, found in differences.items()
        for point in (
            MetricPoint(f"eval/best minus {name}", found.mean),
            MetricPoint(f"eval/half width 95 best minus {name}", found.half_width),
            MetricPoint(f"eval/p-value best minus {name}", found.p_value),
        )
    ]


def class_columns(answers: ClassAnswers) -> dict[str, list[str | int | float | None]]:
    """Return the accuracies of test classes as columns of equal length, one row a class, the hardest first."""
    found = sorted(answers.classes(), key=lambda one: (one.accuracy, one.name))
    return {
        "class": [one.name for one in found],
        "accuracy": [one.accuracy for one in found],
        "half width 95": [one.half_width for one in found],
        "episodes": [one.episodes for one in found],
        "queries": [one.queries for one in found],
    }


def confusion_columns(answers: ClassAnswers) -> dict[str, list[str | int | float | None]]:
    """Return all confused pairs of test classes as columns of equal length, one row a pair, the most confused first."""
    found = answers.confusions()
    return {
        "class": [pair.name for pair in found],
        "taken for": [pair.taken_for for pair in found],
        "queries": [pair.count for pair in found],
        "share": [pair.share for pair in found],
        "episodes with both": [pair.episodes for pair in found],
    }


def search_run(config: RunConfig, ports: Ports, devices: Sequence[str] = ()) -> str:
    """Return the run of a search, below the pipeline's, opened if it is not there yet."""
    described = f"Strategy `{config.search.strategy}` on `{config.search.space}`, by {config.criterion.label}."
    # Not the device of the step that asks, which may be one that computes nothing.
    scored_on = {"metantk.device": ", ".join(devices)} if devices else {}
    return ports.tracker.open_run(
        f"{ports.run}/search",
        "search",
        parent=ports.run,
        description=described,
        tags={"metantk.step": "search", **scored_on},
    )
