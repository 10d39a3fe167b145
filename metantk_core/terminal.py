"""What people see in the terminal: values enter, tables, progress and the next command leave."""

import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from metantk_core.adapters.addresses import shown
from metantk_core.adapters.progress import StepProgress, read_progress
from metantk_core.config import RunConfig
from metantk_core.meta_training import Evaluation, TrainedModel
from metantk_core.ranking import Leaderboard, Standing
from metantk_core.scores import SCORES, ScoreRecord
from metantk_core.search import SearchHistory
from metantk_core.workflow import RunResult, num_rounds
from metantk_core.workspace import Workspace

_SHOWN = 10
_LINES = 12  # finished steps on the screen
_LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal to redraw


def print_recipes(recipes: Mapping[str, RunConfig]) -> None:
    """Print the recipes, a line each."""
    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "data", "search space", "strategy", "candidates", "draws", "meta-training"):
        table.add_column(heading)
    for name, config in recipes.items():
        training = f"{config.training.algorithm.upper()}, {config.training.iterations} iterations"
        table.add_row(
            name,
            config.data.source,
            config.search.space,
            config.search.strategy,
            str(config.search.num_candidates),
            str(config.scoring.num_inits),
            training,
        )
    Console().print(table)


def print_records(records: Iterable[ScoreRecord]) -> None:
    """Print the scores of one architecture: mean, standard error and every draw, or why there is none."""
    table = Table(box=None, pad_edge=False)
    table.add_column("score")
    for heading in ("mean", "± standard error", "draws"):
        table.add_column(heading, justify="right" if heading == "mean" else "left", overflow="fold")
    for record in records:
        definition = SCORES[record.score]
        values = [draw.value for draw in record.draws if draw.value is not None]
        failures = [f"{draw.outcome}: {draw.reason}" for draw in record.draws if draw.value is None]
        if failures:
            table.add_row(definition.label, "-", "-", failures[0])
            continue
        scaled = np.log10(values) if definition.scale == "log10" else np.asarray(values)
        error = float(scaled.std(ddof=1) / np.sqrt(len(scaled))) if len(scaled) > 1 else None
        mean, spread = _measured(float(scaled.mean()), error)
        table.add_row(definition.label, mean, spread, "  ".join(_number(float(value)) for value in scaled))
    Console().print(table)


def print_leaderboard(leaderboard: Leaderboard, console: Console | None = None) -> None:
    """Print the first ranks, the last one, and how far the ranking can be trusted."""
    from metantk_core.report.findings import trust_sentences  # matplotlib comes with the package

    console = console or Console()
    console.print(
        f"{len(leaderboard.standings)} candidates of {leaderboard.space} by {leaderboard.label}, "
        f"{leaderboard.direction} is better; mean ± standard error",
        soft_wrap=True,
        highlight=False,
    )
    console.print(f"{'rank':>5}  {'score':<19}{'parameters':>11}{'MACs':>11}  genotype", style="bold", highlight=False)
    scored = [standing for standing in leaderboard.standings if standing.mean is not None]
    for standing in scored[:_SHOWN]:
        _print_standing(standing, console)
    if len(scored) > _SHOWN:
        if len(scored) > _SHOWN + 1:
            console.print("    …")
        _print_standing(scored[-1], console)
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


def print_history(history: SearchHistory, console: Console | None = None) -> None:
    """Print the rounds of a search, a line each; nothing for a search of one round."""
    if len(history.rounds) < 2:
        return
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    names = list(dict.fromkeys(name for closed in history.rounds for name, _ in closed.measures))
    for heading in ("round", "", "scored", "draws", *names):
        table.add_column(heading, justify="left" if heading == "" else "right")
    for closed in history.rounds:
        measures = dict(closed.measures)
        values = (_number(measures[name]) if name in measures else "" for name in names)
        table.add_row(str(closed.number), closed.title, str(closed.scored), str(closed.draws), *values)
    console.print(table)
    console.print(f"found: {history.winner}", soft_wrap=True, highlight=False)
    console.print()


def print_training(role: str, model: TrainedModel) -> None:
    """Print the learning curve of a meta-trained network and the weights that were kept."""
    table = Table(
        title=f"meta-training of the {role} candidate {model.genotype}", title_justify="left", box=None, pad_edge=False
    )
    for heading in ("iteration", "training loss", "training accuracy", "validation accuracy"):
        table.add_column(heading, justify="right")
    for point in model.history:
        kept = " ←" if point.iteration == model.best_iteration else "  "
        table.add_row(
            str(point.iteration),
            f"{point.train_loss:.3f}",
            f"{point.train_accuracy:.1%}",
            f"{point.validation_accuracy:.1%} ± {point.validation_half_width:.1%}{kept}",
        )
    Console().print(table)


def print_evaluations(evaluations: Mapping[str, Evaluation], console: Console | None = None) -> None:
    """Print accuracies on test classes with their intervals and the protocol that they were measured by."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    for heading in ("candidate", "test accuracy", "95 % interval"):
        table.add_column(heading, justify="right" if heading != "candidate" else "left")
    for role, evaluation in evaluations.items():
        table.add_row(role, f"{evaluation.accuracy:.2%}", f"± {evaluation.half_width:.2%}")
    console.print(table)
    console.print(next(iter(evaluations.values())).summary())


def print_result(result: RunResult, place: Workspace, config: RunConfig) -> None:
    """Print all that a pipeline run found and where to look further."""
    console = Console()
    console.print()
    print_history(result.history, console)
    print_leaderboard(result.leaderboard, console)
    console.print()
    print_evaluations(result.evaluations, console)
    console.print()
    console.print(f"Model      {result.model_uri}  (alias champion)", soft_wrap=True, highlight=False)
    console.print(f"Report     {_shown_path(place.folder(config) / 'report.html')}", soft_wrap=True, highlight=False)
    print_next(place, config)


def print_next(place: Workspace, config: RunConfig) -> None:
    """Print the one command that shows the tracked run."""
    console = Console()
    link = place.link(config)
    if link is not None:
        console.print(f"MLflow     {link}", soft_wrap=True, highlight=False)
        return
    if place.tracking:
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", shown(place.tracking)])
        console.print(f"MLflow UI  {command}", soft_wrap=True, highlight=False)
        return
    arguments = [*_program(), "ui"] + ([] if place.root == Path("runs") else ["--workspace", str(place.root)])
    console.print(f"MLflow UI  {shlex.join(arguments)}", soft_wrap=True, highlight=False)


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
        self._live = (
            Live(console=self._console, auto_refresh=False, transient=False) if self._console.is_terminal else None
        )

    def __enter__(self) -> "PipelineDisplay":
        search, rounds = self._config.search, num_rounds(self._config)
        parts = f"{search.shards} parts" if search.shards > 1 else "one process"
        if rounds > 1:
            parts = f"up to {rounds} rounds, each in {parts}" if search.shards > 1 else f"up to {rounds} rounds"
        self._console.print(
            f"Run {self._config.run_id}: search {search.space} by '{search.strategy}' in {parts}, then meta-train and "
            f"evaluate {len(self._config.trained_roles)}. Interrupt with Ctrl-C; the same command resumes.",
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
        if kind is KeyboardInterrupt:
            self._console.print(
                "Stopped. Everything finished so far is kept: the same command resumes.", highlight=False
            )

    def refresh(self) -> None:
        """Show the latest news."""
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
                else f"{_duration(step.seconds_left)} left"
                if step.seconds_left is not None
                else ""
            )
            bar = ProgressBar(total=step.total, completed=step.done, width=30)
            table.add_row(step.step, bar, f"{step.done}/{step.total}", left, Text(step.detail, style="dim"))
        elapsed = _duration(time.monotonic() - self._started)
        return Group(table, Text(f"{elapsed} so far; {self._ahead(steps)}", style="dim"))

    def _ahead(self, steps: Iterable[StepProgress]) -> str:
        finished = sum(step.finished for step in steps)
        total = 4 + num_rounds(self._config) * self._config.search.shards + 2 * len(self._config.trained_roles)
        return f"{finished} of {total} steps finished"

    def _print_lines(self, steps: Iterable[StepProgress]) -> None:
        due = time.monotonic() >= self._line_due
        for step in steps:
            news = self._printed.get(step.step) is not step.finished
            if news or (due and not step.finished):
                left = (
                    "done"
                    if step.finished
                    else f"about {_duration(step.seconds_left)} left"
                    if step.seconds_left is not None
                    else "started"
                )
                self._console.print(
                    f"  {step.step:<18} {step.done / step.total:4.0%}  {left:<16} {step.detail}", highlight=False
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


def _print_standing(standing: Standing, console: Console) -> None:
    others = dict(standing.others)
    score = " ".join(_measured(standing.mean, standing.standard_error)) if standing.mean is not None else ""
    line = f"{standing.rank:>5}  {score:<19}{_count(others.get('params')):>11}{_count(others.get('flops')):>11}  "
    if len(line) + len(standing.genotype) <= console.width:
        console.print(Text(line + standing.genotype))
    else:
        # A genotype of its own line can be copied as a whole.
        console.print(Text(line.rstrip()))
        console.print(Text(f"       {standing.genotype}", style="dim"), soft_wrap=True)


def _measured(mean: float, error: float | None) -> tuple[str, str]:
    """Return a value with as many decimals as its standard error has meaning for."""
    if error is None or error == 0.0:
        return _number(mean), "" if error is None else "0"
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


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} min" if minutes else f"{rest} s"


def _program() -> list[str]:
    """Return how this program was called, as short as it can be called again."""
    called = sys.argv[0]
    if called.endswith("__main__.py"):
        return [_shown_path(Path(sys.executable)), "-m", "metantk_core"]
    return [_shown_path(Path(called))]


def _shown_path(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
