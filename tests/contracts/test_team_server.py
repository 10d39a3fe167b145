"""MLflow as teams have it, on PostgreSQL with files in a bucket: nothing is lost, refusals are sentences, secrets stay.

All that needs this server stands here, for it takes ten seconds to start.
"""

import base64
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import boto3
import numpy as np
import pandas as pd
import pytest
from crowd import log_a_shard
from mlflow import pyfunc
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import s3_artifact_repo
from mlflow.tracking import MlflowClient
from object_servers import BUCKET, READERS_SECRET, SECRET, SeaweedFS, environment, raw_client
from PIL import Image
from postgresql import PostgreSQL
from team_server import (
    READER,
    READERS_PASSWORD,
    TEAM,
    TEAMS_PASSWORD,
    TOKEN,
    TeamServer,
    authority,
    guarded,
)

from metantk_core import __main__, wiring, workflow
from metantk_core.config import load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from metantk_core.steps import open_pipeline
from metantk_core.workspace import Workspace, open_run

pytestmark = pytest.mark.slow
"""Where PostgreSQL or SeaweedFS can't be had, all of these are skipped with the reason."""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, postgres: PostgreSQL, seaweedfs: SeaweedFS) -> Iterator[TeamServer]:
    server = TeamServer(tmp_path_factory.mktemp("team-server"), postgres, seaweedfs)
    with _account(TEAM, TEAMS_PASSWORD):
        server.add_reader()
    yield server
    server.stop()


@contextmanager
def _account(user: str, password: str) -> Iterator[None]:
    """Speak for an account."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_USERNAME", user)
        patch.setenv("MLFLOW_TRACKING_PASSWORD", password)
        yield


@pytest.fixture(autouse=True)
def _as_the_team(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Be the team, without credentials of the bucket, and leave nothing of what adapters set."""
    for name in ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "60")
    monkeypatch.chdir(tmp_path)
    s3_artifact_repo._cached_get_s3_client.cache_clear()  # MLflow remembers credentials, and so does boto3
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with _account(TEAM, TEAMS_PASSWORD):
        yield


SESSION_TOKEN = "planted/session+token=="
WRONG = "planted-secret-that-is-wrong"
SETTINGS = ("trained_roles=[best]", "training.iterations=10", "data.images_per_class=6", "evaluation.episodes=20")
SMALL = [word for setting in SETTINGS for word in ("--set", setting)]


def _commands() -> dict[int, tuple[int, bytes]]:
    """Return the parent and the command line of every process on this machine."""
    found: dict[int, tuple[int, bytes]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(folder.name)] = (parent, (folder / "cmdline").read_bytes())
    return found


@dataclass(frozen=True)
class WholeRun:
    """What a whole run left.

    Attributes:
        folder: Where it was started, with its workspace and its temporary files.
        said: All that it printed.
        commands: Command lines of the processes that it started.
        name: Name of the run.
    """

    folder: Path
    said: bytes
    commands: frozenset[bytes]
    name: str


@pytest.fixture(scope="module")
def whole_run(team: TeamServer, tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    """A whole run, in processes of its own, that knows as many secrets as a person may have."""
    folder = tmp_path_factory.mktemp("whole-run")
    (folder / "temporary").mkdir()
    with _account(TEAM, TEAMS_PASSWORD):
        _put_away(team)
    surroundings = {
        **os.environ,
        **environment(team.objects.address),
        "MLFLOW_TRACKING_URI": f"http://{TEAM}:{TEAMS_PASSWORD}@{team.host}",
        "MLFLOW_TRACKING_TOKEN": TOKEN,
        "TMPDIR": str(folder / "temporary"),
    }
    with (folder / "said").open("wb") as said:
        command = [sys.executable, "-m", "metantk_core", "run", "smoke", *SMALL]
        command += ["--store", f"s3://{BUCKET}/whole-run"]
        process = subprocess.Popen(command, cwd=folder, env=surroundings, stdout=said, stderr=said)
        family: set[int] = {process.pid}
        commands: set[bytes] = set()
        while process.poll() is None:
            seen = _commands()
            while new := {pid for pid, (parent, _) in seen.items() if parent in family} - family:
                family |= new
            commands |= {seen[pid][1] for pid in family & set(seen)}
            time.sleep(0.1)
    told = (folder / "said").read_bytes()
    assert process.returncode == 0, told.decode()
    with _account(TEAM, TEAMS_PASSWORD):
        _put_away(team, "whole run")
    return WholeRun(folder, told, frozenset(commands), next(folder.glob("runs/smoke-*")).name)


def test_a_whole_run_leaves_model_report_and_tables_that_can_be_read_back(
    team: TeamServer, whole_run: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("whole run")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {whole_run.name, "search", "meta-train best", "evaluate best"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent, search = runs[whole_run.name].info.run_id, runs["search"].info.run_id
    report = Path(client.download_artifacts(parent, "report.html", str(tmp_path))).read_text()
    assert "</html>" in report
    table = client.load_table(experiment.experiment_id, "leaderboard.json", run_ids=[parent])
    assert len(table) == RECIPES["smoke"].search.num_candidates
    assert len(client.load_table(experiment.experiment_id, "rounds.json", run_ids=[search])) > 0
    model = pyfunc.load_model("models:/metantk-few-shot@champion")
    file = io.BytesIO()
    Image.fromarray(np.zeros((9, 7), np.uint8)).save(file, format="PNG")
    rows = [{"image": file.getvalue(), "label": label} for label in (*"abcde", None, None, None)]
    assert [list(answer["probabilities"]) for answer in model.predict(pd.DataFrame(rows))] == [list("abcde")] * 3
    assert f"/runs/{parent}?workflowType=machine_learning".encode() in whole_run.said
    kept = {name.partition("/artifacts/")[2] for name in _objects(team, "mlflow/")}
    assert {"report.html", "leaderboard.json", "rounds.json", "MLmodel"} <= kept
    assert {name for name in _objects(team, "whole-run/") if "/unsent/" in name} == set()


def test_secrets_of_a_whole_run_are_nowhere(team: TeamServer, whole_run: WholeRun):
    assert len(whole_run.commands) >= 3
    places: dict[str, bytes] = {"what it said": whole_run.said}
    places |= {f"command line {line[:80]!r}": line for line in whole_run.commands}
    places |= _files(whole_run.folder)
    for prefix in ("mlflow/", "whole-run/"):
        places |= {f"object {name}": data for name, data in _objects(team, prefix).items()}
    for database in ("mlflow", "accounts"):
        rows = list(team.postgres.rows(database))
        assert rows
        places |= {f"row {number} of {table}": repr(row).encode() for number, (table, row) in enumerate(rows)}
    assert len(places) > 200
    assert _leaks(team, places) == []


def _objects(team: TeamServer, prefix: str) -> dict[str, bytes]:
    """Return what the bucket holds below a prefix."""
    client = raw_client(team.objects.address)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    names = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
    return {name: client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _leaks(team: TeamServer, places: Mapping[str, bytes]) -> list[str]:
    """Return where secrets stand, in any form in which they travel."""
    secrets = {TEAMS_PASSWORD, TOKEN, SESSION_TOKEN, SECRET, WRONG, team.postgres.password}
    forms = {form.encode() for secret in secrets for form in (secret, quote(secret, safe=""))}
    forms |= {base64.b64encode(f"{TEAM}:{secret}".encode()) for secret in secrets}
    return [place for place, data in places.items() if any(form in data for form in forms)]


@pytest.mark.minutes
def test_eight_shards_at_once_lose_nothing_and_share_one_run(team: TeamServer, monkeypatch: pytest.MonkeyPatch):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "crowd"])
    with context.Pool(8) as crowd:
        parents = set(crowd.starmap(log_a_shard, [(team.address, number) for number in range(8)], chunksize=1))
    assert len(parents) == 1
    (parent,) = parents
    monkeypatch.setenv("MLFLOW_TRACKING_URI", team.address)  # load_table forgets what its client was told
    client = MlflowClient()
    experiment = client.get_experiment_by_name("crowd")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    shards = {run.info.run_name: run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent}
    assert len(runs) == 9
    assert set(shards) == {f"shard-{number}" for number in range(8)}
    everything = []
    for number in range(8):
        run = shards[f"shard-{number}"]
        expected = [1000 * number + step for step in range(200)]
        everything += expected
        assert _steps(client, run.info.run_id) == expected
        assert run.data.params == {f"group.p{one}": f"{number}.{one}" for one in range(110)}
        table = client.load_table(experiment.experiment_id, "scores.json", run_ids=[run.info.run_id])
        assert table["row"].tolist() == list(range(50))
        assert set(table["number"]) == {number}
    assert _steps(client, parent) == everything


def _steps(client: MlflowClient, run: str) -> list[int]:
    history = client.get_metric_history(run, "score/mean")
    assert all(point.value == point.step for point in history)
    return sorted(point.step for point in history)


class Ended(NamedTuple):
    """How a command ended, and what it said."""

    code: object
    said: str


@pytest.fixture
def metantk(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the program in this process, as a person would."""

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["metantk", *arguments])
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as ending:
                __main__.main()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Ended(ending.value.code, "".join(capfd.readouterr()))

    return call


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path, Path]:
    """An authority's certificate, one of ``localhost``, its key, and the certificate of another authority."""
    root, leaf, key = authority(tmp_path_factory.mktemp("certificates"))
    return root, leaf, key, authority(tmp_path_factory.mktemp("others"))[0]


@pytest.fixture
def gate(team: TeamServer, certificates: tuple[Path, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of the server behind a proxy with TLS that wants a token; this process has neither name nor password."""
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    login = base64.b64encode(f"{TEAM}:{TEAMS_PASSWORD}".encode()).decode()
    with guarded(team.host, f"Basic {login}", certificates[1], certificates[2]) as address:
        yield address


def test_a_token_and_a_private_authority_open_the_way_for_runs_and_their_files(
    gate: str, certificates: tuple[Path, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", TOKEN)
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificates[0]))
    tracker = wiring.tracker(gate, "guarded")
    run = tracker.open_run("key", "run")
    (tmp_path / "words.txt").write_text("through the server")
    tracker.log_file(run, tmp_path / "words.txt")
    assert "AWS_SECRET_ACCESS_KEY" not in os.environ
    kept = MlflowClient(gate).download_artifacts(run, "words.txt", str(tmp_path))
    assert Path(kept).read_text() == "through the server"


@pytest.mark.parametrize(
    ("token", "trusted", "words"),
    [
        (WRONG, 0, "asks who you are (401)"),
        ("", 0, "asks who you are (401)"),
        (TOKEN, None, "can't be trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH"),
        (TOKEN, 3, "can't be trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH"),
        (TOKEN, "nowhere.pem", "MLFLOW_TRACKING_SERVER_CERT_PATH names nowhere.pem, which is not there"),
        (TOKEN, 2, "can't be trusted; set MLFLOW_TRACKING_SERVER_CERT_PATH"),
    ],
    ids=["wrong token", "no token", "no authority", "another authority", "no file", "no certificate"],
)
def test_a_wrong_token_or_authority_is_a_sentence(
    token: str,
    trusted: int | str | None,
    words: str,
    gate: str,
    team: TeamServer,
    certificates: tuple[Path, ...],
    metantk: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
):
    if token:
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
    if trusted is not None:
        place = certificates[trusted] if isinstance(trusted, int) else trusted
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(place))
    _assert_sentence(team, metantk("search", "smoke", "--tracking-uri", gate), words)


@pytest.mark.parametrize(
    ("user", "password", "words"),
    [
        (TEAM, WRONG, "asks who you are (401)"),
        ("nobody", TEAMS_PASSWORD, "asks who you are (401)"),
        ("", "", "asks who you are (401)"),
        (READER, READERS_PASSWORD, "does not let this account"),
    ],
    ids=["wrong password", "unknown", "nobody", "may only read"],
)
def test_an_account_that_may_not_log_is_a_sentence(
    user: str, password: str, words: str, team: TeamServer, metantk: Callable[..., Ended]
):
    with suppress(MlflowException):
        MlflowClient(team.address).create_experiment(wiring.EXPERIMENT)
    with _account(user, password):
        _assert_sentence(team, metantk("search", "smoke", "--tracking-uri", team.address), words)


def _assert_sentence(team: TeamServer, ended: Ended, words: str) -> None:
    assert ended.code == 2, ended.said
    said = ended.said.strip().splitlines()
    assert "Traceback" not in ended.said
    assert said[-1].startswith("metantk: ")
    assert words in said[-1], said[-1]
    assert _leaks(team, {"said": ended.said.encode(), **_files(Path.cwd())}) == []


def _direct(team: TeamServer, name: str) -> str:
    """Return an experiment whose files clients take to the bucket themselves."""
    MlflowClient(team.address).create_experiment(name, f"s3://{BUCKET}/direct/{name}")
    return name


def test_files_go_to_the_bucket_directly_where_the_server_says_so(
    team: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment(team.objects.address).items():
        monkeypatch.setenv(name, value)
    tracker = wiring.tracker(team.address, _direct(team, "direct"))
    run = tracker.open_run("key", "run")
    (tmp_path / "words.txt").write_text("directly")
    tracker.log_file(run, tmp_path / "words.txt")
    tracker.log_table(run, {"a": [1]}, "table.json")
    kept = _objects(team, "direct/direct/")
    assert kept[f"direct/direct/{run}/artifacts/words.txt"] == b"directly"
    assert len(kept) == 2


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        ({"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": READERS_SECRET}, "access is denied"),
        ({"AWS_SECRET_ACCESS_KEY": WRONG}, "the secret key is not the one of this access key"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "there are no credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "can't be reached"),
    ],
    ids=["may only read", "wrong secret", "no secret", "nobody there"],
)
def test_a_bucket_that_does_not_take_files_directly_is_a_sentence(
    secret: dict[str, str], words: str, team: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name, value in {**environment(team.objects.address), **secret}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "0")
    tracker = wiring.tracker(team.address, _direct(team, uuid.uuid4().hex))
    run = tracker.open_run("key", "run")
    (tmp_path / "words.txt").write_text("directly")
    with pytest.raises(InputError) as caught:
        tracker.log_file(run, tmp_path / "words.txt")
    assert words in str(caught.value)
    assert f"s3://{BUCKET}/direct/" in str(caught.value)
    assert _leaks(team, {"said": str(caught.value).encode()}) == []


def _search(place: Workspace, between: Callable[[], None]) -> str:
    """Do the search of the smallest recipe, and something in its middle; return the leaderboard's digest."""
    config = place.prepare(load_config("smoke", RECIPES, SETTINGS))
    with open_run(config, place) as (dataset, ports):
        state = workflow.start_search(config, ports)
        records = workflow.score_shard(config, state, 0, 1, dataset, workflow.Records(), ports)
        records = workflow.Records().joined(records)
        between()
        state = workflow.close_round(config, state, records, ports)
        return workflow.finish_search(config, state, records, ports).leaderboard.digest


def _pages(team: TeamServer, scratch: Path) -> dict[str, Any]:
    """Return what the experiment of all commands shows, without identifiers and times."""
    client = MlflowClient(team.address)
    experiment = client.get_experiment_by_name(wiring.EXPERIMENT)
    assert experiment is not None
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        identifier = run.info.run_id
        assert run.info.run_name not in found, "a run is there twice"
        measured = [one for one in run.data.metrics if not one.startswith("system/")]
        curves = {one: client.get_metric_history(identifier, one) for one in measured}
        files = [file.path for file in client.list_artifacts(identifier) if not file.is_dir]
        found[str(run.info.run_name)] = {
            "status": run.info.status,
            "parameters": run.data.params,
            "curves": {one: [(point.step, point.value) for point in curve] for one, curve in curves.items()},
            "files": {one: _content(client, identifier, one, scratch) for one in files},
        }
    return found


def _content(client: MlflowClient, run: str, file: str, scratch: Path) -> bytes:
    return Path(client.download_artifacts(run, file, str(scratch))).read_bytes()


def _put_away(team: TeamServer, name: str = "") -> None:
    """Give the experiment of all commands another name, so that the next command begins a new one."""
    client = MlflowClient(team.address)
    found = client.get_experiment_by_name(wiring.EXPERIMENT)
    if found is not None:
        client.rename_experiment(found.experiment_id, name or uuid.uuid4().hex)


@pytest.fixture(scope="module")
def undisturbed(team: TeamServer, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """The digest of the search that nothing disturbs, and its pages."""
    root = tmp_path_factory.mktemp("undisturbed")
    with _account(TEAM, TEAMS_PASSWORD):
        _put_away(team)
        return _search(Workspace(root, team.address), lambda: None), _pages(team, root)


@pytest.mark.minutes  # for seconds, on a server of its own: test_outages.py
def test_a_database_that_is_away_for_a_minute_behind_its_server_is_waited_for(
    team: TeamServer,
    undisturbed: tuple[str, dict[str, Any]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "100")
    _put_away(team)
    back = threading.Timer(60.0, team.postgres.start)

    def leave() -> None:
        team.postgres.end()
        back.start()

    try:
        digest = _search(Workspace(tmp_path, team.address), leave)
    finally:
        back.join()
    said = capfd.readouterr().err
    assert said.count(f"MLflow at {team.address} does not answer; waiting, 100 s at most.") == 1
    assert not (tmp_path / "unsent").exists()
    assert (digest, _pages(team, tmp_path)) == undisturbed


@pytest.mark.minutes
def test_what_a_database_missed_is_kept_in_the_bucket_and_sent_from_there_once(
    team: TeamServer,
    undisturbed: tuple[str, dict[str, Any]],
    tmp_path: Path,
    metantk: Callable[..., Ended],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("METANTK_MLFLOW_PATIENCE", "0.5")
    for name, value in environment(team.objects.address).items():
        monkeypatch.setenv(name, value)
    _put_away(team)
    store = f"s3://{BUCKET}/what-was-missed"
    with_password = f"http://{TEAM}:{TEAMS_PASSWORD}@{team.host}"
    try:
        assert _search(Workspace(tmp_path / "first", with_password, shared=store), team.postgres.end) == undisturbed[0]
        said = capfd.readouterr().err
        assert "is away; the work goes on" in said
        assert f"do: metantk sync --store {store}" in said
        began = time.monotonic()
        again = metantk("search", "smoke", "--tracking-uri", team.address)  # now at the start of a command
        assert time.monotonic() - began < 10
        _assert_sentence(team, again, f"The MLflow server at {team.address} answers with error 503")
        _assert_sentence(team, metantk("sync", "--store", store), "answers with error 503")
    finally:
        team.postgres.start()
    kept = {name: data for name, data in _objects(team, "what-was-missed/").items() if "/unsent/" in name}
    assert kept
    assert not list(tmp_path.rglob("unsent"))
    assert _leaks(team, {**kept, "said": said.encode()}) == []
    first = metantk("sync", "--store", store, "--json")
    assert first.code == 0
    assert _pages(team, tmp_path) == undisturbed[1]
    second = metantk("sync", "--store", store)
    assert second.said.startswith("Nothing is waiting to be sent")
    assert _pages(team, tmp_path) == undisturbed[1]


@pytest.mark.minutes
def test_files_wait_for_a_bucket_that_is_away_behind_the_server(
    team: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tracker = wiring.tracker(team.address, "no-bucket")
    run = tracker.open_run("key", "run")
    (tmp_path / "words.txt").write_text("later")
    team.objects.kill()
    back = threading.Timer(2.0, team.objects.start)
    back.start()
    try:
        tracker.log_file(run, tmp_path / "words.txt")
    finally:
        back.join()
    kept = MlflowClient(team.address).download_artifacts(run, "words.txt", str(tmp_path))
    assert Path(kept).read_text() == "later"


@pytest.fixture
def planted(team: TeamServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An environment full of secrets; the address of a database with its password, too."""
    (tmp_path / "temporary").mkdir()
    for name, value in {
        **environment(team.objects.address),
        "AWS_SESSION_TOKEN": SESSION_TOKEN,
        "MLFLOW_TRACKING_TOKEN": TOKEN,
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": (tmp_path / "files").as_uri(),
        "TMPDIR": str(tmp_path / "temporary"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(tempfile, "tempdir", None)
    team.postgres.create(database := uuid.uuid4().hex)
    return team.postgres.address(database)


def test_secrets_of_a_search_are_not_in_its_database_nor_anywhere_else(
    team: TeamServer, planted: str, metantk: Callable[..., Ended]
):
    ended = metantk("search", "smoke", "--tracking-uri", planted, *SMALL)
    assert ended.code == 0, ended.said
    rows = list(team.postgres.rows(planted.rpartition("/")[2]))
    assert "leaderboard.json" in str(rows)
    _assert_no_leak(team, ended, rows=repr(rows).encode())


def test_secrets_are_not_in_a_compiled_pipeline(team: TeamServer, planted: str, metantk: Callable[..., Ended]):
    store = f"s3://{BUCKET}/pipeline"
    ended = metantk("compile", "smoke", "-o", "pipeline.yaml", "--store", store, "--tracking-uri", team.address)
    assert ended.code == 0
    assert store in Path("pipeline.yaml").read_text()
    _assert_no_leak(team, ended)
    refused = metantk("compile", "smoke", "-o", "another.yaml", "--tracking-uri", planted)
    assert refused.code == 2
    assert not Path("another.yaml").exists()
    _assert_no_leak(team, refused)


def test_secrets_are_not_in_what_is_said_of_servers_that_refuse(
    team: TeamServer, planted: str, metantk: Callable[..., Ended]
):
    port = planted.rpartition(":")[2].partition("/")[0]
    for address, words in [
        (planted.replace(team.postgres.password, WRONG), "password authentication failed"),
        (planted.replace(port, "1"), "Connection refused"),
        (f"{planted}-not-there", "does not exist"),
        (f"http://{TEAM}:{WRONG}@{team.host}", "asks who you are"),
        (f"http://{TEAM}:{TEAMS_PASSWORD}@127.0.0.1:1", "No MLflow server answers"),
    ]:
        _assert_sentence(team, metantk("search", "smoke", "--tracking-uri", address), words)


def test_secrets_are_not_in_the_log_of_an_error_of_ours(
    team: TeamServer, planted: str, metantk: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Libraries write into their errors what they like."""

    def fail(*_: object, **__: object) -> None:
        login = base64.b64encode(f"{TEAM}:{TEAMS_PASSWORD}".encode()).decode()
        try:
            raise ConnectionError(f"no way to {planted} and http://host/x?X-Amz-Security-Token={SESSION_TOKEN}&a=b")
        except ConnectionError as error:
            secret = quote(SESSION_TOKEN, safe="")
            raise RuntimeError(f"{TOKEN} {SECRET} {secret} Authorization: Basic {login}") from error

    monkeypatch.setattr(wiring, "tracker", fail)
    ended = metantk("search", "smoke", "--tracking-uri", planted)
    assert ended.code == 1
    (log,) = (tmp_path / "temporary").glob("metantk-error-*.log")
    assert "RuntimeError" in log.read_text()
    assert f"{team.postgres.port}" in log.read_text()  # what is no secret is there
    _assert_no_leak(team, ended)


def test_secrets_are_not_in_the_log_of_a_step_that_fails_nor_in_its_tags(
    team: TeamServer, planted: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    config = RECIPES["smoke"].to_json()
    step = open_pipeline(config, store=str(tmp_path), tracking_uri=planted, images=tmp_path / "images")
    with pytest.raises(SystemExit) as ending, step:
        raise RuntimeError(f"the library says {TOKEN} of {planted}")
    assert ending.value.code == 1
    said = "".join(capfd.readouterr())
    assert "RuntimeError: the library says … of postgresql+psycopg2://" in said
    rows = repr(list(team.postgres.rows(planted.rpartition("/")[2])))
    assert "RuntimeError: the library says …" in rows
    _assert_no_leak(team, Ended(1, said), rows=rows.encode())


def _assert_no_leak(team: TeamServer, ended: Ended, **more: bytes) -> None:
    places = {"said": ended.said.encode(), **_files(Path.cwd()), **more}
    assert _leaks(team, places) == []
