"""Ports to what remembers: values of a run enter, identifiers leave; adapters speak to files, databases and servers.

Every call of every port that steps use is idempotent, so that a step that crashed may simply run again: the same key is
the same run, a metric point is logged once, a file is replaced, the same network is the same model version. ``Cluster``
is the port to what runs the steps.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import numpy as np

from metantk_core import stopping
from metantk_core.errors import InputError
from metantk_core.files import UNFINISHED

if TYPE_CHECKING:  # or whoever knows the ports would import torch
    from metantk_core.meta_training import TrainedModel

RunStatus = Literal["finished", "failed", "killed"]
"""How a run ended: as it should, by an error or a termination signal, or by a person's interrupt."""


RUN_KEY = "metantk.key"
"""Tag that holds the key of a run."""
PIPELINE = "metantk.pipeline"
"""Tag that holds Kubeflow's identifier of the pipeline run that opened a run last."""
POD = "metantk.pod"
"""Tag of a run with the name of the pod that opened it, on a cluster."""
NO_ACCELERATOR = "metantk.no_accelerator"
"""Tag of a run, with the step's name behind it: it asked for a GPU and got none."""
FAILED_STEP = "metantk.failed_step"
"""Tag that names the step that failed last; beside it, with ``.reason`` behind, is why."""


class AwayError(InputError):
    """What remembers does not answer, and was waited for as long as it may be.

    Whether it did what it was asked is not known; to ask again later does no harm.
    """


@dataclass(frozen=True)
class MetricPoint:
    """One point of a curve.

    Attributes:
        name: Name of the curve; what stands before its first ``/`` groups charts.
        value: The number. One that is not finite can't be drawn: a tracker notes it as a tag instead.
        step: Position on the horizontal axis; a curve holds one point a step, the first one logged.
        at: When it was measured, in milliseconds since 1970; none for now.
    """

    name: str
    value: float
    step: int = 0
    at: int | None = None


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker remembers of a run.

    Attributes:
        identifier: Its identifier.
        name: Its name for people.
        status: How it ended; ``running`` if it has not, as far as is known.
        started: When it began, in milliseconds since 1970.
        tags: Words to find it by.
        metrics: The last value of each of its curves.
        deleted: Whether somebody deleted it, so that it is not shown any more.
    """

    identifier: str
    name: str
    status: RunStatus | Literal["running"]
    started: int
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    deleted: bool = False


@dataclass(frozen=True)
class DatasetSummary:
    """What a tracker shows of a dataset that a run read.

    Attributes:
        name: Name for people.
        digest: Digest of the content.
        source: Where the images came from: a path, an address, or the name of a generator.
        num_images: Number of images.
        num_classes: Number of classes.
        image_shape: Channels, height and width of every image.
    """

    name: str
    digest: str
    source: str
    num_images: int
    num_classes: int
    image_shape: tuple[int, ...]


@dataclass(frozen=True)
class RegisteredModel:
    """A version of a model in a registry.

    Attributes:
        name: Name of the model.
        version: Version, as the registry counts.
        uri: Address to load exactly this version from.
    """

    name: str
    version: str
    uri: str


@dataclass(frozen=True)
class PipelineVersion:
    """A version of a pipeline that a cluster keeps.

    Attributes:
        pipeline: Name of the pipeline.
        name: Name of the version.
        pipeline_id: The cluster's identifier of the pipeline.
        version_id: The cluster's identifier of the version.
        new: Whether it was not there before.
        link: Address of its page.
    """

    pipeline: str
    name: str
    pipeline_id: str
    version_id: str
    new: bool = False
    link: str = ""


@dataclass(frozen=True)
class StepState:
    """A step of a run on a cluster.

    Attributes:
        name: Its name; steps of a loop share one.
        state: Such as ``RUNNING``.
        started: When its pod was made; none before.
        ended: When it ended; none before.
        why: What the cluster says of its failure.
    """

    name: str
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    why: str = ""


ENDED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")
"""States of runs and steps on a cluster that are left no more; others are ``PENDING``, ``RUNNING``, ``CANCELING``, …"""


@dataclass(frozen=True)
class ClusterRun:
    """A run of a pipeline on a cluster.

    Attributes:
        run: The cluster's identifier.
        name: Name for people.
        state: Such as ``RUNNING``.
        created: When it was submitted.
        ended: When it ended; none before.
        schedule: Identifier of the schedule that made it; empty for none.
        why: What the cluster says of its failure.
        steps: Its steps in the order in which they began; a list of runs may be without them.
        link: Address of its page.
    """

    run: str
    name: str
    state: str
    created: datetime | None = None
    ended: datetime | None = None
    schedule: str = ""
    why: str = ""
    steps: tuple[StepState, ...] = ()
    link: str = ""

    @property
    def over(self) -> bool:
        """Whether it has ended, however."""
        return self.state in ENDED


@dataclass(frozen=True)
class ScheduleSettings:
    """What a schedule does; two with equal settings do the same.

    Attributes:
        name: Name, by which a person speaks of it.
        cron: When, as the cluster writes it.
        pipeline_id: Which pipeline.
        version_id: Which version of it, for as long as the schedule lives.
        experiment_id: What its runs are shown under.
        parameters: Values of the pipeline's parameters; others have their defaults.
        concurrency: Runs at most at a time, 1 to 10.
        catch_up: Whether firings that were missed are made up for, one by one.
        service_account: As whom its pods run; empty for the cluster's choice.
    """

    name: str
    cron: str
    pipeline_id: str
    version_id: str
    experiment_id: str
    parameters: Mapping[str, object] = field(default_factory=dict)
    concurrency: int = 1
    catch_up: bool = False
    service_account: str = ""


@dataclass(frozen=True)
class Schedule:
    """A schedule that a cluster keeps.

    Attributes:
        schedule: The cluster's identifier.
        settings: What it does.
        enabled: Whether it fires.
        created: When it was made.
        why: What the cluster says if it can't fire it.
        link: Address of its page.
    """

    schedule: str
    settings: ScheduleSettings
    enabled: bool
    created: datetime | None = None
    why: str = ""
    link: str = ""


def admit_key(key: str) -> str:
    """Return a key of an artifact store as it is, if every store can keep something under it.

    Raises:
        ValueError: It is none: it could lead out of a folder, or a part of it is no name or an unfinished file's.
    """
    parts = key.split("/")
    if "\\" in key or "\0" in key or any(part in ("", ".", "..") or part.startswith(UNFINISHED) for part in parts):
        raise ValueError(f"A key is a relative path of plain names such as 'run/scores.jsonl', not {key!r}.")
    return key


@dataclass(frozen=True)
class Stored:
    """What a store says of something without reading it.

    Attributes:
        key: Its key.
        size: Bytes.
        seconds: How long it has been there as it is.
    """

    key: str
    size: int
    seconds: float


@dataclass(frozen=True)
class Leftovers:
    """What was left by writers that were killed.

    Attributes:
        count: How many things.
        size: Bytes, as far as that is known.
    """

    count: int
    size: int


class DamageError(InputError):
    """What a store holds under a key is not what was written there."""


@runtime_checkable
class ArtifactStore(Protocol):
    """Bytes by key; keys are relative paths with ``/``, see :func:`admit_key`."""

    def read(self, key: str) -> bytes | None:
        """Return what is stored under a key, or none."""
        ...

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Store bytes under a key: a reader sees the old ones or the new ones, nothing between.

        Args:
            key: Where.
            data: The bytes.
            durable: Whether they must outlive a power failure, and not just this process; a store may ignore it.
        """
        ...

    def create(self, key: str, data: bytes) -> bytes:
        """Store bytes under a key unless something is there, and return what is there then: of several, the first."""
        ...

    def read_into(self, key: str, path: Path, heard: Callable[[int], object] = ...) -> bool:
        """Put what is stored under a key into a file, which appears as a whole, and return whether there was anything.

        Args:
            key: The key.
            path: The file. It may be the store's own under another name: nobody may change it in its place.
            heard: Told the bytes of each piece that has come.
        """
        ...

    def write_file(self, key: str, path: Path, heard: Callable[[int], object] = ...) -> None:
        """Store a file, which may be large, under a key.

        Args:
            key: The key.
            path: The file. The store's own may be the same under another name: nobody may change it any more.
            heard: Told the bytes of each piece that is there.
        """
        ...

    def exists(self, key: str) -> bool:
        """Return whether something is stored under a key."""
        ...

    def delete(self, keys: Iterable[str]) -> None:
        """Remove what is stored under some keys; keys of nothing are passed over."""
        ...

    def keys(self, prefix: str = "") -> Iterator[str]:
        """Give the keys that start with a prefix, sorted."""
        ...

    def listing(self, prefix: str = "") -> Iterator[Stored]:
        """Give what is stored under the keys that start with a prefix, sorted, without reading it."""
        ...

    def clear_unfinished(self, seconds: float, *, really: bool = True) -> Leftovers:
        """Remove what writers that were killed left, unseen by :meth:`keys`.

        Args:
            seconds: How old it must be where that is the only sign that nobody is writing it.
            really: Whether it is removed; otherwise it is only looked at.
        """
        ...

    def place(self, key: str) -> str:
        """Return where the bytes of a key are, for people."""
        ...


@runtime_checkable
class Tracker(Protocol):
    """Runs with their parameters, metrics, files and inputs."""

    def open_run(
        self,
        key: str,
        name: str,
        *,
        parent: str | None = None,
        description: str = "",
        tags: Mapping[str, str] = {},
        files: Mapping[str, str] = {},
    ) -> str:
        """Return the identifier of the run of this key below this parent, created if it is not there, running again.

        Args:
            key: What makes the run the same run when a step is repeated; without quotes.
            name: Name for people.
            parent: Identifier of the run that it belongs to; none for a run of its own.
            description: Markdown.
            tags: More words to find it by.
            files: Files that it will have, by the words for them; the description links to them.
        """
        ...

    def log_parameters(self, run: str, parameters: Mapping[str, str | int | float | bool]) -> None:
        """Note what a run was asked to do.

        Raises:
            InputError: A parameter is there with another value.
        """
        ...

    def log_metrics(self, run: str, points: Iterable[MetricPoint]) -> None:
        """Add points to the curves of a run, without those whose step is there; a non-finite value becomes a tag."""
        ...

    def log_file(self, run: str, path: Path, folder: str = "") -> None:
        """Attach a file to a run, below a folder of its artifacts."""
        ...

    def log_table(self, run: str, columns: Mapping[str, Sequence[object]], file: str) -> None:
        """Attach a table, columns of equal lengths, as a JSON file; one that is there is replaced."""
        ...

    def log_dataset(self, run: str, dataset: DatasetSummary, context: str) -> None:
        """Note a dataset as an input of a run; the context says what for, such as ``train``."""
        ...

    def watched(self, run: str, part: str = "") -> AbstractContextManager[object]:
        """Note what this machine does (processor, memory, disk, network, GPU) while some work of a run goes on.

        Args:
            run: Identifier of the run.
            part: Names the machine where several work on one run.
        """
        ...

    def find_run(self, key: str, *, tag: str = RUN_KEY, hurry: bool = False) -> str | None:
        """Return the identifier of the run of this key that has no parent, as it is, or none.

        Args:
            key: What was given when it was opened.
            tag: Another tag that holds it, such as ``PIPELINE``.
            hurry: Whether a tracker that does not answer is waited for some seconds at most.
        """
        ...

    def find_runs(self, tags: Mapping[str, str], *, deleted: bool = False) -> tuple[TrackedRun, ...]:
        """Return the runs without a parent that have all these tags, the oldest first.

        Args:
            tags: Tags and their values; without quotes.
            deleted: Whether those that were deleted are wanted instead of those that were not.

        Raises:
            AwayError: The tracker is away: what it would say can't be made up for later.
        """
        ...

    def read_run(self, run: str) -> TrackedRun | None:
        """Return what is known of a run by its identifier, or none; it raises as ``find_runs`` does."""
        ...

    def read_file(self, run: str, file: str) -> bytes | None:
        """Return a file that is attached to a run, or none; it raises as ``find_runs`` does."""
        ...

    def untag_run(self, run: str, tags: Iterable[str]) -> None:
        """Take words away; those that a run does not have are passed over."""
        ...

    def tag_run(self, run: str, tags: Mapping[str, str]) -> None:
        """Add words to find a run by, in some seconds at most: that is how a process that is about to end says why."""
        ...

    def close_run(self, run: str, status: RunStatus, *, again: bool = True) -> None:
        """Note that a run has ended, and how; runs below it that still look as if they went on end as killed.

        What a run that finishes says of a step that failed, in an earlier attempt, is removed.

        Args:
            run: Identifier of the run.
            status: How it ended.
            again: Whether that is noted also if the run had ended before.
        """
        ...

    def link(self, run: str) -> str | None:
        """Return the address of a run's page, or none where there is no server."""
        ...


@runtime_checkable
class ModelRegistry(Protocol):
    """Versions of trained networks that can be loaded by name."""

    def register(
        self,
        run: str,
        name: str,
        model: "TrainedModel",
        model_directory: Path,
        *,
        alias: str,
        description: str,
        tags: Mapping[str, str],
        input_example: Mapping[str, np.ndarray],
        metrics: Sequence[MetricPoint] = (),
        dataset: DatasetSummary | None = None,
    ) -> RegisteredModel:
        """Return the version that holds a model, registered unless this run has registered the same files before.

        Args:
            run: Identifier of the run that trained it.
            name: Name of the model.
            model: The network with its weights.
            model_directory: The same as files, as ``meta_training.save_model`` wrote them.
            alias: Moved to this version, such as ``champion``.
            description: Markdown, shown with the version.
            tags: More words, shown with the version.
            input_example: A request: ``support_images`` uint8 ``[s c h w]``, ``support_labels`` int64 ``[s]`` and
                ``query_images`` uint8 ``[q c h w]``.
            metrics: What was measured of the model; points that the run has already are shown with the model, too.
            dataset: What it was measured on.

        Raises:
            InputError: The name can't be used.
        """
        ...

    def fetch(self, address: str, directory: Path) -> Path:
        """Return the folder with a registered network, as ``meta_training.load_model`` reads it.

        Args:
            address: Address of a version: ``models:/name/3`` or ``models:/name@champion``.
            directory: A new folder on this machine, into which it is put.

        Raises:
            InputError: There is no such version, or it holds no network of ours.
        """
        ...


@runtime_checkable
class Cluster(Protocol):
    """What runs pipelines, keeps their versions, and fires schedules.

    Unlike those of other ports, calls that create a run or a schedule make one more each time: only ``register`` and
    ``experiment`` may be repeated without a look at what is there.
    """

    def experiment(self, name: str) -> str:
        """Return the identifier of the experiment of a name, created if it is not there."""
        ...

    def register(self, pipeline: str, version: str, package: Path) -> PipelineVersion:
        """Return the version of this name, which holds a package, uploaded unless it is there.

        Args:
            pipeline: Name of the pipeline, created if it is not there.
            version: Name of the version, another one for each content.
            package: The compiled pipeline.
        """
        ...

    def version_name(self, pipeline_id: str, version_id: str) -> str:
        """Return the name of a version; empty if it is gone."""
        ...

    def start(
        self,
        name: str,
        work: "Path | ScheduleSettings",
        *,
        experiment_id: str,
        parameters: Mapping[str, object] = {},
        service_account: str = "",
    ) -> ClusterRun:
        """Start a run of a package, or of the version of a schedule, and return it.

        Args:
            name: Name of the run for people.
            work: A compiled pipeline, or a schedule's settings, of which pipeline and version are taken.
            experiment_id: What it is shown under.
            parameters: Values of the pipeline's parameters; others have their defaults.
            service_account: As whom its pods run; empty for the cluster's choice.
        """
        ...

    def run(self, run: str) -> ClusterRun:
        """Return a run with its steps.

        Raises:
            InputError: There is none.
        """
        ...

    def runs(self, most: int, experiment: str = "") -> list[ClusterRun]:
        """Return the latest runs, the last one first.

        Args:
            most: How many at most.
            experiment: Name of the experiment that they belong to; empty for all.

        Raises:
            InputError: There is no such experiment.
        """
        ...

    def stop(self, run: str) -> None:
        """Ask for the end of a run."""
        ...

    def schedules(self, name: str = "") -> list[Schedule]:
        """Return the schedules of a name, or all of them, the oldest first."""
        ...

    def create_schedule(self, settings: ScheduleSettings, *, enabled: bool) -> Schedule:
        """Make one more schedule and return it."""
        ...

    def enable_schedule(self, schedule: str, *, enabled: bool) -> bool:
        """Let a schedule fire, or not, and return whether it is there."""
        ...

    def delete_schedule(self, schedule: str) -> None:
        """Remove a schedule; one that is gone already is no error. Runs that it has started go on."""
        ...


@contextmanager
def run_scope(tracker: Tracker, run: str) -> Iterator[None]:
    """Close a run with what happens inside: finished, failed by an exception or SIGTERM, killed by an interrupt.

    SIGTERM, with which clusters stop a pod, and SIGHUP end a Python process without a word. Inside the scope (of a main
    thread) they become ``SystemExit``, which passes through all scopes; handlers that were there before are put back.

    Args:
        tracker: Where the run is.
        run: Its identifier.
    """
    with stopping.raising():
        try:
            yield
        except BaseException as error:
            status: RunStatus = "killed" if isinstance(error, KeyboardInterrupt) else "failed"
            try:
                with stopping.shielded():
                    tracker.close_run(run, status)
            except Exception as second:  # what ended the work matters more than that it could not be noted
                error.add_note(f"The run {run} could not be marked {status}: {second}")
            raise
        else:
            with stopping.shielded():
                tracker.close_run(run, "finished")
