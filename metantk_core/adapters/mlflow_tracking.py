"""Tracker on MLflow: values of a run enter, the pages of MLflow's interface leave.

Runs are named by their identifiers in every call: MLflow's notion of an active run, global to a process, is not used.
"""

import json
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag, LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from metantk_core import ports
from metantk_core.adapters.addresses import shown
from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.adapters.mlflow_client import MlflowError, found_or_created
from metantk_core.adapters.mlflow_store import LONGEST_DIGEST, Connection
from metantk_core.errors import InputError
from metantk_core.ports import FAILED_STEP, RUN_KEY, DatasetSummary, MetricPoint, TrackedRun

NON_FINITE = "metantk.non_finite."
"""Beginning of the tags that note the first non-finite value of a curve, such as ``nan at step 12``."""

_KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag of an experiment by which the interface opens on its training runs, not on traces of language models."""
_CONTEXT = "mlflow.data.context"
_PARENT = "mlflow.parentRunId"
_NOTE = "mlflow.note.content"
_TABLES = "mlflow.loggedArtifacts"
_STATUS: Mapping[ports.RunStatus, str] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}
_ENDINGS: Mapping[str, ports.RunStatus] = {theirs: ours for ours, theirs in _STATUS.items()}
# Limits of MLflow's REST interface.
_RUNS_PER_CALL = 1000
_METRICS_PER_CALL = 1000
_PARAMETERS_PER_CALL = 100
_LONGEST_PARAMETER = 6000
_SECONDS_IN_A_HURRY = 5.0


class MlflowTracker:
    """A ``Tracker`` on MLflow.

    If ``MLFLOW_RUN_ID`` is set, as ``mlflow run`` does for the process that it starts, then a run without a parent
    is that run, in whatever experiment it is, instead of a new one.

    Args:
        connection: An MLflow that answers.
        experiment: Name of the experiment that new runs without a parent go to; made when first needed.
    """

    def __init__(self, connection: Connection, experiment: str) -> None:
        self._connection = connection
        self._client = connection.client
        self._experiment = experiment
        self._steps: dict[str, dict[str, set[int]]] = {}  # run → metric → steps that are there

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
            name: Name for people; the interface shows about 16 characters.
            parent: Identifier of the run that it belongs to; none for one of its own, or that of ``MLFLOW_RUN_ID``.
            description: Markdown.
            tags: More words to find it by.
            files: Files that it will have, by the words for them; the description links to them.

        Raises:
            InputError: ``MLFLOW_RUN_ID`` names no run, or the experiment was deleted.
        """
        if "'" in key or '"' in key:
            raise ValueError(f"The key of a run can't hold quotes: {key!r}.")
        described = {RUN_KEY: key, **({_NOTE: description} if description else {}), **tags}
        given = os.environ.get("MLFLOW_RUN_ID") if parent is None else None
        if given:
            run = self._joined(given)
        else:
            experiment = self._client.get_run(parent).info.experiment_id if parent else self._experiment_id()
            tags_of_a_new_run = {**resolve_tags(), **({_PARENT: parent} if parent else {}), **described}

            def create() -> Run:
                mine = self._client.create_run(experiment, tags=tags_of_a_new_run, run_name=name)
                # Of two processes that open the same run at once, both take the older and one gives its own up.
                older = self._found(experiment, key, parent) or mine
                if older.info.run_id != mine.info.run_id:
                    self._client.delete_run(mine.info.run_id)
                return older

            run = found_or_created(lambda: self._found(experiment, key, parent), create)
        identifier = run.info.run_id
        if files:
            links = " · ".join(f"[{words}]({_page(run, file)})" for words, file in files.items())
            described[_NOTE] = f"{description}\n\n{links}".strip()
        self._client.log_batch(identifier, tags=[RunTag(tag, str(value)) for tag, value in described.items()])
        self._client.update_run(identifier, status="RUNNING", name=name)
        return identifier

    def log_parameters(self, run: str, parameters: Mapping[str, str | int | float | bool]) -> None:
        """Note what a run was asked to do.

        Raises:
            InputError: A parameter is there with another value, which MLflow never changes.
        """
        there = self._client.get_run(run).data.params
        wanted = {name: str(value)[:_LONGEST_PARAMETER] for name, value in parameters.items()}
        for name, value in wanted.items():
            if there.get(name, value) != value:
                raise InputError(
                    f"Parameter {name} of the MLflow run {run} is {there[name]!r} already and can't become {value!r}; "
                    "start a new run for another configuration."
                )
        new = [Param(name, value) for name, value in wanted.items() if name not in there]
        for start in range(0, len(new), _PARAMETERS_PER_CALL):
            self._client.log_batch(run, params=new[start : start + _PARAMETERS_PER_CALL])

    def log_metrics(self, run: str, points: Iterable[MetricPoint]) -> None:
        """Add points to the curves of a run, without those whose step is there.

        MLflow would store infinity as a huge number and can't draw NaN: the first non-finite value of a curve becomes a
        tag ``metantk.non_finite.<name>`` instead. A call that is repeated because its answer was lost adds nothing: a
        point of the same time, step and value is there already for MLflow, too.
        """
        points = list(points)
        steps = self._steps_there(run, {point.name for point in points})
        now = int(time.time() * 1000)
        new: list[Metric] = []
        odd: dict[str, str] = {}
        for point in points:
            value = float(point.value)
            if not math.isfinite(value):
                odd.setdefault(f"{NON_FINITE}{point.name}", f"{value} at step {point.step}")
            elif point.step not in steps[point.name]:
                steps[point.name].add(point.step)
                new.append(Metric(point.name, value, now if point.at is None else point.at, point.step))
        for start in range(0, len(new), _METRICS_PER_CALL):
            self._client.log_batch(run, metrics=new[start : start + _METRICS_PER_CALL])
        if odd:
            there = self._client.get_run(run).data.tags
            self._client.log_batch(run, tags=[RunTag(tag, text) for tag, text in odd.items() if tag not in there])

    def log_file(self, run: str, path: Path, folder: str = "") -> None:
        """Attach a file to a run, below a folder of its artifacts."""
        self._client.log_artifact(run, str(path), folder or None)

    def log_table(self, run: str, columns: Mapping[str, Sequence[object]], file: str) -> None:
        """Attach a table in the format of ``mlflow.log_table``: the interface shows it, ``mlflow.load_table`` reads it.

        A table that is there is replaced (MLflow's own function appends, so that a repeated step would double it).

        Args:
            run: Identifier of the run.
            columns: Values by column, of equal lengths; a non-finite number becomes an empty cell.
            file: Name of the file, ending in ``.json``.
        """
        rows = [[_cell(value) for value in row] for row in zip(*columns.values(), strict=True)]
        text = json.dumps({"columns": list(columns), "data": rows}, allow_nan=False)
        self._client.log_text(run, text, file)
        tables = json.loads(self._client.get_run(run).data.tags.get(_TABLES, "[]"))
        if (entry := {"path": file, "type": "table"}) not in tables:
            self._client.set_tag(run, _TABLES, json.dumps([*tables, entry]))

    def log_dataset(self, run: str, dataset: DatasetSummary, context: str) -> None:
        """Note a dataset as an input of a run; the context says what for, such as ``train``.

        MLflow keeps 36 characters of the digest; the profile holds all of it. What lies in two places is noted once.
        """
        digest = dataset.digest[:LONGEST_DIGEST]
        inputs = self._client.get_run(run).inputs
        for known in inputs.dataset_inputs if inputs else ():
            said = {tag.key: tag.value for tag in known.tags}
            if known.dataset.digest == digest and said.get(_CONTEXT) == context:
                return  # the same images from another folder, or a step that is repeated
        images = TensorSpec(np.dtype(np.uint8), (-1, *dataset.image_shape), name="images")
        labels = TensorSpec(np.dtype(np.int64), (-1,), name="labels")
        schema = {"features": Schema([images]).to_json(), "targets": Schema([labels]).to_json()}
        profile = {
            "images": dataset.num_images,
            "classes": dataset.num_classes,
            "image_shape": list(dataset.image_shape),
            "digest": dataset.digest,
        }
        entity = Dataset(
            name=dataset.name,
            digest=digest,
            source_type="s3" if dataset.source.startswith("s3://") else "local",
            source=json.dumps({"uri": shown(dataset.source)}),
            schema=json.dumps({"mlflow_tensorspec": schema}),
            profile=json.dumps(profile),
        )
        self._client.log_inputs(run, [DatasetInput(entity, [InputTag(_CONTEXT, context)])])

    @contextmanager
    def watched(self, run: str, part: str = "") -> Iterator[None]:
        """Note what this machine does while some work of a run goes on, every 10 seconds, as metrics ``system/…``.

        By MLflow's own monitor, whose variables hold: ``MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING=false`` turns it off,
        ``MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL`` sets the seconds. A point that can't be logged is lost.

        Args:
            run: Identifier of the run.
            part: Names the machine where several work on one run.
        """
        if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get_raw() in ("false", "False", "0"):
            yield
            return
        # Says at length that it begins and ends, and, as we do in one line, that a server is away.
        logging.getLogger(SystemMetricsMonitor.__module__).setLevel(logging.ERROR)
        monitor = SystemMetricsMonitor(
            run, resume_logging=True, node_id=part or None, tracking_uri=self._connection.uri
        )
        monitor.start()
        try:
            yield
        finally:
            with suppress(OverdueError):  # it asks the server once more, which may be away
                within(_SECONDS_IN_A_HURRY, monitor.finish)

    def find_run(self, key: str, *, tag: str = RUN_KEY, hurry: bool = False) -> str | None:
        """Return the identifier of the run of this key that has no parent, as it is, or none.

        If ``MLFLOW_RUN_ID`` is set, that run is the one, whatever the key.

        Args:
            key: What was given when it was opened.
            tag: Another tag that holds it, such as ``PIPELINE``.
            hurry: Whether a server that does not answer is waited for some seconds at most.
        """
        given = os.environ.get("MLFLOW_RUN_ID")
        if given:
            return self._joined(given).info.run_id
        with self._in_a_hurry() if hurry else nullcontext():
            experiment = self._client.get_experiment_by_name(self._experiment)
            run = self._found(experiment.experiment_id, key, None, tag) if experiment else None
        return run.info.run_id if run else None

    def find_runs(self, tags: Mapping[str, str], *, deleted: bool = False) -> tuple[TrackedRun, ...]:
        """Return the runs of this experiment without a parent that have all these tags, the oldest first.

        Args:
            tags: Tags and their values; without quotes.
            deleted: Whether those that were deleted are wanted instead of those that were not.
        """
        if any("'" in text or "`" in text for tag in tags.items() for text in tag):
            raise ValueError(f"Tags to look for can't hold quotes: {dict(tags)!r}.")
        experiment = self._client.get_experiment_by_name(self._experiment)
        if experiment is None:
            return ()
        wanted = " and ".join(f"tags.`{tag}` = '{text}'" for tag, text in tags.items())
        kind = ViewType.DELETED_ONLY if deleted else ViewType.ACTIVE_ONLY
        found: list[TrackedRun] = []
        token = None
        while True:
            page = self._client.search_runs(
                [experiment.experiment_id],
                wanted,
                kind,
                max_results=_RUNS_PER_CALL,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            found += [_tracked(run) for run in page if _PARENT not in run.data.tags]
            token = page.token
            if not token:
                return tuple(sorted(found, key=lambda run: (run.started, run.identifier)))

    def read_run(self, run: str) -> TrackedRun | None:
        """Return what is known of a run by its identifier, in whatever experiment it is, or none."""
        try:
            return _tracked(self._client.get_run(run))
        except MlflowError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
        except MlflowException as error:  # it is no identifier at all
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
        return None

    def read_file(self, run: str, file: str) -> bytes | None:
        """Return a file that is attached to a run, or none."""
        folder = os.path.dirname(file)
        if file not in {there.path for there in self._client.list_artifacts(run, folder or None)}:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            return Path(self._client.download_artifacts(run, file, scratch)).read_bytes()

    def untag_run(self, run: str, tags: Iterable[str]) -> None:
        """Take words away; those that a run does not have are passed over."""
        for tag in tags:
            try:
                self._client.delete_tag(run, tag)
            except MlflowError as error:
                if error.code != "RESOURCE_DOES_NOT_EXIST":
                    raise

    def tag_run(self, run: str, tags: Mapping[str, str]) -> None:
        """Add words to find a run by, in some seconds at most: that is how a process that is about to end says why."""
        with self._in_a_hurry():
            self._client.log_batch(run, tags=[RunTag(tag, text) for tag, text in tags.items()])

    def close_run(self, run: str, status: ports.RunStatus, *, again: bool = True) -> None:
        """Note that a run has ended, and how; runs below it that still look as if they went on end as killed.

        What a run that finishes says of a step that failed, in an earlier attempt, is removed.

        Args:
            run: Identifier of the run.
            status: How it ended.
            again: Whether that is noted also if the run had ended before.
        """
        # A process that ends in disorder may be ended for good in some seconds.
        with nullcontext() if status == "finished" else self._in_a_hurry():
            self._close(run, status, again)

    def link(self, run: str) -> str | None:
        """Return the address of a run's page, or none where there is no server."""
        if not self._connection.is_server:
            return None
        return f"{self._connection.uri}/{_page(self._client.get_run(run))}"

    def _in_a_hurry(self) -> AbstractContextManager[None]:
        return self._connection.patience.at_most(_SECONDS_IN_A_HURRY)

    def _close(self, run: str, status: ports.RunStatus, again: bool) -> None:
        now = self._client.get_run(run)
        left = f"tags.`{_PARENT}` = '{run}' and attributes.status = 'RUNNING'"
        for below in self._client.search_runs([now.info.experiment_id], left):
            self._close(below.info.run_id, "killed", again=True)
        if again or now.info.status == "RUNNING":
            for tag in now.data.tags if status == "finished" else ():
                if tag.startswith(FAILED_STEP):
                    self._client.delete_tag(run, tag)
            self._client.set_terminated(run, _STATUS[status])

    def _joined(self, run: str) -> Run:
        try:
            return self._client.get_run(run)
        except MlflowError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InputError(
                f"MLFLOW_RUN_ID names the run {run}, which {shown(self._connection.uri)} does not hold; unset it, or "
                "set MLFLOW_TRACKING_URI to where that run is."
            ) from error

    def _found(self, experiment: str, key: str, parent: str | None, tag: str = RUN_KEY) -> Run | None:
        runs = self._client.search_runs([experiment], f"tags.`{tag}` = '{key}'", order_by=["attributes.start_time ASC"])
        mine = [run for run in runs if run.data.tags.get(_PARENT) == parent]
        return min(mine, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _experiment_id(self) -> str:
        there = self._client.get_experiment_by_name(self._experiment)
        if there is None:
            if not self._connection.is_server and self._connection.artifact_root is None:
                raise InputError(
                    "A database can't hold files: set MLFLOW_DEFAULT_ARTIFACT_ROOT to a folder or bucket for them, or "
                    "start an MLflow server on that database and give its http:// address."
                )
            try:
                return self._client.create_experiment(self._experiment, self._connection.artifact_root, _KIND)
            except MlflowError as error:
                there = self._client.get_experiment_by_name(self._experiment)
                if error.code != "RESOURCE_ALREADY_EXISTS" or there is None:
                    raise
        if not there.experiment_id:
            raise InputError(
                f"What answers at {shown(self._connection.uri)} is no MLflow server, or one of another version: asked "
                f"for the experiment {self._experiment!r}, it sends something else; check host, port and path."
            )
        if there.lifecycle_stage != LifecycleStage.ACTIVE:
            raise InputError(
                f"The MLflow experiment {self._experiment!r} was deleted; restore it with 'mlflow experiments restore "
                f"--experiment-id {there.experiment_id}', or choose another name."
            )
        if there.tags.keys().isdisjoint(_KIND):  # one that an administrator made; a person's choice stays
            for tag, kind in _KIND.items():
                self._client.set_experiment_tag(there.experiment_id, tag, kind)
        return there.experiment_id

    def _steps_there(self, run: str, names: set[str]) -> dict[str, set[int]]:
        steps = self._steps.setdefault(run, {})
        if unknown := names - steps.keys():
            begun = self._client.get_run(run).data.metrics
            for name in unknown:
                history = self._client.get_metric_history(run, name) if name in begun else ()
                steps[name] = {metric.step for metric in history}
        return steps


def _tracked(run: Run) -> TrackedRun:
    return TrackedRun(
        run.info.run_id,
        run.info.run_name or "",
        _ENDINGS.get(run.info.status, "running"),
        run.info.start_time,
        dict(run.data.tags),
        dict(run.data.metrics),
        run.info.lifecycle_stage != LifecycleStage.ACTIVE,
    )


def _page(run: Run, file: str = "") -> str:
    """Return the address of a run's page, or of a file's on it, below the server's, which people may call otherwise.

    Without the query MLflow opens its view for language models, which hides half of what we log.
    """
    below = f"/artifactPath/{quote(file)}" if file else ""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}{below}?workflowType=machine_learning"


def _cell(value: object) -> object:
    plain = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
