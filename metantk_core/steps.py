"""One step of a pipeline, in a process or pod of its own: what Kubeflow hands it enters, its run and ports leave.

The first step opens the run and hands on its configuration, completed by the digest of the images; by that every later
step finds the same run, and none makes another. The last one runs whatever happened and leaves no run looking as if it
went on.
"""

import json
import os
import re
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from metantk_core import __version__, stopping, tracking, wiring, workflow
from metantk_core.adapters.addresses import may_hold_secret, shown
from metantk_core.adapters.progress import WATCHED, notice, progress_for
from metantk_core.config import RunConfig
from metantk_core.errors import KEPT, InputError, StepError, full_disk, without_addresses
from metantk_core.extras import missing_extra
from metantk_core.ports import FAILED_STEP, NO_ACCELERATOR, PIPELINE, ArtifactStore, RunStatus, Tracker
from metantk_core.secrecy import redacted
from metantk_core.tracking import Tracking
from metantk_core.workflow import Ports

DATASET_CACHE = "METANTK_DATASET_CACHE"
"""Environment variable with the folder in which a local run keeps prepared datasets."""

_LAST_LINES = 12  # of a log
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_REASON = 500
_LEAST_ROOM = 256 * 1024  # bytes without which no step goes on
_STATUS: Mapping[str, RunStatus] = {"SUCCEEDED": "finished", "CANCELLED": "killed"}


def admit_version(compiled: str) -> None:
    """Do nothing in an image that holds the version of metantk which compiled the pipeline; else end the process.

    Args:
        compiled: That version; empty for any.
    """
    with reporting():
        if compiled not in ("", __version__):
            raise InputError(
                f"Expected an image with metantk {compiled}, which compiled this pipeline, got one with {__version__}; "
                f"compile it with metantk {__version__}, or name an image of {compiled} with --image."
            )


@contextmanager
def open_pipeline(
    config: str, *, store: str, tracking_uri: str, images: Path, pipeline: str = "", kubeflow: str = ""
) -> Iterator[tuple[RunConfig, Ports]]:
    """Give the first step of a pipeline its configuration and ports, after its run was opened.

    A person's own images are prepared before: they are a part of what the run is.

    Args:
        config: ``RunConfig`` as JSON, as a person gave it.
        store: Address of the artifact store; empty keeps finished work only as long as the pod lives.
        tracking_uri: Address of MLflow; empty for ``MLFLOW_TRACKING_URI``. A server that is away is not waited for.
        images: Where a person's own images are prepared.
        pipeline: Kubeflow's identifier of the pipeline run.
        kubeflow: Address of Kubeflow's pages, for a link to that of the pipeline run; empty for none.
    """
    with reporting():
        run_config = RunConfig.from_json(config)
        address = tracking_address(tracking_uri)
        wiring.tracker(address)  # says so at once if nobody answers
        kept = wiring.artifact_store(store) if store else None
        if run_config.data.path is not None and run_config.dataset_digest is None:
            found = workflow.prepare_images(
                run_config,
                images,
                progress_for("dataset"),
                cache=dataset_cache(),
                images=wiring.images,
                store=kept,
            )
            run_config = run_config.model_copy(update={"dataset_digest": found.digest})
        page = f"{kubeflow.rstrip('/')}/#/runs/details/{pipeline}" if kubeflow else ""
        with _opened("prepare dataset", run_config, store, address, kept=kept, first=True) as step:
            run = workflow.open_run(run_config, step.way.tracker, pipeline=pipeline, page=page, pod=_pod())
            yield run_config, step.ports(run)


@contextmanager
def open_step(name: str, run: str | Path, *, store: str, tracking_uri: str) -> Iterator[tuple[RunConfig, Ports]]:
    """Give a later step of a pipeline its configuration and ports.

    In a pod, progress goes to standard error; a local run names a folder in ``METANTK_PROGRESS`` and shows what it
    finds there. A person's bad input ends the process with one sentence and exit code 2. What ends the step is noted
    in the tracker, with the name of the step.

    Args:
        name: Name of the step for people.
        run: File with the run's configuration, which the first step wrote.
        store: Address of the artifact store; empty keeps finished work only as long as the pod lives.
        tracking_uri: Address of MLflow; empty for ``MLFLOW_TRACKING_URI``. A server that is away is waited for.
    """
    with reporting():
        config, address = RunConfig.from_json(Path(run).read_text(encoding="utf-8")), tracking_address(tracking_uri)
        with _opened(name, config, store, address) as step:
            yield config, step.ports(_found(config, step.way.tracker, address))


def close_pipeline(pipeline: str, state: str, reason: str, *, config: str, store: str, tracking_uri: str) -> str:
    """Close what a pipeline left open in the tracker, however it ended, and return how it ended.

    Args:
        pipeline: Kubeflow's identifier of the pipeline run.
        state: Kubeflow's word for how it ended, such as ``SUCCEEDED``.
        reason: Kubeflow's message; may be empty.
        config: ``RunConfig`` as JSON, as a person gave it.
        store: Address of the artifact store.
        tracking_uri: Address of MLflow.
    """
    with reporting():
        status = _STATUS.get(state, "failed")
        with _opened("close run", RunConfig.from_json(config), store, tracking_address(tracking_uri)) as step:
            tracker = step.way.tracker
            run = tracker.find_run(pipeline, tag=PIPELINE)
            if run is not None:  # else the first step did not come so far
                if status != "finished" and reason:
                    tracker.tag_run(run, {f"{PIPELINE}.message": without_addresses(redacted(reason))[:_LONGEST_REASON]})
                tracker.close_run(run, status, again=False)
        return status


@contextmanager
def reporting() -> Iterator[None]:
    """Let signals raise, and a person's bad input end the process with one sentence and exit code 2.

    An error of ours ends it with its traceback, without secrets, and exit code 1.
    """
    parent = os.environ.get(stopping.PARENT)
    if parent:
        stopping.end_with(int(parent))
    else:
        # Kubeflow's own MLflow plugin may name a run of its own for each step; ours is one for all steps.
        os.environ.pop("MLFLOW_RUN_ID", None)
    try:
        with stopping.raising():  # a pod that is told to go tidies up, whatever it is at
            yield
    except Exception as error:
        known = error if isinstance(error, InputError) else full_disk(error) or missing_extra(error)
        if known is None:
            # As Python would, but without what some library wrote of secrets into its error.
            print(redacted(traceback.format_exc()), file=sys.stderr)  # noqa: T201 - a pod's log is its terminal
            raise SystemExit(1) from None
        folder = os.environ.get(WATCHED)
        if folder:
            with suppress(OSError):  # where the disk is full, the command sees that itself
                _failure_file(Path(folder)).write_text(json.dumps({"sentence": str(known)}), encoding="utf-8")
        print(f"metantk: {known}", file=sys.stderr)  # noqa: T201 - a pod's log is its terminal
        raise SystemExit(2) from error


@dataclass
class _Step:
    """A step with its way to MLflow and its store, before and after its run is known."""

    name: str
    config: RunConfig
    way: Tracking
    store: ArtifactStore
    run: str | None = None

    def ports(self, run: str) -> Ports:
        self.run = run
        device = wiring.device()
        self._say_where(device)
        return Ports(
            store=self.store,
            tracker=self.way.tracker,
            registry=self.way.registry(),
            run=run,
            progress_for=progress_for,
            device=device,
            images=wiring.images,
            pod=_pod(),
        )

    def _say_where(self, device: str) -> None:
        """Say in the log, in the tracker and, for the report, in the store if the step has to do without a GPU."""
        if wiring.ACCELERATOR not in os.environ:
            return
        assert self.run is not None
        lacking = wiring.no_accelerator(device)
        workflow.remark(self.store, self.config.run_id, self.name, lacking)
        if lacking:
            notice(lacking)
            self.way.tracker.tag_run(self.run, {f"{NO_ACCELERATOR}.{self.name}": lacking})

    def note_failure(self, error: BaseException) -> None:
        """Say in the tracker which step failed of what; a retry goes on with the same run and forgets it."""
        if self.run is None:
            return
        if isinstance(error, SystemExit | KeyboardInterrupt):
            said = "it was told to end"
        else:
            # A sentence of ours shows addresses without what is secret, and says which one it is.
            ours = isinstance(error, InputError)
            said = redacted(str(error)) if ours else without_addresses(redacted(f"{type(error).__name__}: {error}"))
        tags = {FAILED_STEP: self.name, f"{FAILED_STEP}.reason": said[:_LONGEST_REASON]}
        if _pod():
            tags[f"{FAILED_STEP}.pod"] = _pod()  # whose log says more
        try:
            with stopping.shielded():
                self.way.tracker.tag_run(self.run, tags)
        except Exception as second:  # what ended the step matters more than that it could not be noted
            error.add_note(f"That {self.name} failed could not be noted: {second}")


@contextmanager
def _opened(
    name: str, config: RunConfig, store: str, address: str, *, kept: ArtifactStore | None = None, first: bool = False
) -> Iterator[_Step]:
    if store and kept is None:  # a bucket is asked whether it answers each time
        kept = wiring.artifact_store(store)
    way = tracking.open_tracking(address, kept, config.run_id, at_start=first)
    with tempfile.TemporaryDirectory() as scratch, wiring.opened_store(store or scratch, kept) as opened:
        step = _Step(name, config, way, opened)
        try:
            yield step
        except BaseException as error:
            step.note_failure(error)
            raise
    if WATCHED not in os.environ and way.unsent is not None and way.unsent.away:
        notice(tracking.advice(way.unsent, ["sync", "--store", store]))


def _found(config: RunConfig, tracker: Tracker, address: str) -> str:
    run = tracker.find_run(config.run_id)
    if run is None:
        raise InputError(
            f"Expected the run {config.run_id} in MLflow at {shown(address)}, which the first step of the pipeline "
            "opens there, but it is gone; start the pipeline again."
        )
    return run


def tracking_address(tracking_uri: str) -> str:
    """Return the address of MLflow that a step was given, or that stands in ``MLFLOW_TRACKING_URI``.

    Raises:
        InputError: There is none.
    """
    address = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address:
        raise InputError(
            "No MLflow address was given; set the pipeline's tracking_uri or MLFLOW_TRACKING_URI in the pods."
        )
    return address


def run_page(name: str, link: str | None) -> str:
    """Return what Kubeflow shows of a run in MLflow, as Markdown: where it is.

    Args:
        name: Name of the run.
        link: Address of its page; none where there is no server.
    """
    if link is None or may_hold_secret(link.partition("#")[0]):
        return f"# {name}\n\nThe run is in MLflow's database, by this name: `metantk ui` or `mlflow ui` shows it.\n"
    return f"# {name}\n\n[The run in MLflow]({link})\n"


def raise_step_failure(progress: Path, log: Path) -> NoReturn:
    """Raise what ended a local pipeline run.

    Raises:
        InputError: A step met a person's bad input.
        StepError: Anything else, with the end of the log.
    """
    sentence = ""
    with suppress(FileNotFoundError, ValueError):  # on a full disk the file is empty
        sentence = json.loads(_failure_file(progress).read_text(encoding="utf-8"))["sentence"]
    if sentence:  # raised here, for this error is a ValueError, too
        raise InputError(sentence)
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
    folder = os.environ.get(DATASET_CACHE)
    return Path(folder) if folder else None


def _pod() -> str:
    """Return the name of the pod that this is; Kubeflow says so in its pods."""
    return os.environ.get("KFP_POD_NAME", "")


def _failure_file(folder: Path) -> Path:
    return folder / "failure.json"
