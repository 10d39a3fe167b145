"""What could not be logged: calls to a tracker that is away enter, small files in the store; sent later, calls again.

The layout in the artifact store, which outlives a pod and its disk::

    unsent/<run>/<time>-<process>.json           one call, with all that it needs
    unsent/<run>/<time>-<process>.json.sent      it was made; for a run that was opened, which one that is
    unsent/<run>/files/<digest>                  a file that calls attach

A process whose tracker has gone away keeps all further calls, so that they stay in order; the next step, or command,
sends them before it makes any of its own. Every call of the ports is idempotent, so what may have been done before its
answer was lost is simply done again, and two processes may send at once.
"""

import hashlib
import io
import json
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from metantk_core import meta_training
from metantk_core.errors import InputError
from metantk_core.ports import (
    RUN_KEY,
    ArtifactStore,
    AwayError,
    DatasetSummary,
    MetricPoint,
    ModelRegistry,
    RegisteredModel,
    RunStatus,
    TrackedRun,
    Tracker,
)
from metantk_core.seeding import digest
from metantk_core.workflow.runs import note_model

if TYPE_CHECKING:  # commands that only look know this module, and wait for no torch
    from metantk_core.meta_training import TrainedModel

T = TypeVar("T")

_TOP = "unsent"
_SENT = ".sent"
_FORMAT = 1
_UNKNOWN_RUN = "unsent-"
"""Beginning of what stands for the identifier of a run that the tracker could not be asked for."""


class Unsent:
    """The calls of one run that could not be made.

    Args:
        store: Where they are kept.
        run: Name of the run among all in the store, ``RunConfig.run_id``.
        address: Address of the tracker, without anything secret.
        tell: Takes a sentence for people.
    """

    def __init__(
        self, store: ArtifactStore, run: str, address: str, tell: Callable[[str], None] = lambda text: None
    ) -> None:
        self.store = store
        self.run = run
        self.address = address
        self.away = False
        """Whether the tracker has gone away for good, so that this process keeps all that it would tell it."""
        self._tell = tell
        self._process = uuid.uuid4().hex[:8]
        self._last = 0

    @property
    def place(self) -> str:
        """Where they are kept, for people."""
        return self.store.place(f"{_TOP}/{self.run}")

    def give_up(self) -> None:
        """Take note, and tell people, that the tracker has gone away for good."""
        if not self.away:
            self.away = True
            self._tell(
                f"The server {self.address} is away; the work goes on, and what it should show is kept for later."
            )

    def keep(self, call: str, **arguments: object) -> None:
        """Keep a call; it is on disk when this returns."""
        self._last = max(time.time_ns(), self._last + 1)  # in order even if somebody sets the clock
        entry = {"format": _FORMAT, "tracker": self.address, "call": call, "arguments": arguments}
        key = f"{_TOP}/{self.run}/{self._last:020}-{self._process}.json"
        self.store.write(key, json.dumps(entry, default=_plain).encode())

    def keep_file(self, data: bytes) -> str:
        """Keep the content of a file, and return what names it in calls."""
        name = hashlib.sha256(data).hexdigest()
        self.store.write(f"{_TOP}/{self.run}/files/{name}", data)
        return name

    def kept_file(self, name: str) -> bytes:
        """Return the content of a file that was kept.

        Raises:
            InputError: It is gone, or not what it was.
        """
        key = f"{_TOP}/{self.run}/files/{name}"
        data = self.store.read(key)
        if data is None or hashlib.sha256(data).hexdigest() != name:
            raise InputError(
                f"{self.store.place(key)} is gone or damaged; run the same command as then again, which logs it anew "
                f"and repeats no finished work, after the folder {self.place} is moved away."
            )
        return data

    def left(self) -> list[str]:
        """Return the keys of the calls that are still to be made, in order."""
        keys = set(self.store.keys(f"{_TOP}/{self.run}/"))
        return sorted(key for key in keys if key.endswith(".json") and f"{key}{_SENT}" not in keys)

    def entry(self, key: str) -> dict[str, Any]:
        """Return the call of a key.

        Raises:
            InputError: It is damaged.
        """
        try:
            entry = json.loads(self.store.read(key) or b"")
            if entry["format"] == _FORMAT and isinstance(entry["arguments"], dict):
                return entry
        except (ValueError, KeyError, TypeError):
            pass
        raise InputError(
            f"Expected a call to the tracker in {self.store.place(key)}, but it is damaged or of another version of "
            "metantk; move that file away, and the rest can be sent."
        )

    def known_runs(self) -> dict[str, str]:
        """Return the identifiers of runs that were opened when calls were sent, by what stood for them."""
        known: dict[str, str] = {}
        for key in self.store.keys(f"{_TOP}/{self.run}/"):
            if key.endswith(_SENT) and (data := self.store.read(key)):
                known |= json.loads(data)
        return known

    def mark(self, key: str, known: Mapping[str, str]) -> None:
        """Note that the call of a key has been made, and which run it opened."""
        self.store.write(f"{key}{_SENT}", json.dumps(known).encode() if known else b"")


def unsent_runs(store: ArtifactStore) -> dict[str, str]:
    """Return the runs in a store that have calls still to be made, with the address of the tracker that was away."""
    names = sorted({key.split("/")[1] for key in store.keys(f"{_TOP}/")})
    found: dict[str, str] = {}
    for name in names:
        unsent = Unsent(store, name, "")
        if left := unsent.left():
            found[name] = unsent.entry(left[0])["tracker"]
    return found


class KeepingTracker:
    """A ``Tracker`` that keeps its calls when the one behind it goes away.

    Runs that it could not ask for have identifiers that hold until the calls are sent. Only a run without a parent
    can't be opened then: that is the beginning, when nothing has been computed yet.

    Args:
        behind: The tracker; none if it was away from the start.
        unsent: Keeps the calls; shared with the ``KeepingRegistry`` of this process.
    """

    def __init__(self, behind: Tracker | None, unsent: Unsent) -> None:
        self._behind = behind
        self._unsent = unsent

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
        """Return the identifier of the run of this key below this parent, or what stands for it.

        Raises:
            AwayError: The tracker is away, and the run has no parent.
        """

        def ask(tracker: Tracker) -> str:
            return tracker.open_run(key, name, parent=parent, description=description, tags=tags, files=files)

        def keep() -> str:
            stands_for = f"{_UNKNOWN_RUN}{digest([key, parent])}"
            self._unsent.keep(
                "open_run",
                run=stands_for,
                key=key,
                name=name,
                parent=parent,
                description=description,
                tags=dict(tags),
                files=dict(files),
            )
            return stands_for

        if parent is not None:
            return self._asked(ask, keep)
        if self._behind is None:
            raise AwayError(f"{self._unsent.address} does not answer; run the same command again when it does.")
        return ask(self._behind)

    def log_parameters(self, run: str, parameters: Mapping[str, str | int | float | bool]) -> None:
        """Note what a run was asked to do; see ``Tracker``."""
        self._asked(
            lambda tracker: tracker.log_parameters(run, parameters),
            lambda: self._unsent.keep("log_parameters", run=run, parameters=dict(parameters)),
        )

    def log_metrics(self, run: str, points: Iterable[MetricPoint]) -> None:
        """Add points to the curves of a run; the time that they are drawn at is that of this call, sent or kept."""
        now = int(time.time() * 1000)
        timed = [point if point.at is not None else replace(point, at=now) for point in points]
        self._asked(
            lambda tracker: tracker.log_metrics(run, timed),
            lambda: self._unsent.keep("log_metrics", run=run, points=[asdict(point) for point in timed]),
        )

    def log_file(self, run: str, path: Path, folder: str = "") -> None:
        """Attach a file to a run, as it is now."""
        self._asked(
            lambda tracker: tracker.log_file(run, path, folder),
            lambda: self._unsent.keep(
                "log_file", run=run, name=path.name, content=self._unsent.keep_file(path.read_bytes()), folder=folder
            ),
        )

    def log_table(self, run: str, columns: Mapping[str, Sequence[object]], file: str) -> None:
        """Attach a table; see ``Tracker``."""
        self._asked(
            lambda tracker: tracker.log_table(run, columns, file),
            lambda: self._unsent.keep(
                "log_table", run=run, columns={name: list(values) for name, values in columns.items()}, file=file
            ),
        )

    def log_dataset(self, run: str, dataset: DatasetSummary, context: str) -> None:
        """Note a dataset as an input of a run; see ``Tracker``."""
        self._asked(
            lambda tracker: tracker.log_dataset(run, dataset, context),
            lambda: self._unsent.keep("log_dataset", run=run, dataset=asdict(dataset), context=context),
        )

    def watched(self, run: str, part: str = "") -> AbstractContextManager[object]:
        """Note what this machine does while some work of a run goes on; of an absent tracker that is not kept."""
        return self._asked(lambda tracker: tracker.watched(run, part), nullcontext)

    def find_run(self, key: str, *, tag: str = RUN_KEY, hurry: bool = False) -> str | None:
        """Return the identifier of the run of this key that has no parent, what stands for it, or none."""

        def keep() -> str:
            stands_for = f"{_UNKNOWN_RUN}{digest([key, tag, 'found'])}"
            self._unsent.keep("find_run", run=stands_for, key=key, tag=tag)
            return stands_for

        return self._asked(lambda tracker: tracker.find_run(key, tag=tag, hurry=hurry), keep)

    def find_runs(self, tags: Mapping[str, str], *, deleted: bool = False) -> tuple[TrackedRun, ...]:
        """Return the runs without a parent that have all these tags; see ``Tracker``."""
        return self._asked(lambda tracker: tracker.find_runs(tags, deleted=deleted), self._unknown)

    def read_run(self, run: str) -> TrackedRun | None:
        """Return what is known of a run; see ``Tracker``."""
        return self._asked(lambda tracker: tracker.read_run(run), self._unknown)

    def read_file(self, run: str, file: str) -> bytes | None:
        """Return a file that is attached to a run; see ``Tracker``."""
        return self._asked(lambda tracker: tracker.read_file(run, file), self._unknown)

    def untag_run(self, run: str, tags: Iterable[str]) -> None:
        """Take words away; see ``Tracker``."""
        named = list(tags)
        self._asked(
            lambda tracker: tracker.untag_run(run, named), lambda: self._unsent.keep("untag_run", run=run, tags=named)
        )

    def tag_run(self, run: str, tags: Mapping[str, str]) -> None:
        """Add words to find a run by; see ``Tracker``."""
        self._asked(
            lambda tracker: tracker.tag_run(run, tags),
            lambda: self._unsent.keep("tag_run", run=run, tags=dict(tags)),
        )

    def close_run(self, run: str, status: RunStatus, *, again: bool = True) -> None:
        """Note that a run has ended, and how; see ``Tracker``."""
        self._asked(
            lambda tracker: tracker.close_run(run, status, again=again),
            lambda: self._unsent.keep("close_run", run=run, status=status, again=again),
        )

    def link(self, run: str) -> str | None:
        """Return the address of a run's page, or none while there is nobody who could show it."""
        return self._asked(lambda tracker: tracker.link(run), lambda: None)

    def _unknown(self) -> NoReturn:
        raise AwayError(
            f"{self._unsent.address} does not answer, and what it remembers is needed; run the same command again when "
            "it does."
        )

    def _asked(self, ask: Callable[[Tracker], T], keep: Callable[[], T]) -> T:
        if self._behind is not None and not self._unsent.away:
            try:
                return ask(self._behind)
            except AwayError:
                self._unsent.give_up()
        return keep()


class KeepingRegistry:
    """A ``ModelRegistry`` that keeps a model when the one behind it goes away.

    Args:
        connect: Gives the registry, when there is something to register.
        unsent: Keeps the model; shared with the ``KeepingTracker`` of this process.
    """

    def __init__(self, connect: Callable[[], ModelRegistry], unsent: Unsent) -> None:
        self._connect = connect
        self._unsent = unsent

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
        """Return the version that holds a model; one without version and address if it was kept for later."""
        if not self._unsent.away:
            try:
                return self._connect().register(
                    run,
                    name,
                    model,
                    model_directory,
                    alias=alias,
                    description=description,
                    tags=tags,
                    input_example=input_example,
                    metrics=metrics,
                    dataset=dataset,
                )
            except AwayError:
                self._unsent.give_up()
        files = sorted(path for path in model_directory.rglob("*") if path.is_file())
        self._unsent.keep(
            "register",
            run=run,
            name=name,
            model={
                path.relative_to(model_directory).as_posix(): self._unsent.keep_file(path.read_bytes())
                for path in files
            },
            alias=alias,
            description=description,
            tags=dict(tags),
            input_example={part: self._unsent.keep_file(_bytes(array)) for part, array in input_example.items()},
            metrics=[asdict(point) for point in metrics],
            dataset=asdict(dataset) if dataset else None,
        )
        return RegisteredModel(name, "", "")

    def fetch(self, address: str, directory: Path) -> Path:
        """Return the folder with a registered network; one that was kept for later can't be had yet."""
        return self._connect().fetch(address, directory)


@dataclass(frozen=True)
class Sent:
    """What sending the calls of one run did.

    Attributes:
        run: Name of the run.
        calls: How many calls were made, by their names.
        model: The model that was registered, if there was one.
    """

    run: str
    calls: Mapping[str, int]
    model: RegisteredModel | None = None

    @property
    def num_calls(self) -> int:
        """How many calls were made."""
        return sum(self.calls.values())


def send(unsent: Unsent, tracker: Tracker, registry: Callable[[], ModelRegistry]) -> Sent:
    """Make the calls of a run that could not be made, in order, and note of each that it has been made.

    Args:
        unsent: The calls.
        tracker: Where they go.
        registry: Gives where a model goes.

    Raises:
        AwayError: The tracker has gone away again; what is left can be sent later.
        InputError: A call is damaged, or the tracker refuses it.
    """
    sender = _Sender(unsent, tracker, registry)
    made: Counter[str] = Counter()
    for key in unsent.left():
        entry = unsent.entry(key)
        unsent.mark(key, sender.make(entry["call"], entry["arguments"]))
        made[entry["call"]] += 1
    return Sent(unsent.run, dict(made), sender.model)


class _Sender:
    """Makes calls as they were kept; every method is one of them, and returns the runs that it learned to know."""

    def __init__(self, unsent: Unsent, tracker: Tracker, registry: Callable[[], ModelRegistry]) -> None:
        self._unsent = unsent
        self._tracker = tracker
        self._registry = registry
        self._known = unsent.known_runs()
        self.model: RegisteredModel | None = None

    def make(self, call: str, arguments: dict[str, Any]) -> dict[str, str]:
        run = str(arguments.pop("run"))
        if call in ("open_run", "find_run"):
            learned = self._opened(arguments) if call == "open_run" else self._tracker.find_run(**arguments)
            if learned is None:
                return {}
            self._known[run] = learned
            return {run: learned}
        run = self._known.get(run, run)
        if run.startswith(_UNKNOWN_RUN):
            return {}  # to be closed if it was there, and it was not
        calls: dict[str, Callable[..., None]] = {
            "log_parameters": self._tracker.log_parameters,
            "log_metrics": self._log_metrics,
            "log_file": self._log_file,
            "log_table": self._tracker.log_table,
            "log_dataset": self._log_dataset,
            "tag_run": self._tracker.tag_run,
            "untag_run": self._tracker.untag_run,
            "close_run": self._tracker.close_run,
            "register": self._register,
        }
        calls[call](run, **arguments)
        return {}

    def _opened(self, arguments: dict[str, Any]) -> str:
        parent = arguments["parent"]
        key = arguments["key"]
        for stands_for, known in self._known.items():
            key = key.replace(stands_for, known)
        return self._tracker.open_run(
            key,
            arguments["name"],
            parent=self._known.get(parent, parent),
            description=arguments["description"],
            tags=arguments["tags"],
            files=arguments.get("files", {}),
        )

    def _log_metrics(self, run: str, points: list[dict[str, Any]]) -> None:
        self._tracker.log_metrics(run, [MetricPoint(**point) for point in points])

    def _log_file(self, run: str, name: str, content: str, folder: str) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, name)
            path.write_bytes(self._unsent.kept_file(content))
            self._tracker.log_file(run, path, folder)

    def _log_dataset(self, run: str, dataset: dict[str, Any], context: str) -> None:
        self._tracker.log_dataset(run, _summary(dataset), context)

    def _register(
        self,
        run: str,
        name: str,
        model: dict[str, str],
        alias: str,
        description: str,
        tags: dict[str, str],
        input_example: dict[str, str],
        metrics: Sequence[dict[str, Any]] = (),  # of another version of metantk there are none
        dataset: dict[str, Any] | None = None,
    ) -> None:
        example = {part: _array(self._unsent.kept_file(content)) for part, content in input_example.items()}
        with tempfile.TemporaryDirectory() as scratch:
            for relative, content in model.items():
                path = Path(scratch, "model", relative)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(self._unsent.kept_file(content))
            self.model = self._registry().register(
                run,
                name,
                meta_training.load_model(Path(scratch, "model")),
                Path(scratch, "model"),
                alias=alias,
                description=description,
                tags=tags,
                input_example=example,
                metrics=[MetricPoint(**point) for point in metrics],
                dataset=_summary(dataset) if dataset else None,
            )
        note_model(self._unsent.store, self._unsent.run, self.model)


def _summary(values: Mapping[str, Any]) -> DatasetSummary:
    return DatasetSummary(**{**values, "image_shape": tuple(values["image_shape"])})


def _bytes(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _plain(value: object) -> object:
    """Return a value of a table or the like as one that JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    return str(value)
