"""What people see in the terminal: values enter, tables, progress and the next command leave."""

import shlex
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metantk_core import meta_training, upkeep, workflow
from metantk_core.adapters.addresses import scheme, shown
from metantk_core.adapters.progress import StepProgress, duration, read_notices, read_progress
from metantk_core.candidates import Costs
from metantk_core.config import RunConfig
from metantk_core.errors import STOPPED
from metantk_core.files import amount
from metantk_core.ports import RegisteredModel
from metantk_core.ranking import Leaderboard, Standing, is_role, training_of
from metantk_core.scores import SCORES, ScoreRecord
from metantk_core.search import SearchHistory, SearchRound, tied
from metantk_core.statistics import crossed_half_width, telling_half_width
from metantk_core.workspace import Workspace

if TYPE_CHECKING:
    from metantk_core.benchmarking import Outcome
    from metantk_core.reruns import Past

_SHOWN = 10
_FIRST_ROUNDS, _LAST_ROUNDS = 3, 12  # of a long search
_LINES = 12  # finished steps on the screen
_CALLS = {
    "close_run": "endings of runs",
    "find_run": "runs looked for",
    "log_dataset": "datasets",
    "log_file": "files",
    "log_metrics": "sets of metrics",
    "log_parameters": "sets of parameters",
    "log_table": "tables",
    "open_run": "runs opened",
    "register": "models",
    "tag_run": "sets of tags",
    "untag_run": "sets of tags taken away",
}
_LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal to redraw


def print_recipes(recipes: Mapping[str, RunConfig]) -> None:
    """Print the recipes, a line each."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "search space", "strategy", "candidates", "draws", "training"):
        table.add_column(heading, no_wrap=heading != "training")
    for name, config in recipes.items():
        learner = config.training.title.replace("MAML (first order)", "FOMAML")
        training = f"{learner}, {config.training.length.removesuffix(' iterations')}"
        table.add_row(
            name,
            config.search.space,
            config.search.strategy,
            str(config.search.num_candidates),
            str(config.scoring.num_inits),
            training,
        )
    Console().print(table)


def print_meanings(what: str, meanings: Mapping[str, str]) -> None:
    """Print names and what they mean, a line each."""
    table = Table(box=None, pad_edge=False)
    table.add_column(what, no_wrap=True)
    table.add_column("meaning")
    for name, meaning in meanings.items():
        table.add_row(Text(name), Text(meaning))
    Console().print(table)


def print_records(records: Sequence[ScoreRecord], console: Console | None = None) -> None:
    """Print the scores of one architecture: mean, standard error and every draw, or why there is none."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    for heading in ("mean", "± standard error", "draws"):
        table.add_column(heading, justify="right" if heading == "mean" else "left", overflow="fold")
    for record in records:
        definition = SCORES[record.score]
        values = [draw.value for draw in record.draws if draw.value is not None]
        if record.failure:
            table.add_row(definition.label, "-", "-", record.failure)
            continue
        scaled = np.log10(values) if definition.scale == "log10" else np.asarray(values)
        error = float(scaled.std(ddof=1) / np.sqrt(len(scaled))) if len(scaled) > 1 else None
        mean, spread = _measured(float(scaled.mean()), error)
        draws = [
            _number(float(value)) + ("*" if draw.precision == "float64" else "")
            for value, draw in zip(scaled, record.draws, strict=True)
        ]
        table.add_row(definition.label, mean, spread, "  ".join(draws))
    console.print(table)
    if any(draw.precision == "float64" and draw.value is not None for record in records for draw in record.draws):
        console.print("* computed in float64: in float32, rounding could have been more than 1 % of it")


def print_classified(found: "workflow.Classified", console: Console | None = None) -> None:
    """Print what each image was taken for, and how many answers are right where that is known."""
    console = console or Console()
    counts = ", ".join(f"{label} ({count})" for label, count in zip(found.labels, found.support, strict=True))
    console.print(f"Shown: {counts}", highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    table.add_column("next", overflow="fold")
    for number, answer in enumerate(found.answers):
        label, chance = max(
            ((label, chance) for label, chance in answer.probabilities.items() if label != answer.label),
            key=lambda other: other[1],
        )
        wrong = found.truth is not None and found.truth[number] != answer.label
        table.add_row(
            Text(answer.name),
            Text(answer.label + (" (wrong)" if wrong else "")),
            f"{100 * answer.probability:.1f} %",
            Text(f"{label} {100 * chance:.1f} %"),
        )
    console.print(table)
    if found.right is not None:
        share = 100 * found.right / len(found.answers)
        console.print(f"{found.right} of {len(found.answers)} are right ({share:.0f} %).", highlight=False)


def print_leaderboard(leaderboard: Leaderboard, console: Console | None = None) -> None:
    """Print the first ranks, the last one, and how far the ranking can be trusted."""
    # matplotlib comes with the package.
    from metantk_core.report.findings import different_draws, leads, trust_sentences

    console = console or Console()
    console.print(
        f"{len(leaderboard.standings)} candidates of {leaderboard.space} by {leaderboard.label}, "
        f"{leaderboard.direction} is better; mean ± standard error",
        soft_wrap=True,
        highlight=False,
    )
    scored = [standing for standing in leaderboard.standings if standing.mean is not None]
    many = different_draws(leaderboard) is not None
    heading = f"{'rank':>5}  {'score':<19}{'draws':>7}" if many else f"{'rank':>5}  {'score':<19}"
    console.print(f"{heading}{'parameters':>11}{'MACs':>11}  genotype", style="bold", highlight=False)
    chosen = "" if leads(leaderboard) else leaderboard.winner
    last = -1
    for place, standing in enumerate(scored):
        if place < _SHOWN or place == len(scored) - 1 or standing.genotype == chosen:
            if place > last + 1:
                console.print("    …")
            _print_standing(standing, console, draws=many, chosen=standing.genotype == chosen)
            last = place
    failed = leaderboard.standings[len(scored) :]
    if failed:
        console.print(
            f"{len(failed)} could not be scored, for example {failed[0].genotype}: "
            f"{failed[0].outcome}, {failed[0].reason}",
            soft_wrap=True,
            highlight=False,
        )
    for sentence in trust_sentences(leaderboard):
        console.print(f"• {sentence}", highlight=False)


def print_networks(
    leaderboard: Leaderboard, failures: Mapping[str, Mapping[str, str]], console: Console | None = None
) -> None:
    """Print a leaderboard of networks that people wrote: a row each, every score a column, why scores have no value.

    Args:
        leaderboard: The networks in order.
        failures: Reasons by network and score.
        console: Where; the terminal if none is given.
    """
    from metantk_core.report.findings import trust_sentences

    console = console or Console()
    names = [name for name, _ in leaderboard.standings[0].others]
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("network", overflow="fold")
    table.add_column(leaderboard.label, justify="right", overflow="fold")
    for name in names:
        table.add_column(SCORES[name].scaled_label if name in SCORES else name, justify="right", overflow="fold")
    for standing in leaderboard.standings:
        measured = "-"
        if standing.mean is not None:
            measured = " ".join(part for part in _measured(standing.mean, standing.standard_error) if part)
        values = dict(standing.others)
        others = ["-" if (value := values.get(name)) is None else _number(value) for name in names]
        table.add_row(str(standing.rank), standing.genotype, measured, *others)
    console.print(table)
    console.print(f"{leaderboard.direction.capitalize()} is better; mean ± standard error of {leaderboard.label}.")
    for sentence in trust_sentences(leaderboard):
        console.print(sentence, soft_wrap=True)
    for standing in leaderboard.standings:
        labels: dict[str, list[str]] = {}  # of scores that fail for one reason
        for name, reason in failures.get(standing.genotype, {}).items():
            labels.setdefault(reason, []).append(SCORES[name].label)
        for reason, failed in labels.items():
            console.print(f"{standing.genotype}: no {', '.join(failed)} ({reason})", soft_wrap=True, markup=False)


def print_history(history: SearchHistory, console: Console | None = None) -> None:
    """Print the rounds of a search, a line each; nothing for a search of one round."""
    if len(history.rounds) < 2:
        return
    from metantk_core.report.rounds import warnings  # matplotlib comes with the package

    console = console or Console()
    console.print("Rounds of the search: candidates × draws, and what came out", style="bold", highlight=False)
    numbers = len(str(len(history.rounds)))
    sizes = [f"{closed.scored} × {closed.draws}" for closed in history.rounds]
    # Titles in line where all are short; a long one takes its own room.
    width = min(18, max(len(closed.title) for closed in history.rounds))
    shown = [*range(_FIRST_ROUNDS), *range(len(history.rounds) - _LAST_ROUNDS, len(history.rounds))]
    for place, closed in enumerate(history.rounds):
        if len(history.rounds) > _FIRST_ROUNDS + _LAST_ROUNDS and place not in shown:
            if place == _FIRST_ROUNDS:
                console.print(f"{'…':>{numbers + 2}}  {len(history.rounds) - len(shown)} more", highlight=False)
            continue
        start = f"{closed.number:>{numbers + 2}}  {closed.title:<{width}}  {sizes[place]:<{max(map(len, sizes))}}"
        came_out = "; ".join(_round_parts(closed))
        if len(start) + 2 + len(came_out) <= console.width:
            console.print(f"{start}  {came_out}".rstrip(), highlight=False)
        else:
            console.print(start.rstrip(), highlight=False)
            console.print(f"{'':>{numbers + 4}}{came_out}", soft_wrap=True, highlight=False)
    for sentence in warnings(history):
        console.print(f"• {sentence}", highlight=False)
    console.print(f"found: {history.winner}", soft_wrap=True, highlight=False)
    console.print()


def print_training(role: str, model: "meta_training.TrainedModel") -> None:
    """Print the learning curve of a trained network and the weights that were kept."""
    network, _ = training_of(role)
    called = f"the {network} candidate{role.removeprefix(network)}" if is_role(network) else role
    table = Table(
        title=f"{model.protocol}; {called}: {model.genotype}",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    epochs = any(point.epoch is not None for point in model.history)
    for heading in (
        *(["epoch"] if epochs else []),
        "iteration",
        "training loss",
        "training accuracy",
        "validation accuracy",
    ):
        table.add_column(heading, justify="right")
    for point in model.history:
        kept = " ←" if point.iteration == model.best_iteration else "  "
        table.add_row(
            *([str(point.epoch)] if epochs else []),
            f"{point.iteration:,}",
            f"{point.train_loss:.3f}",
            f"{point.train_accuracy:.1%}",
            f"{point.validation_accuracy:.1%}{_interval(point.validation_half_width, 1, ' ± ')}{kept}",
        )
    console = Console()
    console.print(table)
    if model.reason:
        console.print(
            f"{model.outcome}: {model.reason}; the weights of iteration {model.best_iteration:,} are kept.",
            highlight=False,
        )


def print_evaluations(
    evaluations: Mapping[str, "meta_training.Evaluation"],
    costs: Mapping[str, Costs] | None = None,
    console: Console | None = None,
) -> None:
    """Print accuracies on test classes with their intervals, what each network costs, and the protocol.

    Args:
        evaluations: The accuracies, by what the networks are called.
        costs: Parameters and multiply-accumulates by the same names, if they are known.
        console: Where; the terminal if none is given.
    """
    from metantk_core.report import findings  # matplotlib comes with the package

    console = console or Console()
    table = Table(box=None, pad_edge=False)
    headings = ["network", "test accuracy", "95 % interval", "worst 10 %", *(("parameters", "MACs") if costs else ())]
    for heading in headings:
        table.add_column(heading, justify="right" if heading != "network" else "left")
    for role, evaluation in evaluations.items():
        row = [
            role,
            f"{evaluation.accuracy:.2%}",
            _interval(evaluation.half_width) or "–",
            f"{evaluation.worst_decile:.2%}",
        ]
        if costs:
            row += [_count(float(costs[role].params)), _count(float(costs[role].macs))]
        table.add_row(*row)
        for number, one in enumerate(meta_training.accuracies(evaluation), 1) if evaluation.trainings else ():
            half_width = crossed_half_width(one[None])
            table.add_row(f"  seed {number}", f"{one.mean():.2%}", _interval(half_width), style="dim")
        for other in evaluation.others:
            name = f"  {other.shots}-shot, {other.classifier.replace('_', ' ')}"
            table.add_row(name, f"{other.accuracy:.2%}", _interval(other.half_width), style="dim")
    console.print(table)
    first = next(iter(evaluations.values()))
    console.print(first.summary())
    # Names of classes are a person's, and no markup.
    for sentence in findings.class_sentences(first) if first.answers is not None else ():
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)
    for sentence in findings.published_sentences(evaluations):
        console.print(sentence, highlight=False)


def print_registered(registered: RegisteredModel) -> None:
    """Print which version of which model was registered."""
    model = f"{registered.uri}  (alias champion)" if registered.uri else "not registered yet, MLflow being away"
    Console().print(f"Model      {model}", soft_wrap=True, highlight=False)


def print_exported(exported: "workflow.Exported") -> None:
    """Print where a run was written to, and what to do with it."""
    console = Console()
    directory = _shown_path(str(exported.directory))
    console.print(f"{len(exported.files) + 1} files of {exported.run} in {directory}", highlight=False, soft_wrap=True)
    console.print(f"leaderboard digest {exported.digest}", highlight=False, soft_wrap=True)
    repeat = shlex.join(["metantk", "run", str(Path(directory, "config.json"))])
    console.print(f"Repeat it  {repeat}  (README.md says how)", highlight=False, markup=False, soft_wrap=True)


def print_result(result: "workflow.RunResult", place: Workspace, config: RunConfig) -> None:
    """Print all that a pipeline run found and where to look further."""
    from metantk_core.report import findings  # matplotlib comes with the package

    console = Console()
    console.print()
    print_history(result.history, console)
    print_leaderboard(result.leaderboard, console)
    console.print()
    print_evaluations(result.evaluations, result.costs, console)
    for sentence in findings.candidate_sentences(result.evaluations):
        console.print(sentence, soft_wrap=True, highlight=False)
    for sentence in findings.yardstick_sentences(
        result.evaluations, result.costs, config.yardsticks, config.yardstick_training
    ):
        console.print(sentence, soft_wrap=True, highlight=False)
    console.print()
    model = f"{result.model_uri}  (alias champion)" if result.model_uri else "not registered yet, MLflow being away"
    console.print(f"Model      {model}", soft_wrap=True, highlight=False)
    report = _shown_path(place.store().place(f"{config.run_id}/report.html"))
    console.print(f"Report     {report}", soft_wrap=True, highlight=False)
    print_next(place, config)


def print_counted(counted: Sequence[str], uncounted: Sequence[str]) -> None:
    """Print which parameters of somebody's network count."""

    def some(names: Sequence[str]) -> str:
        return ", ".join(names if len(names) <= 4 else (*names[:3], "…", names[-1]))

    lines = [f"Counted    {len(counted)} of {len(counted) + len(uncounted)} parameters: {some(counted)}"]
    if uncounted:
        lines.append(f"Left out   {some(uncounted)}")
    Console().print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def print_device(device: str) -> None:
    """Print where networks ran: numbers of one kind of device differ from those of another by rounding."""
    Console().print(f"Device     {device}", highlight=False)


def print_estimate(told: "workflow.Estimate", *, to_errors: bool = False) -> None:
    """Print what a run will take.

    Args:
        told: The estimate.
        to_errors: Whether the result of the command, on standard output, is for programs.
    """
    parts = {"scoring": told.search_hours, "training": told.training_hours, "evaluating": told.evaluation_hours}
    spent = ", ".join(f"{duration(3600 * hours)} {what}" for what, hours in parts.items())
    memory = f"{amount(told.memory)} a pod" + (
        f" and {amount(told.device_memory)} of its GPU" if told.device_memory else ""
    )
    alike: dict[workflow.NetworkEstimate, list[str]] = {}
    for name, one in told.networks.items():
        alike.setdefault(one, []).append(name)
    each = "; ".join(
        f"{', '.join(names)} {duration(3600 * one.training_hours)} + {duration(3600 * one.evaluation_hours)}"
        for one, names in alike.items()
    )
    console = Console(stderr=to_errors)
    for line in (
        f"Estimate   {told.candidates:,} candidates, {told.kernels:,} kernels; {spent} on one {told.device}",
        f"           each training and its evaluation: {each}",
        f"           {duration(3600 * told.hours)} with shards and trainings side by side "
        f"({duration(3600 * told.least)} to {duration(3600 * told.most)}), less what is kept of earlier runs",
        f"           at least {memory}; about {float(f'{told.requests:.2g}'):,.0f} requests to the store",
        *([f"           {told.assumed}"] if told.assumed else []),
    ):
        console.print(line, soft_wrap=True, highlight=False)


def print_next(place: Workspace, config: RunConfig) -> None:
    """Print the one command that shows the tracked run."""
    console = Console()
    link = place.link(config)
    if link is not None:
        console.print(f"MLflow     {link}", soft_wrap=True, highlight=False)
        return
    if scheme(place.tracking) in ("http", "https"):
        console.print(f"MLflow     {shown(place.tracking)}  (does not answer)", soft_wrap=True, highlight=False)
        return
    if place.tracking:
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", shown(place.tracking)])
        console.print(f"MLflow UI  {command}", soft_wrap=True, highlight=False)
        return
    arguments = [*_program(), "ui"] + ([] if place.root == Path("runs") else ["--workspace", str(place.root)])
    console.print(f"MLflow UI  {shlex.join(arguments)}", soft_wrap=True, highlight=False)


def print_sent(sent: Sequence["workflow.Sent"]) -> None:
    """Print what was sent that could not be logged before, a line a run."""
    console = Console()
    for run in sent:
        calls = ", ".join(f"{_CALLS[call]} {number}" for call, number in sorted(run.calls.items()))
        console.print(f"{run.run}: sent {run.num_calls} calls ({calls})", soft_wrap=True, highlight=False)
        if run.model is not None:
            console.print(f"Model      {run.model.uri}  (alias champion)", soft_wrap=True, highlight=False)
    if not sent:
        console.print("Nothing is waiting to be sent: MLflow has everything.", highlight=False)


def print_amounts(title: str, amounts: Mapping[str, upkeep.Amount]) -> None:
    """Print how much there is of what."""
    console = Console()
    there = {what: found for what, found in amounts.items() if found.count or found.size}
    console.print(f"{title}: {'' if there else 'nothing'}", soft_wrap=True, highlight=False, markup=False)
    if not there:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("what")
    table.add_column("how many", justify="right")
    table.add_column("size", justify="right")
    for what, found in there.items():
        table.add_row(what, f"{found.count:,}", amount(found.size))
    table.add_row("together", "", amount(sum(found.size for found in there.values())))
    console.print(table)


def print_verified(found: upkeep.Verified) -> None:
    """Print what is damaged in a store, a line each, and how much was read."""
    console = Console()
    for damage in found.damaged:
        console.print(f"{damage.place}: {damage.why}", soft_wrap=True, highlight=False, markup=False)
    said = f"{len(found.damaged)} damaged; what they held is computed again" if found.damaged else "all whole"
    console.print(f"Read {found.read.count:,} files, {amount(found.read.size)}: {said}.", highlight=False)


def print_ui(link: str) -> None:
    """Say where the UI will be."""
    Console(stderr=True).print(f"MLflow UI: {link}   (Ctrl-C ends it)", soft_wrap=True, highlight=False)


class PipelineDisplay:
    """The steps of a local pipeline run with their time left: redrawn on a terminal, lines elsewhere."""

    def __init__(self, config: RunConfig, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._console = Console(stderr=True)
        self._started = time.monotonic()
        self._line_due = 0.0
        self._printed: dict[str, bool] = {}
        self._told: set[str] = set()
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=False) if self._console.is_terminal else None
        )

    def __enter__(self) -> "PipelineDisplay":
        search, rounds = self._config.search, workflow.num_rounds(self._config)
        parts = f"{search.shards} parts" if search.shards > 1 else "one process"
        if rounds > 1:
            parts = f"up to {rounds} rounds, each in {parts}" if search.shards > 1 else f"up to {rounds} rounds"
        self._console.print(
            f"Run {self._config.run_id}: search {search.space} by '{search.strategy}' in {parts}, then meta-train and "
            f"evaluate {len(self._config.trained)}. Interrupt with Ctrl-C; the same command resumes.",
            soft_wrap=True,
            highlight=False,
        )
        if self._live is not None:
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.__exit__(kind, error, trace)
        if kind in (KeyboardInterrupt, SystemExit):
            self._console.print(STOPPED, highlight=False)

    def refresh(self) -> None:
        """Show the latest news."""
        for text in read_notices(self._folder):
            if text not in self._told:  # each step says so
                self._told.add(text)
                self._console.print(text, soft_wrap=True, highlight=False, markup=False)
        steps = read_progress(self._folder)
        if self._live is not None:
            self._live.update(self._table(steps), refresh=True)
        else:
            self._print_lines(steps)

    def _table(self, steps: Iterable[StepProgress]) -> Group:
        table = Table(box=None, pad_edge=False, show_header=False)
        for step in _latest(steps):
            left = (
                "done"
                if step.finished
                else f"{duration(step.seconds_left)} left"
                if step.seconds_left is not None
                else ""
            )
            bar = ProgressBar(total=step.total, completed=step.done, width=20)
            table.add_row(step.step, bar, f"{step.done}/{step.total}", left, Text(step.detail, style="dim"))
        elapsed = duration(time.monotonic() - self._started)
        return Group(table, Text(f"{elapsed} so far; {self._ahead(steps)}", style="dim"))

    def _ahead(self, steps: Iterable[StepProgress]) -> str:
        finished = sum(step.finished for step in steps)
        search = self._config.search
        total = 4 + workflow.num_rounds(self._config) * search.shards + 2 * len(self._config.trained)
        # A round has no more shards than there is to score.
        narrow = search.shards > 1 and (workflow.num_rounds(self._config) > 1 or search.shards > search.num_candidates)
        may_end_early = narrow or search.strategy in ("evolve", "race") or search.target_reliability is not None
        return f"{finished} of {'at most ' if may_end_early else ''}{total} steps finished"

    def _print_lines(self, steps: Iterable[StepProgress]) -> None:
        due = time.monotonic() >= self._line_due
        for step in steps:
            news = self._printed.get(step.step) is not step.finished
            if news or (due and not step.finished):
                left = (
                    "done"
                    if step.finished
                    else f"about {duration(step.seconds_left)} left"
                    if step.seconds_left is not None
                    else "started"
                )
                width = 18 if workflow.num_rounds(self._config) == 1 else 27  # "round 12 of 15, score 1 of 2"
                self._console.print(
                    f"  {step.step:<{width}} {step.done / step.total:4.0%}  {left:<16} {step.detail}",
                    highlight=False,
                    soft_wrap=True,
                )
            self._printed[step.step] = step.finished
        if due:
            self._line_due = time.monotonic() + _LINE_EVERY


def _latest(steps: Iterable[StepProgress]) -> list[StepProgress]:
    """Return the steps that fit on a screen: all that run, and the last ones that have finished."""
    steps = list(steps)
    finished = [step for step in steps if step.finished]
    old = set(map(id, finished[:-_LINES])) if len(finished) > _LINES else set()
    return [step for step in steps if id(step) not in old]


def _round_parts(closed: SearchRound) -> list[str]:
    """Return what a line says about a round: what there is of draws, scores, reliability and agreement."""
    from metantk_core.report.rounds import agreement_of  # matplotlib comes with the package

    parts = []
    measures = dict(closed.measures)
    if closed.failed:
        parts.append(f"{closed.failed} failed")
    if "still running" in measures:
        parts.append(f"{measures['still running']:.0f} still running, {measures['draws spent']:.0f} draws so far")
    if "draws saved" in measures:
        parts.append(f"{measures['draws saved']:.0f} draws saved")
    if "best" in measures and "still running" not in measures:
        parts.append(f"best {measures['best']:.4g}, mean {measures['mean']:.4g}")
    # Of a race or an evolution, the leaderboard's own says more.
    if closed.reliability and not {"still running", "candidates"} & set(measures):
        trusted = closed.reliability[-1][1]  # that of the whole criterion
        parts.append(f"reliability {trusted.icc:.2f} [{trusted.low:.2f}, {trusted.high:.2f}]")
    found = agreement_of(closed)
    if found is not None:
        parts.append(f"halves agree {found.mean:.0%} (chance {found.chance:.0%})")
    ties = sum(tied(closed, choice) for choice in closed.choices)
    if ties:
        parts.append(f"{ties} ties")
    return parts


def _print_standing(standing: Standing, console: Console, *, draws: bool = False, chosen: bool = False) -> None:
    others = dict(standing.others)
    score = " ".join(_measured(standing.mean, standing.standard_error)) if standing.mean is not None else ""
    line = f"{standing.rank:>5}  {score:<19}{f'{standing.draws:>7}' if draws else ''}"
    line += f"{_count(others.get('params')):>11}{_count(others.get('flops')):>11}  "
    if chosen:
        line += "← the search's choice"
    if not chosen and len(line) + len(standing.genotype) <= console.width:
        console.print(Text(line + standing.genotype))
    else:
        # A genotype of its own line can be copied as a whole.
        console.print(Text(line.rstrip()))
        console.print(Text(f"       {standing.genotype}", style="dim"), soft_wrap=True)


def _interval(half_width: float, decimals: int = 2, sign: str = "± ") -> str:
    """Return the half width of an accuracy's interval; nothing where that says nothing."""
    telling = telling_half_width(half_width)
    return "" if telling is None else f"{sign}{telling:.{decimals}%}"


def _measured(mean: float, error: float | None) -> tuple[str, str]:
    """Return a value with as many decimals as its standard error has meaning for."""
    if error is None or error == 0.0:
        return _number(mean), "" if error is None else "± 0"
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{mean:.{decimals}f}", f"± {error:.{decimals}f}"


def _number(value: float) -> str:
    return _count(value) if value == int(value) else f"{value:.4g}"


def _count(value: float | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f}"


def _program() -> list[str]:
    """Return how this program was called, as short as it can be called again."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return [_shown_path(sys.executable), "-m", "metantk_core"]
    return [_shown_path(called)]


def _shown_path(place: str) -> str:
    """Return a path as short as it leads there from here; an address stays as it is."""
    path = Path(place).absolute()
    return str(path.relative_to(Path.cwd())) if "://" not in place and path.is_relative_to(Path.cwd()) else place


def print_rerun(outcome: "Outcome", place: Workspace, console: Console | None = None) -> None:
    """Print what became of the figures of a benchmark rerun, a sentence that says it all, and what to do next."""
    from metantk_core.reruns import FIGURES, Estimate

    console = console or Console()
    comparison = outcome.comparison
    table = Table(box=None, pad_edge=False)
    table.add_column("figure")
    for heading in ("this rerun", "baseline"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for verdict in comparison.verdicts:
        cells = [
            FIGURES[verdict.figure].shown(measured.value) if isinstance(measured, Estimate) else (measured or "-")[:8]
            for measured in (verdict.now, verdict.before)
        ]
        style = {"worse": "bold red", "not measured": "yellow", "better": "green"}.get(str(verdict.status), "")
        table.add_row(verdict.figure, *cells, Text(str(verdict.status), style=style))
    console.print(table)
    if comparison.before is not None:
        changes = comparison.now.changes_since(comparison.before)
        said = (
            f"other than at the baseline: {'; '.join(changes)}"
            if changes
            else "versions and machine as at the baseline"
        )
        console.print(said, soft_wrap=True, highlight=False, markup=False)
    colour = {"regression": " red", "incomplete": " yellow"}.get(comparison.verdict, "")
    console.print(Text(comparison.sentence, style=f"bold{colour}"), soft_wrap=True)
    if outcome.baseline.why:
        console.print(outcome.baseline.why, soft_wrap=True, highlight=False, markup=False)
    if comparison.before is None or comparison.is_regression:
        command = ["metantk", "benchmark", "accept", outcome.run]
        if place.tracking and shown(place.tracking) == place.tracking:  # else it comes from the environment again
            command += ["--tracking-uri", place.tracking]
        elif not place.tracking and place.root != Path("runs"):
            command += ["--workspace", str(place.root)]
        told = "if it is as it should be" if comparison.before is None else "if that is meant to be so"
        console.print(f"{told}: {shlex.join(command)}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"page: {outcome.page}", soft_wrap=True, highlight=False, markup=False)
    if outcome.link:
        console.print(f"MLflow: {outcome.link}", soft_wrap=True, highlight=False, markup=False)


def print_reruns(reruns: "Sequence[Past]", console: Console | None = None) -> None:
    """Print benchmark reruns, a line each."""
    console = console or Console()
    if not reruns:
        console.print("No benchmark has been run yet; begin with: metantk benchmark run --quick", highlight=False)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "date (UTC)", "recipe"):
        table.add_column(heading, no_wrap=True)  # to be copied
    table.add_column("verdict", overflow="fold")
    for past in reruns:
        baseline = workflow.latest_accepted(one for one in reruns if one.experiment == past.experiment)
        said = past.verdict or past.status
        if past.worse:
            said += f": {', '.join(past.worse)}"
        if baseline is not None and baseline.run == past.run:
            said += " (the baseline)"
        table.add_row(past.run, past.date[:16].replace("T", " "), past.recipe, said)
    console.print(table)
