"""Benchmark reruns on this machine or in a pod: a configuration and places enter, a verdict and its page leave.

A rerun keeps its work in a folder of its own, ``benchmarks/<run>/<rerun>/``, in the workspace (in the store, if others
share that), so that nothing computed before is taken for new. A rerun that was killed is found there and goes on, as
long as versions and machine are what they were; once it has ended, only its page and figures stay.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from metantk_core import stopping, tracking, wiring, workflow
from metantk_core.adapters import locks
from metantk_core.adapters.addresses import scheme
from metantk_core.adapters.progress import notice, progress_for
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.errors import STOPPED, InputError
from metantk_core.files import write_atomically
from metantk_core.ports import Tracker, run_scope
from metantk_core.reruns import Comparison, Past, Rerun, Surroundings, compare
from metantk_core.seeding import digest
from metantk_core.workflow import Baseline, Ports
from metantk_core.workspace import Workspace

FOLDER = "benchmarks"
"""Folder of reruns in a workspace, and beginning of their keys in a store."""
_BEGUN = "begun.json"
_LARGEST_OF_OURS = 4  # exit codes; those of signals lie above 128


@dataclass(frozen=True)
class Outcome:
    """What a rerun came to.

    Attributes:
        comparison: The rerun and what became of its figures.
        baseline: What it was compared with, or why with nothing.
        run: Identifier of its run in MLflow.
        page: Its page on this machine.
        link: Address of the run's page in MLflow; none without a server.
    """

    comparison: Comparison
    baseline: Baseline
    run: str
    page: Path
    link: str | None

    def as_values(self) -> dict[str, object]:
        """Return plain values for JSON."""
        now, before = self.comparison.now, self.comparison.before
        return {
            "recipe": now.recipe,
            "experiment": now.experiment,
            "rerun": now.name,
            "run": self.run,
            "verdict": self.comparison.verdict,
            "sentence": self.comparison.sentence,
            "baseline": self.baseline.run or None,
            "why no baseline": self.baseline.why or None,
            "changes": list(now.changes_since(before)) if before else [],
            "figures": {
                verdict.figure: {
                    "now": _plain(verdict.now),
                    "before": _plain(verdict.before),
                    "status": str(verdict.status),
                    "words": verdict.words,
                }
                for verdict in self.comparison.verdicts
            },
            "page": str(self.page),
            "link": self.link,
        }


def _plain(measured: object) -> object:
    return measured if measured is None or isinstance(measured, str) else vars(measured)


@dataclass(frozen=True)
class _Begun:
    """A rerun that has begun.

    Attributes:
        name: Its name among those of the experiment.
        date: When it began, ISO 8601 in UTC.
        folder: Its folder in the workspace.
        work: Address of the store of its finished work.
        abandoned: Names of reruns that nobody goes on with any more: killed, and of other versions or machines.
    """

    name: str
    date: str
    folder: Path
    work: str
    abandoned: tuple[str, ...]

    @property
    def scratch(self) -> Path:
        """Folder of what goes when the rerun has ended."""
        return self.folder / "work"

    def finished(self) -> Rerun | None:
        """Return what it measured, if it has been through with everything."""
        try:
            return Rerun.from_json((self.folder / workflow.RERUN_FILE).read_bytes())
        except FileNotFoundError:
            return None


def run(config: RunConfig, place: Workspace, *, name: str = "", pipeline: str = "") -> Outcome:
    """Run an experiment anew, or go on with a rerun that was killed, and compare it with the accepted baseline.

    The page and the tags are in MLflow, and the page in the workspace, when this returns, whatever the verdict.

    Args:
        config: The experiment.
        place: Where things are kept.
        name: Name of the rerun: one that has ended is not computed again. Empty for a new one, or one that was killed.
        pipeline: Kubeflow's identifier of the pipeline run that asks; empty for none.

    Raises:
        InputError: MLflow does not answer, the baseline is damaged, or another process reruns this experiment here.
    """
    _calm_mlflow()
    config = place.prepare(config)
    folder = place.root.absolute() / FOLDER / config.run_id
    device = wiring.device(place.device)
    around = workflow.surroundings(device)
    with stopping.raising(), locks.exclusive(folder / ".lock", f"The benchmark of {config.run_id} in {place.root}"):
        begun = _begin(folder, config, place, around, name)
        way = tracking.open_tracking(
            place.tracking_uri,
            place.store(),
            f"benchmark-{config.run_id}-{begun.name}",
            at_start=True,
            experiment=wiring.BENCHMARKS,
        )
        # Before anything is computed: what it is compared with must be readable.
        baseline = workflow.find_baseline(config, way.tracker)
        earlier = workflow.earlier_reruns(config, way.tracker)
        outcome = _ran(config, place, begun, around, device, way, baseline, earlier, pipeline)
        tracking.send_or_tell(way.unsent, place.tracking_uri, place.sync_command())
    return outcome


def run_apart(config: RunConfig, place: Workspace, *, name: str, as_json: bool) -> tuple[int, str]:
    """Run a benchmark in a process of its own, which ends with this one; return its exit code and what it printed.

    Args:
        config: The experiment.
        place: Where things are kept.
        name: Name of the rerun; may be empty.
        as_json: Whether it prints for programs, which is returned; what it prints for people goes to this terminal.

    Raises:
        SystemExit: The process was told to end.
    """
    command = [sys.executable, "-m", "metantk_core", "benchmark", "run", *(["--json"] if as_json else [])]
    given = {
        # Not as arguments, which everybody can read: an address may hold a password.
        "MLFLOW_TRACKING_URI": place.tracking,
        "METANTK_STORE": place.shared,
        "METANTK_WORKSPACE": str(place.root),
        "METANTK_DEVICE": place.device,
        stopping.PARENT: str(os.getpid()),
    }
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, f"{config.name}.json")
        configuration.write_text(config.to_json(), encoding="utf-8")
        process = subprocess.Popen(
            [*command, str(configuration), *(["--rerun", name] if name else [])],
            env={**os.environ, **{variable: value for variable, value in given.items() if value}},
            stdout=subprocess.PIPE if as_json else None,
            text=True,
        )
        try:
            said, _ = process.communicate()
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode < 0 or process.returncode > _LARGEST_OF_OURS:
        raise SystemExit(process.returncode if process.returncode > 0 else 128 - process.returncode)
    return process.returncode, said or ""


def _ran(
    config: RunConfig,
    place: Workspace,
    begun: _Begun,
    around: Surroundings,
    device: str,
    way: tracking.Tracking,
    baseline: Baseline,
    earlier: tuple[Past, ...],
    pipeline: str,
) -> Outcome:
    tracker = way.tracker
    _abandon(begun, config, tracker)
    done = begun.finished() or workflow.finished_rerun(config, tracker, begun.name)
    run = workflow.open_rerun(config, tracker, around, name=begun.name, date=begun.date, pipeline=pipeline)
    with run_scope(tracker, run), wiring.opened_store(begun.work) as store:
        ports = Ports(store, tracker, way.registry(), run, progress_for, device, wiring.images)
        if done is None:
            dataset = _images(config, place, begun)
            workflow.admit_dataset(config, dataset, ports)
            try:
                done = workflow.rerun(config, dataset, ports, around, name=begun.name, date=begun.date)
            except (KeyboardInterrupt, SystemExit):
                notice(STOPPED)
                raise
        comparison = compare(done, baseline.rerun, config.benchmark)
        page = begun.folder / workflow.PAGE
        workflow.log_rerun(config, comparison, baseline, earlier, page, ports)
        write_atomically(begun.folder / workflow.RERUN_FILE, done.to_json().encode())
    _clear(begun)
    return Outcome(comparison, baseline, run, page, tracker.link(run))


def _images(config: RunConfig, place: Workspace, begun: _Begun) -> ImageDataset:
    """Return the images: generated ones made anew, for that is computed, too; a person's own as they were prepared."""
    if config.data.path is not None:
        return place.dataset(config)
    return replace(place, root=begun.scratch).dataset(config)


def _begin(folder: Path, config: RunConfig, place: Workspace, around: Surroundings, name: str) -> _Begun:
    """Return the rerun to go on with: the named one, one that was killed under the same circumstances, or a new one."""
    marks = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(f"*/{_BEGUN}")}
    killed = {known for known in marks if not (folder / known / workflow.RERUN_FILE).exists()}
    circumstances = digest([around.software, around.machine, around.device])
    if not name:
        alike = [known for known in killed if marks[known]["circumstances"] == circumstances]
        name = max(alike, key=lambda known: marks[known]["date"], default="")
    now = datetime.now(UTC)
    name = name or f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    date = marks[name]["date"] if name in marks else now.isoformat(timespec="seconds")
    write_atomically(
        folder / name / _BEGUN, json.dumps({"date": date, "circumstances": circumstances}).encode(), durable=False
    )
    # A pod that is tried again on another kind of machine begins anew: half of the numbers would be the other's.
    work = f"{place.store_uri.rstrip('/')}/{FOLDER}/{config.run_id}/{name}/work/{circumstances}"
    return _Begun(name, date, folder / name, work, tuple(sorted(killed - {name})))


def _abandon(begun: _Begun, config: RunConfig, tracker: Tracker) -> None:
    """Remove the work of reruns that nobody goes on with any more, and close their runs."""
    for name in begun.abandoned:
        if run := tracker.find_run(workflow.rerun_key(config, name)):
            tracker.close_run(run, "killed", again=False)
        shutil.rmtree(begun.folder.parent / name, ignore_errors=True)


def _clear(begun: _Begun) -> None:
    """Remove the work of a rerun that has ended: its figures and its page are all that anybody needs."""
    shutil.rmtree(begun.scratch, ignore_errors=True)
    if scheme(begun.work):
        store = wiring.artifact_store(begun.work)
        store.delete(list(store.keys()))
    else:
        shutil.rmtree(begun.work, ignore_errors=True)


def _has_runs(place: Workspace) -> bool:
    """Return whether there is something to ask; who only looks makes no database."""
    return bool(place.tracking) or (place.root / "mlflow.db").exists()


def _calm_mlflow() -> None:
    """Let MLflow draw no bars, and take a rerun for a run of its own, among its like, also in an MLflow project."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.pop("MLFLOW_RUN_ID", None)


def accept(run: str, place: Workspace) -> tuple[Past, Past | None]:
    """Make a rerun the baseline of its experiment; return it, and the baseline before it if there was one.

    Raises:
        InputError: It is none, or lacks what reruns are compared by.
    """
    if not _has_runs(place):
        raise InputError(
            f"Expected reruns in the workspace {place.root}, but it has no mlflow.db; name one with --workspace, "
            "or MLflow's address with --tracking-uri."
        )
    _calm_mlflow()
    return workflow.accept(run, wiring.tracker(place.tracking_uri, wiring.BENCHMARKS))


def reruns(place: Workspace, recipe: str = "") -> tuple[Past, ...]:
    """Return the reruns that MLflow remembers, the oldest first.

    Args:
        place: Where MLflow is.
        recipe: Name of a recipe; empty for all.
    """
    if not _has_runs(place):
        return ()
    return workflow.all_reruns(wiring.tracker(place.tracking_uri, wiring.BENCHMARKS), recipe)


def close(pipeline: str, tracking_uri: str) -> int:
    """Leave no rerun of a pipeline run looking as if it went on; return how many did.

    Args:
        pipeline: Kubeflow's identifier of the pipeline run.
        tracking_uri: Address of MLflow.
    """
    return workflow.close_reruns(wiring.tracker(tracking_uri, wiring.BENCHMARKS, patient=True), pipeline)
