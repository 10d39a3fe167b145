"""Kubeflow Pipelines for tests, over HTTP: it remembers what it is told, asks who speaks, and fails when it is to.

Its answers are KFP's own models, written by KFP's own client library, so they look as a cluster's do. What it knows of
the real one's habits: names of schedules need not be unique, those of pipelines and versions must be (409); an account
that nobody named is filled in; a Kubeflow that teams share wants a namespace, and refuses those of other teams (403);
no request is answered twice the same way if it creates something.
"""

import json
import re
import ssl
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import kfp_server_api as api

TOKEN = "a-token-of-the-tests"
COOKIE = "authservice_session=a-cookie-of-the-tests"
TEAM, OTHER_TEAM = "team-a", "team-b"
DEFAULT_ACCOUNT = "pipeline-runner"

_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 6, 500: 13, 503: 14}
_write = api.ApiClient().sanitize_for_serialization


@dataclass(frozen=True)
class Request:
    """What was asked.

    Attributes:
        method: Such as ``POST``.
        path: Without the query.
        query: Its values, the last of each name.
        body: The JSON, or none.
        head: The head of the request.
    """

    method: str
    path: str
    query: dict[str, str]
    body: Any
    head: Message

    @property
    def changes(self) -> bool:
        """Whether it asks for more than a look."""
        return self.method != "GET"


@dataclass
class Answer(Exception):  # noqa: N818 - it is none for those who get it
    """What is answered in the place of the right thing."""

    status: int
    message: str = ""
    head: dict[str, str] = field(default_factory=dict)
    content: bytes | None = None
    seconds: float = 0.0


class KubeflowServer:
    """A Kubeflow in memory, in a thread of its own; a context manager.

    Args:
        shared: Whether teams share it, each with a namespace.
        guarded: Whether it wants ``TOKEN`` or ``COOKIE``.
        certificate: Files of a certificate and its key, for https.
    """

    def __init__(
        self, *, shared: bool = False, guarded: bool = False, certificate: tuple[Path, Path] | None = None
    ) -> None:
        self.shared, self.guarded = shared, guarded
        self.experiments: dict[str, Any] = {}
        self.pipelines: dict[str, Any] = {}
        self.versions: dict[str, Any] = {}
        self.packages: dict[str, bytes] = {}
        self.runs: dict[str, Any] = {}
        self.schedules: dict[str, Any] = {}
        self.seen: list[Request] = []
        self.interfere: Callable[[Request], None] = lambda request: None
        """Called before each request is answered; may raise ``Answer``."""
        self.afterwards: Callable[[Request], None] = lambda request: None
        """Called when it has been done and before its answer goes out; may raise ``Answer``."""
        self.most_on_a_page = 3  # so that every test that lists turns pages
        self._lock = threading.Lock()
        self._clock = datetime(2026, 1, 1, tzinfo=UTC)
        handler = type("Handler", (_Handler,), {"cluster": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        kind = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            kind = "https"
        self.address = f"{kind}://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "KubeflowServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def firing(self, name: str) -> list[Any]:
        """Return the enabled schedules of a name."""
        named = [one for one in self.schedules.values() if one.display_name == name]
        return [one for one in named if one.status == "ENABLED"]

    def finish(self, run: str, state: str, **steps: str) -> None:
        """Let a run be in a state, its steps in theirs."""
        known = self.runs[run]
        known.state = state
        known.finished_at = self.now() if state in ("SUCCEEDED", "FAILED", "CANCELED") else None
        details = []
        for name, one in steps.items():
            for number, single in enumerate(one.split()):
                label = name.replace("_", "-")
                for node in (f"{label}-driver", label):
                    details.append(
                        api.V2beta1PipelineTaskDetail(
                            run_id=run,
                            task_id=f"{node}-{number}",
                            display_name=node,
                            state=single,
                            start_time=self.now(),
                            end_time=self.now() if single in ("SUCCEEDED", "FAILED") else None,
                            error=api.GoogleRpcStatus(code=13, message="its pod was killed")
                            if single == "FAILED" and node == label
                            else None,
                        )
                    )
        known.run_details = api.V2beta1RunDetails(task_details=details)

    def now(self) -> datetime:
        """Return a time, a second after the last one that was asked for."""
        self._clock += timedelta(seconds=1)
        return self._clock

    def answer(self, request: Request) -> Any:
        """Return the model or values that a request is answered with."""
        with self._lock:
            self.seen.append(request)
        self.interfere(request)
        self._admit(request)
        with self._lock:
            for pattern, method, action in _ROUTES:
                found = re.fullmatch(f"/apis/v2beta1{pattern}", request.path)
                if found and method == request.method:
                    given = action(self, request, *map(unquote, found.groups()))
                    break
            else:
                raise Answer(404, content=b"404 page not found", head={"Content-Type": "text/plain"})
        self.afterwards(request)
        return given

    def _admit(self, request: Request) -> None:
        if not self.guarded or request.path.endswith("/healthz"):
            return
        if request.head.get("Authorization") != f"Bearer {TOKEN}" and request.head.get("Cookie") != COOKIE:
            raise Answer(401, "Request header error: there is no user identity header")

    def _namespace(self, given: str) -> str:
        """Return the namespace that something belongs to."""
        if not self.shared:
            return ""
        if not given:
            raise Answer(400, "Invalid input error: a resource cannot have an empty namespace in multi-user mode")
        if given != TEAM:
            raise Answer(403, f"User 'me' is not authorized with reason: (request: namespace {given})")
        return given

    def _listed(self, request: Request, what: str, answer: Any, models: list[Any]) -> Any:
        for predicate in json.loads(request.query.get("filter") or "{}").get("predicates", []):
            assert predicate["operation"] in (1, "EQUALS")
            models = [one for one in models if getattr(one, predicate["key"]) == predicate["stringValue"]]
        key, _, direction = request.query.get("sort_by", "created_at asc").partition(" ")
        models = sorted(models, key=lambda one: getattr(one, key), reverse=direction == "desc")
        start = int(request.query.get("page_token") or 0)
        end = start + min(int(request.query.get("page_size") or 10), self.most_on_a_page)
        token = str(end) if end < len(models) else ""
        return answer(**{what: models[start:end], "total_size": len(models), "next_page_token": token})

    def _health(self, request: Request) -> Any:
        return api.V2beta1GetHealthzResponse(multi_user=self.shared)

    def _list_experiments(self, request: Request) -> Any:
        space = self._namespace(request.query.get("namespace", ""))
        models = [one for one in self.experiments.values() if one.namespace == space]
        return self._listed(request, "experiments", api.V2beta1ListExperimentsResponse, models)

    def _create_experiment(self, request: Request) -> Any:
        name, space = request.body["display_name"], self._namespace(request.body.get("namespace", ""))
        if any((one.display_name, one.namespace) == (name, space) for one in self.experiments.values()):
            raise Answer(409, f"Already exist error: The experiment {name} already exists")
        made: Any = api.V2beta1Experiment(str(uuid.uuid4()), name, created_at=self.now(), namespace=space)
        self.experiments[made.experiment_id] = made
        return made

    def _list_pipelines(self, request: Request) -> Any:
        space = request.query.get("namespace", "")
        models = [one for one in self.pipelines.values() if one.namespace == (self._namespace(space) if space else "")]
        return self._listed(request, "pipelines", api.V2beta1ListPipelinesResponse, models)

    def _create_pipeline(self, request: Request) -> Any:
        name, space = request.body["name"], self._namespace(request.body.get("namespace", ""))
        if any((one.name, one.namespace) == (name, space) for one in self.pipelines.values()):
            raise Answer(409, f"Already exist error: pipeline {name}")
        made: Any = api.V2beta1Pipeline(str(uuid.uuid4()), name, name, created_at=self.now(), namespace=space)
        self.pipelines[made.pipeline_id] = made
        return made

    def _list_versions(self, request: Request, pipeline: str) -> Any:
        models = [one for one in self.versions.values() if one.pipeline_id == pipeline]
        return self._listed(request, "pipeline_versions", api.V2beta1ListPipelineVersionsResponse, models)

    def _upload_version(self, request: Request) -> Any:
        name, pipeline = request.query["name"], request.query["pipelineid"]
        if pipeline not in self.pipelines:
            raise Answer(404, f"ResourceNotFoundError: pipeline {pipeline}")
        if any((one.name, one.pipeline_id) == (name, pipeline) for one in self.versions.values()):
            raise Answer(409, "Failed to create a pipeline version")
        made: Any = api.V2beta1PipelineVersion(pipeline, str(uuid.uuid4()), name, name, created_at=self.now())
        self.versions[made.pipeline_version_id] = made
        self.packages[made.pipeline_version_id] = request.body
        return made

    def _show_version(self, request: Request, pipeline: str, version: str) -> Any:
        return self._known(self.versions, version)

    def _list_runs(self, request: Request) -> Any:
        experiment = request.query.get("experiment_id")
        if not experiment:
            self._namespace(request.query.get("namespace", ""))
        models = [one for one in self.runs.values() if not experiment or one.experiment_id == experiment]
        return self._listed(request, "runs", api.V2beta1ListRunsResponse, models)

    def _create_run(self, request: Request) -> Any:
        body = request.body
        assert body.get("pipeline_spec") or body["pipeline_version_reference"]["pipeline_version_id"] in self.versions
        self._known(self.experiments, body["experiment_id"])
        made: Any = api.V2beta1Run(
            experiment_id=body["experiment_id"],
            run_id=str(uuid.uuid4()),
            display_name=body["display_name"],
            pipeline_spec=body.get("pipeline_spec"),
            pipeline_version_reference=body.get("pipeline_version_reference"),
            runtime_config=body.get("runtime_config"),
            service_account=body.get("service_account") or DEFAULT_ACCOUNT,
            created_at=self.now(),
            state="PENDING",
        )
        self.runs[made.run_id] = made
        return made

    def _show_run(self, request: Request, run: str) -> Any:
        return self._known(self.runs, run)

    def _stop_run(self, request: Request, run: str) -> Any:
        self._known(self.runs, run).state = "CANCELING"
        return {}

    def _list_schedules(self, request: Request) -> Any:
        space = self._namespace(request.query.get("namespace", ""))
        models = [one for one in self.schedules.values() if one.namespace == space]
        return self._listed(request, "recurring_runs", api.V2beta1ListRecurringRunsResponse, models)

    def _create_schedule(self, request: Request) -> Any:
        body = request.body
        assert body["pipeline_version_reference"]["pipeline_version_id"] in self.versions
        experiment = self._known(self.experiments, body["experiment_id"])
        if not 1 <= int(body["max_concurrency"]) <= 10:
            raise Answer(400, "Invalid input error: The max concurrency of the recurring run is out of range")
        made: Any = api.V2beta1RecurringRun(
            recurring_run_id=str(uuid.uuid4()),
            display_name=body["display_name"],
            pipeline_version_reference=body["pipeline_version_reference"],
            runtime_config=body.get("runtime_config"),
            service_account=body.get("service_account") or DEFAULT_ACCOUNT,
            max_concurrency=str(body["max_concurrency"]),
            trigger=body["trigger"],
            mode=body["mode"],
            status="ENABLED" if body["mode"] == "ENABLE" else "DISABLED",
            created_at=self.now(),
            no_catchup=body.get("no_catchup", False),
            namespace=experiment.namespace,
            experiment_id=body["experiment_id"],
        )
        self.schedules[made.recurring_run_id] = made
        return made

    def _show_schedule(self, request: Request, schedule: str) -> Any:
        return self._known(self.schedules, schedule)

    def _delete_schedule(self, request: Request, schedule: str) -> Any:
        self._known(self.schedules, schedule)
        del self.schedules[schedule]
        return {}

    def _enable_schedule(self, request: Request, schedule: str) -> Any:
        self._known(self.schedules, schedule).status = "ENABLED"
        return {}

    def _disable_schedule(self, request: Request, schedule: str) -> Any:
        self._known(self.schedules, schedule).status = "DISABLED"
        return {}

    def _known(self, models: dict[str, Any], key: str) -> Any:
        if key not in models:
            raise Answer(404, f"ResourceNotFoundError: {key} not found")
        return models[key]


_ID = "([^/:]+)"
_Server = KubeflowServer
_ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("/healthz", "GET", _Server._health),
    ("/experiments", "GET", _Server._list_experiments),
    ("/experiments", "POST", _Server._create_experiment),
    ("/pipelines", "GET", _Server._list_pipelines),
    ("/pipelines", "POST", _Server._create_pipeline),
    ("/pipelines/upload_version", "POST", _Server._upload_version),
    (f"/pipelines/{_ID}/versions", "GET", _Server._list_versions),
    (f"/pipelines/{_ID}/versions/{_ID}", "GET", _Server._show_version),
    ("/runs", "GET", _Server._list_runs),
    ("/runs", "POST", _Server._create_run),
    (f"/runs/{_ID}", "GET", _Server._show_run),
    (f"/runs/{_ID}:terminate", "POST", _Server._stop_run),
    ("/recurringruns", "GET", _Server._list_schedules),
    ("/recurringruns", "POST", _Server._create_schedule),
    (f"/recurringruns/{_ID}", "GET", _Server._show_schedule),
    (f"/recurringruns/{_ID}", "DELETE", _Server._delete_schedule),
    (f"/recurringruns/{_ID}:enable", "POST", _Server._enable_schedule),
    (f"/recurringruns/{_ID}:disable", "POST", _Server._disable_schedule),
]


class _Handler(BaseHTTPRequestHandler):
    cluster: KubeflowServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each answer waits 40 ms for the end of its head to be acknowledged

    def do_GET(self) -> None:
        target = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(target.query).items()}
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, target.path, query, _read(content, self.headers), self.headers)
        try:
            status, body, head = 200, json.dumps(_write(self.cluster.answer(request))).encode(), {}
        except Answer as other:
            time.sleep(other.seconds)
            status, head = other.status, other.head
            said = {"error": other.message, "message": other.message, "code": _CODES.get(status, 2), "details": []}
            body = json.dumps(said).encode() if other.content is None else other.content
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **head}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _read(content: bytes, head: Message) -> Any:
    """Return the JSON of a request, or the file of an upload."""
    kind = head.get("Content-Type", "")
    if kind.startswith("multipart/"):
        parts = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + content).get_payload()
        return next(part.get_payload(decode=True) for part in parts if part.get_filename())  # type: ignore[union-attr]
    return json.loads(content) if content else None
