"""An MLflow server that goes away and comes back, or loses its answers: nothing is lost, and nothing is there twice."""

import hashlib
import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from conftest import MlflowServer
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient
from typer.testing import CliRunner

from metantk_core import wiring, workflow
from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.adapters.patience import Patience
from metantk_core.candidates import space_named
from metantk_core.command_line import app
from metantk_core.config import load_config
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training import MamlTraining, load_model, save_model, untrained_model
from metantk_core.networks import NetworkConfig
from metantk_core.ports import AwayError, DatasetSummary, MetricPoint, ModelRegistry, Tracker, run_scope
from metantk_core.recipes import RECIPES
from metantk_core.steps import open_pipeline, open_step
from metantk_core.workspace import Workspace, open_run

NAME = "few-shot"
TEST = DatasetSummary("glyphs-test", "0123456789abcdef", "glyphs", 90, 9, (1, 8, 8))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("mlflow-server"))
    try:
        yield server
    finally:
        server.end()


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "0.5")
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):  # what the adapter sets is undone
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = LabelledImages(
        images=np.random.default_rng(0).integers(0, 256, (12, 1, 12, 12), dtype=np.uint8),
        labels=np.repeat(np.arange(3, dtype=np.int64), 4),
        class_names=tuple("abc"),
        split="train",
        name="noise",
    )
    episode = EpisodeConfig(ways=3, shots=2, queries=1)
    config = MamlTraining(episode=episode, network=NetworkConfig(channels=4, cells=2), inner_steps=1)
    genotype = space_named("darts_fewshot").sample(np.random.default_rng(3))
    directory = tmp_path_factory.mktemp("trained")
    save_model(untrained_model(genotype, EpisodeSource(images, episode, (0.5,), (0.25,)), config, 0), directory)
    return directory


def test_a_call_is_repeated_while_patience_lasts_and_what_was_waited_for_is_said_once(
    capsys: pytest.CaptureFixture[str],
):
    answers = iter([AwayError("no"), AwayError("no"), AwayError("no"), 7])

    def call() -> int:
        answer = next(answers)
        if isinstance(answer, AwayError):
            raise answer
        return answer

    assert Patience(2.0, "MLflow at here").insist(call) == 7
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "MLflow at here does not answer; waiting, 2 s at most."
    assert len(said) == 2
    assert "answers again" in said[1]


@pytest.mark.parametrize("seconds", [0.0, 0.6])
def test_patience_ends_when_it_was_said_to(seconds: float):
    attempts = []

    def call() -> None:
        attempts.append(time.monotonic())
        raise AwayError("no")

    with pytest.raises(AwayError):
        Patience(seconds, "MLflow").insist(call)
    assert attempts[-1] - attempts[0] >= seconds
    assert len(attempts) == 1 if seconds == 0 else 3 <= len(attempts) <= 6


def test_who_is_asked_to_end_while_it_waits_does_not_wait_again():
    patience = Patience(60.0, "MLflow")

    def interrupted() -> None:
        raise AwayError("no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", lambda seconds: (_ for _ in ()).throw(SystemExit(143)))
        with pytest.raises(SystemExit):
            patience.insist(interrupted)
    began = time.monotonic()
    with pytest.raises(AwayError):
        patience.insist(interrupted)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("given", ["soon", "-1", "nan", "inf"])
def test_patience_is_a_number_of_seconds(given: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", given)
    with pytest.raises(InputError, match="Expected a number of seconds, 0 or more, in METANTK_MLFLOW_PATIENCE"):
        wiring.tracker("http://127.0.0.1:1")


class _Empty(BaseHTTPRequestHandler):
    """A server without experiments."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.parametrize(
    "call",
    [
        lambda tracker: tracker.close_run("r", "killed"),
        lambda tracker: tracker.find_run("k", hurry=True),
        lambda tracker: tracker.tag_run("r", {"metantk.failed_step": "score"}),
    ],
)
def test_who_ends_in_disorder_does_not_wait_for_long(call: Callable[[Tracker], object], monkeypatch):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "300")
    monkeypatch.setattr("metantk_core.adapters.mlflow_tracking._SECONDS_IN_A_HURRY", 0.5)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        tracker = wiring.tracker(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
    began = time.monotonic()
    with pytest.raises(AwayError):
        call(tracker)
    assert time.monotonic() - began < 20


@pytest.fixture
def nobody() -> str:
    """Address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_the_first_step_of_a_pipeline_does_not_wait(
    nobody: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "300")
    began = time.monotonic()
    step = open_pipeline(RECIPES["smoke"].to_json(), store=str(tmp_path), tracking_uri=nobody, images=tmp_path)
    with pytest.raises(SystemExit) as ending, step:
        pass
    assert time.monotonic() - began < 10
    assert ending.value.code == 2
    assert f"metantk: No MLflow server answers at {nobody}" in capsys.readouterr().err


def test_a_later_step_goes_on_without_a_server_and_says_how_to_send_what_it_kept(
    nobody: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    run, store = tmp_path / "run", tmp_path / "store"
    run.write_text(RECIPES["smoke"].to_json())
    for expected in ("does not answer; waiting", ""):  # a second one need not wait
        step = open_step("score", run, store=str(store), tracking_uri=nobody)
        with step as (_, ports):
            ports.tracker.log_metrics(ports.run, [MetricPoint("score/mean", 1.0)])
        said = capsys.readouterr().err
        assert expected in said
        assert said.count("waiting") == (expected != "")
        assert f"do: metantk sync --store {store}" in said
    assert workflow.unsent_runs(FilesystemStore(store)) == {RECIPES["smoke"].run_id: nobody}


def test_a_later_step_without_a_store_fails_for_a_call_that_it_could_not_keep(nobody: str, tmp_path: Path):
    run = tmp_path / "run"
    run.write_text(RECIPES["smoke"].to_json())
    step = open_step("score", run, store="", tracking_uri=nobody)
    with pytest.raises(SystemExit) as ending, step:
        pass
    assert ending.value.code == 2


@pytest.mark.parametrize("damage", [b"", b"{", b'{"format": 2}', b'{"format": 1, "call": "close_run"}'])
def test_a_kept_call_that_is_damaged_is_named(damage: bytes, tmp_path: Path):
    unsent = workflow.Unsent(FilesystemStore(tmp_path), "smoke-1", "http://there")
    unsent.keep("close_run", run="r", status="finished", again=True)
    (key,) = unsent.left()
    (tmp_path / key).write_bytes(damage)
    with pytest.raises(InputError, match=f"Expected a call to the tracker in {tmp_path / key}"):
        unsent.entry(key)


def test_calls_are_kept_in_the_order_of_time_by_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = FilesystemStore(tmp_path)
    first, second = (workflow.Unsent(store, "smoke-1", "http://there") for _ in range(2))
    for number in range(12):
        (first if number % 3 else second).keep("log_parameters", run="r", parameters={"number": number})
    monkeypatch.setattr(time, "time_ns", lambda: 0)  # somebody sets the clock back
    for number in range(12, 15):
        first.keep("log_parameters", run="r", parameters={"number": number})
    reader = workflow.Unsent(store, "smoke-1", "")
    kept = [reader.entry(key)["arguments"]["parameters"]["number"] for key in reader.left()]
    assert kept == list(range(15))


class _Leaving:
    """A tracker and a registry that are away after some calls; the one in which that happens may be done or not."""

    def __init__(self, tracker: Tracker, registry: ModelRegistry, calls: int, *, done: bool) -> None:
        self._behind = (tracker, registry)
        self._left = calls
        self._done = done

    def __getattr__(self, name: str) -> Callable[..., Any]:
        behind = next(part for part in self._behind if hasattr(part, name))

        def call(*args: Any, **kwargs: Any) -> Any:
            self._left -= 1
            if self._left == -1 and self._done:
                getattr(behind, name)(*args, **kwargs)  # its answer is lost
            if self._left < 0:
                raise AwayError("no")
            return getattr(behind, name)(*args, **kwargs)

        return call


def _work(tracker: Tracker, parent: str, folder: Path) -> None:
    """Log a bit of everything, as steps do, from the same start each time."""
    tracker.log_dataset(parent, DatasetSummary("glyphs-train", "0123456789abcdef", "glyphs", 90, 9, (1, 8, 8)), "train")
    run = tracker.open_run(f"{parent}/search", "search", parent=parent, description="**words**", tags={"a": "b"})
    tracker.log_parameters(run, {"rate": 0.1, "flag": True})
    with run_scope(tracker, run):
        curve = [MetricPoint("train/loss", 1.0 / (step + 1), step) for step in range(5)]
        tracker.log_metrics(run, curve[:3])
        tracker.log_metrics(run, [*curve, MetricPoint("train/loss", float("nan"), 9)])
        file = folder / "report.html"
        file.write_text("the report")
        tracker.log_file(run, file, "reports")
        file.unlink()
        tracker.log_table(run, {"rank": [1, 2], "mean": [np.float64(0.5), float("nan")]}, "leaderboard.json")
    again = tracker.open_run(f"{parent}/search", "search", parent=parent)
    tracker.log_metrics(again, [MetricPoint("rank/candidates", 2.0)])
    tracker.close_run(again, "finished")
    tracker.log_metrics(parent, [MetricPoint("eval/accuracy", 0.5)])


def _register(registry: ModelRegistry, run: str, directory: Path) -> None:
    rng = np.random.default_rng(7)
    registry.register(
        run,
        NAME,
        load_model(directory),
        directory,
        alias="champion",
        description="words",
        tags={"genotype": "g"},
        input_example={
            "support_images": rng.integers(0, 256, (6, 1, 12, 12), dtype=np.uint8),
            "support_labels": np.repeat(np.arange(3, dtype=np.int64), 2),
            "query_images": rng.integers(0, 256, (5, 1, 12, 12), dtype=np.uint8),
        },
        metrics=[MetricPoint("eval/accuracy", 0.5)],
        dataset=TEST,
    )


def _seen(uri: str, experiment: str, scratch: Path) -> dict[str, Any]:
    """Return all that a person finds in an experiment, deleted runs included, without identifiers and times."""
    client = MlflowClient(uri, uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], run_view_type=ViewType.ALL)
    names = {run.info.run_id: run.info.run_name for run in runs}
    seen: dict[str, Any] = {}
    for run in runs:
        parent = names.get(run.data.tags.get("mlflow.parentRunId", ""), "")
        name = f"{parent}/{run.info.run_name}"
        assert name not in seen, "a run is there twice"
        assert run.info.lifecycle_stage == "active"
        files = {}
        for path in _paths(client, run.info.run_id, ""):
            kept = client.download_artifacts(run.info.run_id, path, str(scratch))
            files[path] = hashlib.sha256(Path(kept).read_bytes()).hexdigest()
        curves = {
            metric: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric))
            for metric in run.data.metrics
            if not metric.startswith("system/")  # what the machine did, every ten seconds: of a short search or not
        }
        tags = {tag: text for tag, text in run.data.tags.items() if tag.startswith(("a", "metantk.", "mlflow.note"))}
        tags.pop("metantk.key")
        for text, what in (
            (run.info.run_id, "<run>"),
            (f"experiments/{found.experiment_id}/", "experiments/<number>/"),
        ):
            tags = {tag: value.replace(text, what) for tag, value in tags.items()}  # links in descriptions
        inputs = run.inputs.dataset_inputs if run.inputs else []
        seen[name] = {
            "status": run.info.status,
            "parameters": run.data.params,
            "tags": tags,
            "curves": curves,
            "files": files,
            "inputs": sorted((one.dataset.name, one.dataset.digest, one.tags[0].value) for one in inputs),
        }
    return seen


def _models(uri: str, experiment: str, name: str) -> list[Any]:
    """Return the versions of a model, and the models in the experiment."""
    client = MlflowClient(uri, uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    logged = client.search_logged_models([found.experiment_id])
    versions = client.search_model_versions(f"name = '{name}'")
    champions = [str(client.get_model_version_by_alias(name, "champion").version)] if versions else []
    return [
        [(model.name, str(model.status)) for model in logged],
        [(str(version.version), version.tags, version.description) for version in versions],
        champions,
    ]


def _paths(client: MlflowClient, run: str, folder: str) -> list[str]:
    found = []
    for file in client.list_artifacts(run, folder):
        found += _paths(client, run, file.path) if file.is_dir else [file.path]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, model_directory: Path) -> tuple[dict[str, Any], list[Any]]:
    root = tmp_path_factory.mktemp("undisturbed")
    uri = f"sqlite:///{root}/mlflow.db"
    tracker = wiring.tracker(uri, "suite")
    run = tracker.open_run("key", "run")
    _work(tracker, run, root)
    _register(wiring.model_registry(uri), run, model_directory)
    tracker.close_run(run, "finished")
    return _seen(uri, "suite", root), _models(uri, "suite", NAME)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("calls", "done"), [(0, False), (1, True), (4, False), (6, True), (9, False), (12, True)]
)  # all up to 12 hold, at 3 seconds each
def test_whenever_a_tracker_goes_away_what_is_sent_later_makes_its_pages_the_same(
    calls: int, done: bool, tmp_path: Path, model_directory: Path, undisturbed: tuple[dict[str, Any], list[Any]]
):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker, registry = wiring.tracker(uri, "suite"), wiring.model_registry(uri)
    run = tracker.open_run("key", "run")
    leaving: Any = _Leaving(tracker, registry, calls, done=done)
    store = FilesystemStore(tmp_path / "store")
    unsent = workflow.Unsent(store, "smoke-1", uri)
    keeping = workflow.KeepingTracker(leaving, unsent)
    _work(keeping, run, tmp_path)
    _register(workflow.KeepingRegistry(lambda: leaving, unsent), run, model_directory)
    keeping.close_run(run, "finished")
    left = len(workflow.Unsent(store, "smoke-1", "").left())  # as another process sees it
    assert left > 0
    assert workflow.unsent_runs(store) == {"smoke-1": uri}

    first = _Leaving(wiring.tracker(uri, "suite"), registry, left // 2, done=done)  # and away again half-way
    with pytest.raises(AwayError):
        workflow.send(workflow.Unsent(store, "smoke-1", ""), first, lambda: first)  # type: ignore[arg-type]
    rest = workflow.send(workflow.Unsent(store, "smoke-1", ""), wiring.tracker(uri, "suite"), lambda: registry)
    assert rest.num_calls >= left - left // 2
    nothing = workflow.send(workflow.Unsent(store, "smoke-1", ""), wiring.tracker(uri, "suite"), lambda: registry)
    assert nothing.num_calls == 0
    assert workflow.unsent_runs(store) == {}
    assert (_seen(uri, "suite", tmp_path), _models(uri, "suite", NAME)) == undisturbed
    assert f"models:/{NAME}/1".encode() in (store.read("smoke-1/model.json") or b"")


class _Losing(BaseHTTPRequestHandler):
    """Stands before a server; what changes something is done, but every second answer to it, or file, is lost.

    Of files of which a call sends many, which begins anew, only a few are.
    """

    behind: ClassVar[str] = ""
    asked: ClassVar[Counter[str]] = Counter()

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection(self.behind, timeout=60)
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        data = answer.read()
        reads = self.command == "GET" or "search" in self.path
        many = "/models/m-" in self.path
        what = "a file of a model" if many else f"{self.command} {self.path.partition('?')[0]}"
        self.asked[what] += not reads
        if self.asked[what] in (1, 30) if many else self.asked[what] % 2:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward  # noqa: N815 - what the standard library looks for

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.mark.minutes
def test_a_server_that_loses_its_answers_holds_everything_once(
    server: MlflowServer,
    tmp_path: Path,
    model_directory: Path,
    undisturbed: tuple[dict[str, Any], list[Any]],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "30")
    server.start()
    handler = type("Handler", (_Losing,), {"behind": server.address.removeprefix("http://"), "asked": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{proxy.server_port}"
        tracker = wiring.tracker(address, "suite")
        run = tracker.open_run("key", "run")
        _work(tracker, run, tmp_path)
        _register(wiring.model_registry(address), run, model_directory)
        tracker.close_run(run, "finished")
        proxy.shutdown()
    lost = {what.rpartition("mlflow/")[2] for what in handler.asked}
    assert {"experiments/create", "runs/create", "logged-models", "model-versions/create", "runs/log-batch"} <= lost
    assert handler.asked["a file of a model"] > 30
    assert (_seen(server.address, "suite", tmp_path), _models(server.address, "suite", NAME)) == undisturbed


SEARCH = load_config("smoke", RECIPES, ["data.images_per_class=6", "search.num_candidates=3"])


def _search(root: Path, tracking: str, between: Callable[[], None]) -> Any:
    """Do the search of the smallest recipe, and something between its rounds; return the leaderboard's digest."""
    config = SEARCH
    place = Workspace(root, tracking)
    config = place.prepare(config)
    with open_run(config, place) as (dataset, ports):
        state = workflow.start_search(config, ports)
        between()
        records = workflow.Records().joined(
            workflow.score_shard(config, state, 0, 1, dataset, workflow.Records(), ports)
        )
        state = workflow.close_round(config, state, records, ports)
        return workflow.finish_search(config, state, records, ports).leaderboard.digest


@pytest.mark.minutes
def test_a_server_that_is_away_in_the_middle_of_a_search_is_waited_for_or_told_later(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Three searches with the same outcome: undisturbed, with an outage for seconds, with one for good."""
    expected = _search(tmp_path / "undisturbed", "", lambda: None)
    pages = _seen(f"sqlite:///{tmp_path}/undisturbed/mlflow.db", "metantk", tmp_path)

    server.start()
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "100")
    restart = threading.Timer(4.0, server.start)
    capfd.readouterr()

    def for_some_seconds() -> None:
        server.end()
        restart.start()

    assert _search(tmp_path / "waiting", server.address, for_some_seconds) == expected
    said = capfd.readouterr().err
    assert said.count(f"MLflow at {server.address} does not answer; waiting, 100 s at most.") == 1
    assert not (tmp_path / "waiting" / "unsent").exists()
    assert _seen(server.address, "metantk", tmp_path) == pages
    client = MlflowClient(server.address)
    experiment = client.get_experiment_by_name("metantk")
    assert experiment is not None
    client.rename_experiment(experiment.experiment_id, "before")

    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "0.5")
    assert _search(tmp_path / "away", server.address, server.end) == expected
    said = capfd.readouterr().err
    assert "is away; the work goes on" in said
    assert f"do: metantk sync --workspace {tmp_path / 'away'}" in said
    place = Workspace(tmp_path / "away")
    began = time.monotonic()
    with pytest.raises(AwayError, match="No MLflow server answers"):
        list(place.sync())
    with pytest.raises(InputError, match="No MLflow server answers"):  # the start of a command
        Workspace(tmp_path / "away", server.address).prepare(SEARCH)
    assert time.monotonic() - began < 20

    server.start()
    first = CliRunner().invoke(app, ["sync", "--workspace", str(place.root), "--json"])
    assert [sent["run"] for sent in json.loads(first.stdout)] == [SEARCH.run_id]
    second = CliRunner().invoke(app, ["sync", "--workspace", str(place.root)])
    assert second.stdout.startswith("Nothing is waiting to be sent")
    assert _seen(server.address, "metantk", tmp_path) == pages
