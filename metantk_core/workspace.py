"""Where runs keep their things, and how a step gets its ports: paths and addresses enter, ``Ports`` leave."""

import json
import os
import re
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from metantk_core import datasets, stopping, wiring, workflow
from metantk_core.adapters import locks
from metantk_core.adapters.addresses import admit_tracking, refuse_secrets, scheme, shown, sqlite_uri
from metantk_core.adapters.filesystem import sweep
from metantk_core.adapters.progress import WATCHED, ProgressFile, ProgressLines, notice
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import KEPT, STOPPED, InputError, StepError, full_disk
from metantk_core.ports import ArtifactStore, AwayError, ModelRegistry, RunStatus, Tracker, run_scope
from metantk_core.progress import Progress
from metantk_core.workflow import Ports, Sent, Unsent

_LAST_LINES = 12  # of a log
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LEAST_ROOM = 256 * 1024  # bytes without which no step goes on


@dataclass(frozen=True)
class Workspace:
    """A folder for everything that runs on this machine produce.

    Attributes:
        root: The folder; made when needed.
        tracking: Address of MLflow; empty for a SQLite database in the folder.
        device: Where networks run, see ``wiring.device``; empty for the environment's choice.
        shared: Address of an artifact store that others use too; empty for the folder itself.
    """

    root: Path
    tracking: str = ""
    device: str = ""
    shared: str = ""

    @property
    def store_uri(self) -> str:
        """Address of the artifact store; a folder by its whole path, for steps work elsewhere."""
        return self.shared if scheme(self.shared) else str((Path(self.shared) if self.shared else self.root).absolute())

    @property
    def tracking_uri(self) -> str:
        """Address of MLflow."""
        return self.tracking or sqlite_uri(self.root.absolute() / "mlflow.db")

    @property
    def datasets(self) -> Path:
        """Folder of prepared datasets."""
        return self.root.absolute() / "datasets"

    def folder(self, config: RunConfig) -> Path:
        """Return the folder of one run."""
        return self.root.absolute() / config.run_id

    def store(self) -> ArtifactStore:
        """Return the artifact store."""
        return wiring.artifact_store(self.store_uri)

    def prepare(self, config: RunConfig) -> RunConfig:
        """Make sure that the workspace can be written and that MLflow answers, before anything expensive.

        Returns:
            The configuration, with the digest of the images if they are a person's own: what lies under a path may
            change, and is then another run.

        Raises:
            InputError: There is no such device, no candidate is within the limits, the folder can't be written, MLflow
                doesn't answer, or the images can't be read.
        """
        admit_tracking(self.tracking_uri)  # first what takes no time
        self.store()
        refuse_secrets(self.store_uri)
        wiring.device(self.device, probe=False)
        workflow.check_limits(config)
        self._make_writable(self.root.absolute())
        if self.shared and not scheme(self.shared):
            self._make_writable(Path(self.store_uri), "the store", "--store")
        wiring.tracker(self.tracking_uri)
        if config.data.path is None or config.dataset_digest is not None:
            return config
        return config.model_copy(update={"dataset_digest": self.dataset(config).digest})

    def dataset(self, config: RunConfig) -> ImageDataset:
        """Return the run's dataset, built or converted if it is not there yet.

        Raises:
            InputError: The folder can't be written, or the images are missing or broken.
        """
        self._make_writable(self.datasets)
        return datasets.prepare(
            config.data, workflow.dataset_folder(self.datasets, config), progress=ProgressLines(sys.stderr, "dataset")
        )

    def _make_writable(self, folder: Path, what: str = "the workspace", option: str = "--workspace") -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"Can't write to {what} {folder}: {error.strerror}; choose another folder with {option}."
            ) from error

    def link(self, config: RunConfig) -> str | None:
        """Return the address of the run's page on the MLflow server, or none if there is no server that answers."""
        if not _is_server(self.tracking_uri):
            return None
        try:
            tracker = wiring.tracker(self.tracking_uri)
            run = tracker.find_run(config.run_id)
            return tracker.link(run) if run else None
        except AwayError:
            return None

    def sync_command(self) -> list[str]:
        """Return the arguments that send what could not be logged, beside the program's name."""
        arguments = ["sync"]
        if self.shared:
            arguments += ["--store", self.shared]
        elif self.root != Path("runs"):
            arguments += ["--workspace", str(self.root)]
        return arguments

    def sync(self) -> Iterator[Sent]:
        """Send what could not be logged of the runs in the store to the server that each is from; give what was sent.

        Another ``tracking`` address is taken instead: a server may have another name here than where the run was.

        Raises:
            AwayError: The server does not answer; what is left can be sent later.
            InputError: The address needs a password, which is kept nowhere, or something kept is damaged.
        """
        if self.tracking:
            admit_tracking(self.tracking)
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
        store = self.store()
        for run, address in workflow.unsent_runs(store).items():
            there = self.tracking or address
            tracker = wiring.tracker(there)
            try:
                yield workflow.send(Unsent(store, run, address), tracker, lambda there=there: _registry(there))
            except InputError as error:
                if getattr(error, "code", "") != "RESOURCE_DOES_NOT_EXIST":
                    raise
                raise InputError(
                    f"The run {run} was logged to {address}, but what answers at {shown(there)} does not hold it; give "
                    "--tracking-uri the address of that server, by whatever name it is reached from here."
                ) from error

    def ui_command(self, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command that serves MLflow's pages for this workspace, and what it needs in its environment.

        Args:
            port: Port on this machine.

        Raises:
            InputError: There are no runs yet, or something else listens on the port.
        """
        if not (self.root / "mlflow.db").exists():
            raise InputError(
                f"Expected runs in the workspace {self.root}, but it has no mlflow.db; do `metantk run` first, or "
                "name another folder with --workspace."
            )
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise InputError(f"Something already listens on port {port}; choose another one with --port.")
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "ui",
            "--backend-store-uri",
            sqlite_uri(self.root.absolute() / "mlflow.db"),
        ]
        command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        # Its job processes would take gigabytes for nothing that we use.
        return command, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@dataclass(frozen=True)
class _Tracking:
    """The way to MLflow of one process.

    Attributes:
        tracker: Where it logs.
        registry: Gives where it registers.
        unsent: What could not be logged; none where MLflow is a database, which does not go away.
    """

    tracker: Tracker
    registry: Callable[[], ModelRegistry]
    unsent: Unsent | None = None


def _tracking(address: str, store: ArtifactStore, run: str, *, at_start: bool) -> _Tracking:
    """Return the way to MLflow, after what could not be logged before was sent.

    Args:
        address: Address of MLflow.
        store: Keeps what can't be logged.
        run: Name of the run.
        at_start: Whether nothing has been computed yet, so that it is an error if the server is away. Later on it is
            waited for, unless others of the run did so already.

    Raises:
        AwayError: At the start the server does not answer.
    """
    if not _is_server(address):
        return _Tracking(wiring.tracker(address), lambda: _registry(address))
    unsent = Unsent(store, run, shown(address), notice)
    left = bool(unsent.left())
    tracker = None
    try:
        found = wiring.tracker(address, patient=not at_start and not left)
        tracker = found if not left or _sent(unsent, found, address, at_start=at_start) else None
    except AwayError:
        if at_start:
            raise
    if tracker is None:
        unsent.give_up()
    return _Tracking(
        workflow.KeepingTracker(tracker, unsent),
        lambda: workflow.KeepingRegistry(lambda: _registry(address), unsent),
        unsent,
    )


def _sent(unsent: Unsent, tracker: Tracker, address: str, *, at_start: bool) -> bool:
    """Send what could not be logged before; return whether all of it was."""
    try:
        workflow.send(unsent, tracker, lambda: _registry(address))
    except InputError as error:
        if at_start:
            raise
        notice(f"What could not be logged before can't be logged now: {error}")  # `metantk sync` will say so again
        return False
    return True


def _registry(address: str) -> ModelRegistry:
    return wiring.model_registry(address, patient=True)


@contextmanager
def own_run(config: RunConfig, place: Workspace) -> Iterator[Tracker]:
    """Be the only process that works on a run, and leave nothing of it looking as if it went on.

    Runs in the tracker that an earlier process left open because it was killed are closed first; those that are open
    when something ends this one are closed then. Gives the tracker. If its server goes away meanwhile, what can't be
    logged is kept, and how to send it later is said in the end.

    Raises:
        InputError: Another process works on this run, or the server does not answer.
    """
    with _owned(config, place, place.store()) as tracking:
        yield tracking.tracker


@contextmanager
def _owned(config: RunConfig, place: Workspace, store: ArtifactStore) -> Iterator[_Tracking]:
    folder = place.folder(config)
    with stopping.raising(), locks.exclusive(folder / ".lock", f"The run {config.run_id} in {place.root}"):
        tracking = _tracking(place.tracking_uri, store, config.run_id, at_start=True)
        with _scratch(folder / ".scratch"), _swept(place.root.absolute()):
            _close(tracking.tracker, config, "killed")
            try:
                yield tracking
            except BaseException as error:
                with stopping.shielded():
                    try:
                        status = "killed" if isinstance(error, KeyboardInterrupt) else "failed"
                        _close(tracking.tracker, config, status)
                    except Exception as second:  # what ended the work matters more than that it could not be noted
                        error.add_note(f"The runs of {config.run_id} could not be closed: {second}")
                raise
            _send_or_tell(tracking.unsent, place)


def _send_or_tell(unsent: Unsent | None, place: Workspace) -> None:
    """Send what could not be logged while a run went on, or say what to do once the server answers again."""
    if unsent is None or not unsent.left():
        return
    try:
        sent = workflow.send(
            unsent, wiring.tracker(place.tracking_uri), lambda: wiring.model_registry(place.tracking_uri)
        )
        notice(f"MLflow at {unsent.address} was away for a while; {sent.num_calls} calls were made up for.")
    except InputError as error:
        if not isinstance(error, AwayError):
            notice(str(error))
        notice(_advice(unsent, place.sync_command()))


def _advice(unsent: Unsent, command: Sequence[str]) -> str:
    return (
        f"MLflow at {unsent.address} lacks something: the results are whole, and {len(unsent.left())} calls that "
        f"would show them there are kept in {unsent.place}; once it answers, do: {shlex.join(['metantk', *command])}"
    )


@contextmanager
def open_run(config: RunConfig, place: Workspace) -> Iterator[tuple[ImageDataset, Ports]]:
    """Give the steps of a run in this process its dataset and their ports, with progress on standard error.

    Args:
        config: The run, as ``Workspace.prepare`` returned it.
        place: Where it keeps its things.
    """
    kept = place.store()
    with _owned(config, place, kept) as tracking:
        run = workflow.open_run(config, tracking.tracker)
        with run_scope(tracking.tracker, run), wiring.opened_store(place.store_uri, kept) as store:
            ports = Ports(
                store=store,
                tracker=tracking.tracker,
                registry=tracking.registry(),
                run=run,
                progress_for=_progress_for,
                device=wiring.device(place.device),
            )
            dataset = place.dataset(config)
            workflow.admit_dataset(config, dataset, ports)
            try:
                yield dataset, ports
            except (KeyboardInterrupt, SystemExit):
                notice(STOPPED)
                raise


def _is_server(address: str) -> bool:
    return scheme(address) in ("http", "https")


def _close(tracker: Tracker, config: RunConfig, status: RunStatus) -> None:
    """Close what is open of a run in the tracker; how a run ended that has ended stays."""
    run = tracker.find_run(config.run_id)
    if run is not None:
        tracker.close_run(run, status, again=False)


@contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Let temporary files of this process and its children lie in a folder, emptied before and removed afterwards.

    In the system's own folder those of a killed process would stay.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    inherited = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before
        if inherited is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = inherited
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _swept(root: Path) -> Iterator[None]:
    """Remove what killed processes left unfinished in the workspace, before and (by then it is old enough) after."""
    sweep(root)
    try:
        yield
    finally:
        sweep(root)


@contextmanager
def open_step(
    config: str, *, store: str, tracking_uri: str, run: Path | None = None, images: Path | None = None
) -> Iterator[tuple[RunConfig, Ports]]:
    """Give one step of a pipeline, in a process of its own, its configuration and ports.

    In a pod, progress goes to standard error; a local run names a folder in ``METANTK_PROGRESS`` and shows what it
    finds there. A person's bad input ends the process with one sentence and exit code 2.

    Args:
        config: ``RunConfig`` as JSON.
        store: Address of the artifact store; empty keeps finished work only as long as the pod lives.
        tracking_uri: Address of MLflow; empty for ``MLFLOW_TRACKING_URI``.
        run: File with the identifier of the pipeline's run in the tracker; none opens the run.
        images: Where a person's own images are prepared before the run is opened, which they are a part of.
    """
    folder = os.environ.get(WATCHED)
    parent = os.environ.get(stopping.PARENT)
    if parent:
        stopping.end_with(int(parent))
    try:
        with stopping.raising():  # a pod that is told to go tidies up, whatever it is at
            run_config = RunConfig.from_json(config)
            address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
            if not address:
                raise InputError(
                    "No MLflow address was given; set the pipeline's tracking_uri or MLFLOW_TRACKING_URI in the pods."
                )
            # The first step makes the run, and says so if it can't; others wait for a server that is away.
            patient = run is not None
            kept = wiring.artifact_store(store) if store else None
            if kept is not None:
                # By the name that all steps know: that of the configuration before its images were prepared.
                tracking = _tracking(address, kept, run_config.run_id, at_start=not patient)
            else:  # what can't be logged has no place to wait in
                tracking = _Tracking(wiring.tracker(address, patient=patient), lambda: _registry(address))
            tracker = tracking.tracker
            if images is not None and run_config.data.path is not None and run_config.dataset_digest is None:
                found = workflow.prepare_images(run_config, images, _progress_for("dataset"), cache=dataset_cache())
                run_config = run_config.model_copy(update={"dataset_digest": found.digest})
            with tempfile.TemporaryDirectory() as scratch, wiring.opened_store(store or scratch, kept) as opened:
                yield (
                    run_config,
                    Ports(
                        store=opened,
                        tracker=tracker,
                        registry=tracking.registry(),
                        run=run.read_text(encoding="utf-8") if run else workflow.open_run(run_config, tracker),
                        progress_for=_progress_for,
                        device=wiring.device(),
                    ),
                )
            if not folder and tracking.unsent is not None and tracking.unsent.away:
                notice(_advice(tracking.unsent, ["sync", "--store", store]))
    except (InputError, OSError) as error:
        known = error if isinstance(error, InputError) else full_disk(error)
        if known is None:
            raise
        if folder:
            with suppress(OSError):  # where the disk is full, the command sees that itself
                _failure_file(Path(folder)).write_text(json.dumps({"sentence": str(known)}), encoding="utf-8")
        print(f"metantk: {known}", file=sys.stderr)  # noqa: T201 - a pod's log is its terminal
        raise SystemExit(2) from error


def raise_step_failure(progress: Path, log: Path) -> NoReturn:
    """Raise what ended a local pipeline run.

    Raises:
        InputError: A step met a person's bad input.
        StepError: Anything else, with the end of the log.
    """
    with suppress(FileNotFoundError, ValueError):  # on a full disk the file is empty
        raise InputError(json.loads(_failure_file(progress).read_text(encoding="utf-8"))["sentence"])
    if shutil.disk_usage(progress).free < _LEAST_ROOM:
        raise InputError(f"The disk of {progress.parent} is full; make room, and run the same command again: {KEPT}")
    text = _COLOURS.sub("", log.read_text(encoding="utf-8", errors="replace"))
    lines = [line for line in text.splitlines() if line.strip()]
    raise StepError(
        f"a step of the pipeline ended with an unexpected error. This is a fault of metantk, not of your input; please "
        f"report it, with the log {log}, which ends:\n" + "\n".join(lines[-_LAST_LINES:])
    )


def dataset_cache() -> Path | None:
    """Return the folder in which a local run keeps prepared datasets, if there is one."""
    folder = os.environ.get("METANTK_DATASET_CACHE")
    return Path(folder) if folder else None


def _progress_for(step: str) -> Progress:
    folder = os.environ.get(WATCHED)
    return ProgressFile(Path(folder), step) if folder else ProgressLines(sys.stderr, step)


def _failure_file(folder: Path) -> Path:
    return folder / "failure.json"
