"""The cluster behind KFP's own client: what a person wants enters, requests with short time-outs leave.

KFP's client reads ``~/.config/kfp/context.json``, kubeconfig and a dozen variables, waits 25 seconds for a server that
is not there, and prints. Here it is told everything, asks once, and is quiet.
"""

import contextlib
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import kfp_server_api
import urllib3
from kfp_server_api import rest

from metantk_core.adapters.deadline import OverdueError, within
from metantk_core.adapters.kubeflow.access import Access
from metantk_core.adapters.kubeflow.trouble import KubeflowError, complaint, no_kubeflow
from metantk_core.errors import InputError
from metantk_core.ports import AwayError, ClusterRun, PipelineVersion, Schedule, ScheduleSettings, StepState

T = TypeVar("T")

SECONDS_TO_CONNECT = 3.0
SECONDS_TO_THE_FIRST_ANSWER = 3.5
SECONDS_TO_AN_ANSWER = 20.0
_SECONDS_TO_UPLOAD = 120.0
_PAGE = 100
_IDENTIFIER = re.compile(r"[A-Za-z0-9-]{1,100}")
_STEPS_OF_THE_SYSTEM = ("root", "executor")
"""Names of nodes that run no step of a pipeline; beside these, a driver has the name of its step and ``-driver``."""


def connect(access: Access, *, seconds: float | None = None) -> "KubeflowCluster":
    """Return the cluster, after making sure that it answers; that takes less than five seconds.

    Args:
        access: Where it is and as whom it is asked.
        seconds: Longest time to wait for an answer; none for as long as each kind of request may need.

    Raises:
        AwayError: Nobody answers.
        InputError: What answers is no Kubeflow Pipelines, or it needs a namespace and none was given.
    """
    configuration = _configuration(access)
    api = kfp_server_api.ApiClient(configuration, cookie=access.cookie or None)
    api.rest_client = _BoundedRest(configuration)
    longest = min(seconds or SECONDS_TO_THE_FIRST_ANSWER, SECONDS_TO_THE_FIRST_ANSWER)
    health = _asked(kfp_server_api.HealthzServiceApi(api).healthz_service_get_healthz, access, "say how it is", longest)
    if not isinstance(health, kfp_server_api.V2beta1GetHealthzResponse) or not isinstance(health.multi_user, bool):
        raise no_kubeflow(access)
    if health.multi_user and not access.namespace:
        raise InputError(
            f"Kubeflow at {access.shown} is shared by several teams; name the namespace of yours with --namespace (or "
            "METANTK_KUBEFLOW_NAMESPACE)."
        )
    return KubeflowCluster(access, configuration, shared=health.multi_user, seconds=seconds)


class KubeflowCluster:
    """A ``Cluster`` of Kubeflow Pipelines.

    Args:
        access: Where it is and as whom it is asked.
        configuration: The same for KFP's client.
        shared: Whether several teams share it, each with a namespace.
        seconds: Longest time to wait for an answer; none for as long as each kind of request may need.
    """

    def __init__(
        self,
        access: Access,
        configuration: kfp_server_api.Configuration,
        *,
        shared: bool,
        seconds: float | None = None,
    ) -> None:
        self._access = access
        self._seconds = seconds
        self._namespace = access.namespace if shared else ""
        self._kfp = _client(access, configuration, self._namespace)

    @property
    def ignores_namespace(self) -> bool:
        """Whether a namespace was given to a Kubeflow that has none."""
        return bool(self._access.namespace) and not self._namespace

    def experiment(self, name: str) -> str:
        """Return the identifier of the experiment of a name, created if it is not there."""
        if not name.strip():
            raise InputError("Expected the name of an experiment, got an empty one; give another --experiment.")

        def make() -> str:
            create = self._kfp.create_experiment
            return self._ask("create an experiment", lambda: create(name, namespace=self._namespace)).experiment_id

        return _found_or_made(lambda: self._experiment(name), make)[0]

    def register(self, pipeline: str, version: str, package: Path) -> PipelineVersion:
        """Return the version of this name, which holds a package, uploaded unless it is there."""

        def make_pipeline() -> str:
            # KFP's client would upload a first version with it, of a name of its own.
            model = kfp_server_api.V2beta1Pipeline(
                name=pipeline, display_name=pipeline, namespace=self._namespace or None
            )
            create = self._kfp._pipelines_api.pipeline_service_create_pipeline
            return self._ask("create a pipeline", lambda: create(pipeline=model)).pipeline_id

        def make_version() -> str:
            upload = self._kfp.upload_pipeline_version
            made = self._ask(
                "upload a pipeline version",
                lambda: upload(str(package), version, pipeline_id=pipeline_id),
                _SECONDS_TO_UPLOAD,
            )
            return made.pipeline_version_id

        pipeline_id, _ = _found_or_made(lambda: self._pipeline(pipeline), make_pipeline)
        version_id, new = _found_or_made(lambda: self._version(pipeline_id, version), make_version)
        link = self._link(f"pipelines/details/{pipeline_id}/version/{version_id}")
        return PipelineVersion(pipeline, version, pipeline_id, version_id, new, link)

    def version_name(self, pipeline_id: str, version_id: str) -> str:
        """Return the name of a version; empty if it is gone."""
        try:
            version = self._ask(
                "show a pipeline version", lambda: self._kfp.get_pipeline_version(pipeline_id, version_id)
            )
        except KubeflowError as error:
            if error.status == 404:
                return ""
            raise
        return version.display_name or version.name or ""

    def start(
        self,
        name: str,
        work: Path | ScheduleSettings,
        *,
        experiment_id: str,
        parameters: Mapping[str, object] = {},
        service_account: str = "",
    ) -> ClusterRun:
        """Start a run of a package, or of the version of a schedule, and return it."""
        if isinstance(work, ScheduleSettings):
            what: dict[str, Any] = {"pipeline_id": work.pipeline_id, "version_id": work.version_id}
        else:
            what = {"pipeline_package_path": str(work)}
        try:
            started = self._ask(
                "start a run",
                lambda: self._kfp.run_pipeline(
                    experiment_id, name, params=dict(parameters), service_account=service_account or None, **what
                ),
                _SECONDS_TO_UPLOAD,
            )
        except AwayError as error:
            raise AwayError(f"{error} Whether the run was started is not known; see 'metantk runs list'.") from error
        return self._run(started)

    def run(self, run: str) -> ClusterRun:
        """Return a run with its steps."""
        return self._run(self._about_a_run(run, "show a run", lambda: self._kfp.get_run(run)))

    def runs(self, most: int, experiment: str = "") -> list[ClusterRun]:
        """Return the latest runs, the last one first."""
        of: dict[str, Any] = {"namespace": self._namespace}
        if experiment:
            found = self._experiment(experiment)
            if found is None:
                raise InputError(
                    f"Expected the name of an experiment of Kubeflow at {self._access.shown}, got one that is not "
                    "there; see its page Experiments."
                )
            of = {"experiment_id": found}
        listed = self._pages("list runs", "runs", self._kfp.list_runs, most, sort_by="created_at desc", **of)
        return [self._run(run) for run in listed]

    def stop(self, run: str) -> None:
        """Ask for the end of a run."""
        self._about_a_run(run, "stop a run", lambda: self._kfp.terminate_run(run))

    def schedules(self, name: str = "") -> list[Schedule]:
        """Return the schedules of a name, or all of them, the oldest first."""
        listed = self._pages(
            "list schedules",
            "recurring_runs",
            self._kfp.list_recurring_runs,
            None,
            sort_by="created_at asc",
            namespace=self._namespace or None,
            filter=_named(name) if name else None,
        )
        found = [self._schedule(recurring) for recurring in listed]
        found.sort(key=lambda schedule: (schedule.created.timestamp() if schedule.created else 0.0, schedule.schedule))
        return [schedule for schedule in found if not name or schedule.settings.name == name]

    def create_schedule(self, settings: ScheduleSettings, *, enabled: bool) -> Schedule:
        """Make one more schedule and return it."""
        made = self._ask(
            "create a schedule",
            lambda: self._kfp.create_recurring_run(
                settings.experiment_id,
                settings.name,
                cron_expression=settings.cron,
                max_concurrency=settings.concurrency,
                no_catchup=not settings.catch_up,
                params=dict(settings.parameters),
                pipeline_id=settings.pipeline_id,
                version_id=settings.version_id,
                enabled=enabled,
                service_account=settings.service_account or None,
            ),
        )
        return self._schedule(made)

    def enable_schedule(self, schedule: str, *, enabled: bool) -> bool:
        """Let a schedule fire, or not, and return whether it is there."""
        change = self._kfp.enable_recurring_run if enabled else self._kfp.disable_recurring_run
        return self._unless_gone("enable a schedule" if enabled else "disable a schedule", lambda: change(schedule))

    def delete_schedule(self, schedule: str) -> None:
        """Remove a schedule; one that is gone already is no error. Runs that it has started go on."""
        self._unless_gone("delete a schedule", lambda: self._kfp.delete_recurring_run(schedule))

    def _unless_gone(self, doing: str, call: Callable[[], object]) -> bool:
        try:
            self._ask(doing, call)
        except KubeflowError as error:
            if error.status != 404:
                raise
            return False
        return True

    def _experiment(self, name: str) -> str | None:
        of = {"namespace": self._namespace} if self._namespace else {}
        listed = self._pages("list experiments", "experiments", self._kfp.list_experiments, None, _named(name), **of)
        return next((one.experiment_id for one in listed if one.display_name == name), None)

    def _pipeline(self, name: str) -> str | None:
        of = {"namespace": self._namespace} if self._namespace else {}
        listed = self._pages("list pipelines", "pipelines", self._kfp.list_pipelines, None, _named(name), **of)
        return next((one.pipeline_id for one in listed if name in (one.name, one.display_name)), None)

    def _version(self, pipeline_id: str, name: str) -> str | None:
        listed = self._pages(
            "list pipeline versions",
            "pipeline_versions",
            self._kfp.list_pipeline_versions,
            None,
            _named(name),
            pipeline_id=pipeline_id,
        )
        return next((one.pipeline_version_id for one in listed if name in (one.name, one.display_name)), None)

    def _pages(
        self, doing: str, what: str, ask: Callable[..., Any], most: int | None, filter: str | None = None, **of: Any
    ) -> list[Any]:
        """Return what a list of several pages holds."""
        found: list[Any] = []
        token = ""
        while True:
            size = _PAGE if most is None else min(_PAGE, most - len(found))
            page = self._ask(
                doing, lambda token=token, size=size: ask(page_token=token, page_size=size, filter=filter, **of)
            )
            found += getattr(page, what) or []
            last, token = token, page.next_page_token or ""
            if token in ("", last) or (most is not None and len(found) >= most):
                return found[:most]

    def _about_a_run(self, run: str, doing: str, call: Callable[[], T]) -> T:
        unknown = InputError(
            f"Expected the identifier of a run at {self._access.shown}, got one that it does not know; see "
            "'metantk runs list'."
        )
        if not _IDENTIFIER.fullmatch(run):
            raise unknown
        try:
            return self._ask(doing, call)
        except KubeflowError as error:
            if error.status not in (400, 404):
                raise
            raise unknown from error

    def _run(self, run: Any) -> ClusterRun:
        details = getattr(run.run_details, "task_details", None) or []
        steps = sorted(
            (self._step(task) for task in details if _is_step(task)),
            key=lambda step: step.started.timestamp() if step.started else float("inf"),
        )
        return ClusterRun(
            run=run.run_id,
            name=run.display_name or "",
            state=_state(run.state),
            created=_moment(run.created_at),
            ended=_moment(run.finished_at),
            schedule=run.recurring_run_id or "",
            why=self._why(run.error),
            steps=tuple(steps),
            link=self._link(f"runs/details/{run.run_id}"),
        )

    def _step(self, task: Any) -> StepState:
        return StepState(
            task.display_name,
            _state(task.state),
            _moment(task.start_time),
            _moment(task.end_time),
            self._why(task.error),
        )

    def _schedule(self, recurring: Any) -> Schedule:
        reference, configured = recurring.pipeline_version_reference, recurring.runtime_config
        cron = getattr(recurring.trigger, "cron_schedule", None)
        settings = ScheduleSettings(
            name=recurring.display_name or "",
            cron=(cron.cron if cron else "") or "",
            pipeline_id=getattr(reference, "pipeline_id", None) or "",
            version_id=getattr(reference, "pipeline_version_id", None) or "",
            experiment_id=recurring.experiment_id or "",
            parameters=getattr(configured, "parameters", None) or {},
            concurrency=int(recurring.max_concurrency or 1),
            catch_up=not recurring.no_catchup,
            service_account=recurring.service_account or "",
        )
        enabled = (recurring.status or recurring.mode or "") in ("ENABLED", "ENABLE")
        return Schedule(
            recurring.recurring_run_id,
            settings,
            enabled,
            _moment(recurring.created_at),
            self._why(recurring.error),
            self._link(f"recurringrun/details/{recurring.recurring_run_id}"),
        )

    def _why(self, error: Any) -> str:
        return self._access.hidden(" ".join(str(getattr(error, "message", "") or "").split()))

    def _link(self, page: str) -> str:
        return f"{self._access.host}/#/{page}"

    def _ask(self, doing: str, call: Callable[[], T], seconds: float = 0.0) -> T:
        return _asked(call, self._access, doing, self._seconds or seconds or SECONDS_TO_AN_ANSWER)


def _found_or_made(find: Callable[[], str | None], make: Callable[[], str]) -> tuple[str, bool]:
    """Return what is found, or else made, and whether it was made; somebody else may make it in the same moment."""
    found = find()
    if found is not None:
        return found, False
    try:
        return make(), True
    except KubeflowError as error:
        found = find() if error.status == 409 else None
        if found is None:
            raise
        return found, False


def _asked(call: Callable[[], T], access: Access, doing: str, seconds: float) -> T:
    """Return what a request gives; what goes wrong is one sentence."""
    try:
        with _quiet():
            return within(seconds, call)
    except InputError:
        raise
    except (
        kfp_server_api.ApiException, urllib3.exceptions.HTTPError, OverdueError, OSError, ValueError, TypeError,
        AttributeError,
    ) as error:  # fmt: skip
        raise complaint(error, access, doing, seconds) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep KFP's client from printing and warning."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _configuration(access: Access) -> kfp_server_api.Configuration:
    configuration: Any = kfp_server_api.Configuration(host=access.host)
    configuration.ssl_ca_cert = str(access.authority) if access.authority else None
    # One attempt, and no way to a page that asks for a password.
    configuration.retries = urllib3.Retry(0, redirect=0, raise_on_redirect=False)

    def renew(known: kfp_server_api.Configuration) -> None:
        known.api_key["authorization"] = access.current_token()

    if token := access.current_token():
        configuration.api_key["authorization"] = token
        configuration.api_key_prefix["authorization"] = "Bearer"
        configuration.refresh_api_key_hook = renew
    return configuration


def _client(access: Access, configuration: kfp_server_api.Configuration, namespace: str) -> Any:
    """Return KFP's client, which knows what it is told here and nothing else."""
    with _quiet():
        from kfp.client import Client

        class Told(Client):
            def _load_config(self, *_: Any, **__: Any) -> kfp_server_api.Configuration:
                return configuration

            def _load_context_setting_or_default(self) -> None:
                self._context_setting = {"namespace": namespace}

            def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
                del sleep_duration  # it was asked before, and has no namespaces
                return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)

        client = Told(host=access.host, cookies=access.cookie or "")
        client._run_api.api_client.rest_client = _BoundedRest(configuration)
        return client


class _BoundedRest(rest.RESTClientObject):
    """What sends KFP's requests, with an end to waiting, and takes nothing but JSON for an answer."""

    def request(self, *args: Any, _request_timeout: Any = None, **kwargs: Any) -> Any:
        timeout = _request_timeout or (SECONDS_TO_CONNECT, _SECONDS_TO_UPLOAD)
        answer = super().request(*args, _request_timeout=timeout, **kwargs)
        if not isinstance(json.loads(answer.data), dict):  # a page to sign in would be read as an empty list
            raise ValueError("The answer is no object of JSON.")
        return answer


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _is_step(task: Any) -> bool:
    name = task.display_name or ""
    return bool(name) and not name.endswith("-driver") and name not in _STEPS_OF_THE_SYSTEM


def _state(state: Any) -> str:
    return str(state or "PENDING").removeprefix("RUNTIME_STATE_").replace("UNSPECIFIED", "PENDING")


def _moment(moment: Any) -> datetime | None:
    """Return a time of the server; it writes 1970 for none."""
    return moment if isinstance(moment, datetime) and moment.year > 1970 else None
