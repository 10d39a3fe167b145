"""Where runs keep their things on a machine: paths and addresses enter, ``Ports`` leave."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from metantk_core import datasets, stopping, tracking, wiring, workflow
from metantk_core.adapters import locks
from metantk_core.adapters.addresses import admit_tracking, refuse_secrets, scheme, shown, sqlite_uri
from metantk_core.adapters.progress import ProgressLines, notice, progress_for
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset, Split
from metantk_core.errors import STOPPED, InputError, without_addresses
from metantk_core.files import sweep
from metantk_core.ports import ArtifactStore, AwayError, RunStatus, Tracker, run_scope
from metantk_core.progress import Progress
from metantk_core.tracking import Tracking
from metantk_core.workflow import Ports, Sent, Unsent


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
    _datasets: dict[Path, ImageDataset] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    def existing_store(self) -> ArtifactStore:
        """Return the artifact store, if there is one.

        Raises:
            InputError: It is a folder that is not there, or can't be used.
        """
        refuse_secrets(self.store_uri)
        if not scheme(self.store_uri) and not Path(self.store_uri).is_dir():
            raise InputError(
                f"Expected a store in {without_addresses(self.store_uri)}, but there is no such folder; name one with "
                "--store, or the workspace that holds it with --workspace."
            )
        return self.store()

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
        store = self.store()
        refuse_secrets(self.store_uri)
        wiring.device(self.device, probe=False)
        workflow.check_limits(config)
        self._make_writable(self.root.absolute())
        if self.shared and not scheme(self.shared):
            self._make_writable(Path(self.store_uri), "the store", "--store")
        wiring.tracker(self.tracking_uri)
        if config.data.path is None or config.dataset_digest is not None:
            return config
        return config.model_copy(update={"dataset_digest": self.dataset(config, store).digest})

    def prepared_images(self, config: RunConfig) -> dict[Split, int] | None:
        """Return how many images each split has, if the dataset is prepared here; nothing is made or changed."""
        with suppress(InputError):
            dataset = datasets.load(workflow.dataset_folder(self.datasets, config))
            return {split: len(dataset.split(split).labels) for split in datasets.SPLITS}
        return None

    def dataset(self, config: RunConfig, store: ArtifactStore | None = None) -> ImageDataset:
        """Return the run's dataset, built or converted if it is neither here nor in a store that others use too.

        What ``prepare`` found for this run is returned as it is: all of it was compared with its checksums, gigabytes
        perhaps, and each image will be once more when it is taken.

        Args:
            config: The run.
            store: What ``store`` returned before; none to open it where it is needed.

        Raises:
            InputError: The folder can't be written, or the images are missing or broken.
        """
        folder = workflow.dataset_folder(self.datasets, config)
        known = self._datasets.get(folder)
        if known is None or known.digest != config.dataset_digest:
            self._make_writable(self.datasets)
            shared = (store or self.store()) if self.shared and config.data.path is not None else None
            known = workflow.prepare_images(config, folder, told("dataset"), images=wiring.images, store=shared)
            self._datasets[folder] = known
        return known

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
        if not tracking.is_server(self.tracking_uri):
            return None
        try:
            tracker = wiring.tracker(self.tracking_uri)
            run = tracker.find_run(config.run_id, hurry=True)
            return tracker.link(run) if run else None
        except AwayError:
            return None

    def network(self, address: str, run: str, scratch: Path) -> Path:
        """Return the folder of a trained network, fetched from MLflow unless it is one on this machine.

        Args:
            address: Of a version in the registry, or a folder.
            run: Name of the run that registered it, instead; else empty.
            scratch: A folder for what is fetched.

        Raises:
            InputError: There is no such run, model or version, or MLflow does not answer.
        """
        if run:
            address = workflow.registered_address(self.existing_store(), run)
        elif not address.startswith("models:/"):
            return Path(address).expanduser()
        admit_tracking(self.tracking_uri)
        if not self.tracking:
            self._admit_runs()  # MLflow would make a database of nothing
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        return wiring.model_registry(self.tracking_uri).fetch(address, scratch / "model")

    def _admit_runs(self) -> None:
        if not (self.root / "mlflow.db").exists():
            raise InputError(
                f"Expected runs in the workspace {self.root}, but it has no mlflow.db; do `metantk run` first, or "
                "name another folder with --workspace."
            )

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
                yield workflow.send(Unsent(store, run, address), tracker, lambda there=there: tracking.registry(there))
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
        self._admit_runs()
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


@contextmanager
def own_run(config: RunConfig, place: Workspace) -> Iterator[Tracker]:
    """Be the only process that works on a run, and leave nothing of it looking as if it went on.

    Runs in the tracker that an earlier process left open because it was killed are closed first; those that are open
    when something ends this one are closed then. Gives the tracker. If its server goes away meanwhile, what can't be
    logged is kept, and how to send it later is said in the end.

    Raises:
        InputError: Another process works on this run, or the server does not answer.
    """
    with _owned(config, place, place.store()) as way:
        yield way.tracker


@contextmanager
def _owned(config: RunConfig, place: Workspace, store: ArtifactStore) -> Iterator[Tracking]:
    folder = place.folder(config)
    with stopping.raising(), locks.exclusive(folder / ".lock", f"The run {config.run_id} in {place.root}"):
        way = tracking.open_tracking(place.tracking_uri, store, config.run_id, at_start=True)
        with _scratch(folder / ".scratch"), _swept(place.root.absolute()):
            _close(way.tracker, config, "killed")
            try:
                yield way
            except BaseException as error:
                with stopping.shielded():
                    try:
                        status = "killed" if isinstance(error, KeyboardInterrupt) else "failed"
                        _close(way.tracker, config, status)
                    except Exception as second:  # what ended the work matters more than that it could not be noted
                        error.add_note(f"The runs of {config.run_id} could not be closed: {second}")
                raise
            tracking.send_or_tell(way.unsent, place.tracking_uri, place.sync_command())


@contextmanager
def open_run(config: RunConfig, place: Workspace) -> Iterator[tuple[ImageDataset, Ports]]:
    """Give the steps of a run in this process its dataset and their ports, with progress on standard error.

    Args:
        config: The run, as ``Workspace.prepare`` returned it.
        place: Where it keeps its things.
    """
    kept = place.store()
    with _owned(config, place, kept) as way:
        run = workflow.open_run(config, way.tracker)
        with run_scope(way.tracker, run), wiring.opened_store(place.store_uri, kept) as store:
            ports = Ports(
                store=store,
                tracker=way.tracker,
                registry=way.registry(),
                run=run,
                progress_for=progress_for,
                device=wiring.device(place.device),
                images=wiring.images,
            )
            dataset = place.dataset(config, kept)
            workflow.admit_dataset(config, dataset, ports)
            try:
                yield dataset, ports
            except (KeyboardInterrupt, SystemExit):
                notice(STOPPED)
                raise


def told(step: str) -> Progress:
    """Return what tells people on standard error how far something is."""
    return ProgressLines(sys.stderr, step)


def _close(tracker: Tracker, config: RunConfig, status: RunStatus) -> None:
    """Close what is open of a run in the tracker; how a run ended that has ended stays."""
    run = tracker.find_run(config.run_id, hurry=True)
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
