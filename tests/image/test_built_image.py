"""The image as it is built: what is in it and what is not, who may run it, and the whole pipeline in it.

Run by ``make image-test`` alone: building takes minutes, and an engine.
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from engine import ROOT, Engine, running_engine, with_base
from forked_commands import metantk
from mlflow.tracking import MlflowClient
from object_servers import BUCKET, SECRET, USER, SeaweedFS, environment, free_ports, seaweedfs_program
from PIL import Image
from pipeline_in_image import NOBODYS
from postgresql import PostgreSQL, postgresql_programs

import metantk_core
from metantk_core import wiring, workflow
from metantk_core.config import RunConfig, load_config
from metantk_core.recipes import RECIPES

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif("IMAGE_TEST" not in os.environ, reason="needs an engine and minutes: make image-test"),
]

# Nothing but a place for temporary files may be written; nobody on the system has this number; no rights of root.
LOCKED = ("--read-only", "--tmpfs", "/tmp:mode=1777", "--user", NOBODYS, "--cap-drop", "ALL")
LOCKED += ("--security-opt", "no-new-privileges", "--env", "OMP_NUM_THREADS=1")
FEW = ("--set", "data.images_per_class=8")


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with running_engine() as found:
        yield found


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    """Build the image as a person does, and return its name."""
    build = ["make", "--no-print-directory", "image", f"BUILD_ARGS={' '.join(with_base(engine))}"]
    done = subprocess.run(build, cwd=ROOT, env={**os.environ, **engine.environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout.splitlines()[-1]


def run(engine: Engine, image: str, *command: str, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command in a container that reaches no network and may write nothing but temporary files."""
    return engine.tried("run", "--rm", "--network", "none", *LOCKED, *options, image, *command)


def said(engine: Engine, image: str, *command: str) -> str:
    done = run(engine, image, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_its_name_is_that_of_its_content_and_stands_in_it(engine: Engine, image: str):
    printed = subprocess.run(["make", "-s", "image-name"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == image
    assert re.fullmatch(rf"metantk-python:{re.escape(metantk_core.__version__)}-cpu-[0-9a-f]{{12}}", image)
    compiled = said(engine, image, "sh", "-c", "cd /tmp && metantk compile smoke >/dev/null && cat pipeline.yaml")
    assert set(re.findall(r"image: (\S+)", compiled)) == {image}


def test_labels_say_what_it_was_built_from(engine: Engine, image: str):
    labels = json.loads(engine.docker("image", "inspect", image, "--format", "{{json .Config.Labels}}"))
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in labels.items()}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert labels["revision"].removesuffix("-changed") == head.stdout.strip()
    assert labels["version"] == metantk_core.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", labels["created"])


def test_it_holds_the_pinned_packages_and_lists_them(engine: Engine, image: str):
    listed = dict(line.split("==") for line in said(engine, image, "cat", "/opt/metantk/packages.txt").splitlines())
    assert listed.pop("metantk") == metantk_core.__version__
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    folded = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins.items()}
    for name, version in listed.items():
        assert folded[re.sub(r"[-_.]+", "-", name).lower()] == version.removesuffix("+cpu"), name
    assert {"torch", "kfp", "mlflow", "boto3", "learn2learn", "psycopg2-binary"} <= set(listed)


def test_it_holds_no_compiler_and_nothing_of_it_can_be_changed_by_whoever_runs_it(engine: Engine, image: str):
    tools = "gcc cc g++ c++ cpp ld as make cmake"
    assert said(engine, image, "sh", "-c", f"for tool in {tools}; do command -v $tool; done; true") == ""
    assert said(engine, image, "sh", "-c", "ls /opt/metantk/bin | grep -c '^pip' || true") == "0"
    for user in ("1000:0", NOBODYS):
        script = "! find / -xdev -writable -not -path '/proc/*' -not -path '/dev/*' -type f 2>/dev/null | grep ."
        done = engine.tried("run", "--rm", "--network", "none", "--user", user, image, "sh", "-c", script)
        assert (done.returncode, done.stdout) == (0, ""), done.stdout[:500]


def test_it_has_no_entrypoint_for_kubeflow_gives_each_step_its_command(engine: Engine, image: str):
    assert engine.docker("image", "inspect", image, "--format", "{{json .Config.Entrypoint}}") == "null"


@pytest.mark.parametrize("user", ["1000:0", NOBODYS, "54321:54321"])
def test_whoever_runs_it_can_score_without_network_and_without_writing_into_it(engine: Engine, image: str, user: str):
    script = "cd /tmp && metantk search smoke --set data.images_per_class=8 --json"
    done = run(engine, image, "sh", "-c", script, options=["--user", user])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["winner"]
    # No library complains of a folder that it can't write, as matplotlib does.
    assert "writable" not in done.stderr


def test_a_writable_one_has_a_folder_for_results_for_every_user_of_group_0(engine: Engine, image: str):
    written = ["run", "--rm", "--network", "none", "--user", NOBODYS, image, "sh", "-c", "touch here && pwd"]
    assert engine.docker(*written) == "/workspace"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    server = SeaweedFS(tmp_path_factory.mktemp("seaweedfs"), seaweedfs_program())
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mlflow_address(engine: Engine, image: str, store: SeaweedFS) -> Iterator[str]:
    """MLflow's server in the image, as docker/compose.yaml has it: on PostgreSQL, with its files in the bucket."""
    database = PostgreSQL(postgresql_programs())
    database.create("mlflow")
    (port,) = free_ports(1)
    settings = {
        **environment(store.address),
        "MLFLOW_BACKEND_STORE_URI": database.address("mlflow"),
        "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}/mlflow",
        "MLFLOW_HOST": "127.0.0.1",
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    options = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
    name = f"metantk-mlflow-{uuid.uuid4().hex[:8]}"
    engine.docker("run", "--detach", "--name", name, "--network", "host", *LOCKED, *options, image, "mlflow", "server")
    try:
        _until_healthy(engine, name, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        engine.docker("rm", "--force", name)
        database.stop()


def _until_healthy(engine: Engine, name: str, address: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=2).close()
            return
        except OSError:
            running = engine.docker("inspect", name, "--format", "{{.State.Running}}") == "true"
            if not running or time.monotonic() > until:
                pytest.fail(engine.tried("logs", name).stderr[-3000:])
            time.sleep(0.5)


class InTheImage:
    """The pipeline of a configuration, its steps in containers."""

    def __init__(self, engine: Engine, image: str, objects: SeaweedFS, mlflow_address: str, folder: Path) -> None:
        self.engine, self.image, self.mlflow_address, self.folder = engine, image, mlflow_address, folder
        self.store = f"s3://{BUCKET}/{uuid.uuid4().hex}"
        self.account = environment(objects.address)
        # Credentials as a file, which a secret mounted as a volume is in a pod, too.
        (folder / "aws").mkdir(mode=0o755)
        lines = ["[default]", f"aws_access_key_id = {USER}", f"aws_secret_access_key = {SECRET}"]
        (folder / "aws" / "credentials").write_text("\n".join(lines))
        (folder / "aws" / "config").write_text(f"[default]\nregion = us-east-1\nendpoint_url = {objects.address}\n")

    def run(self, config: RunConfig, version: str = metantk_core.__version__) -> subprocess.CompletedProcess[str]:
        configuration, root = self.folder / "config.json", self.folder / "kfp"
        configuration.write_text(config.to_json())
        root.mkdir(mode=0o777, exist_ok=True)
        root.chmod(0o777)
        program = Path(__file__).with_name("pipeline_in_image.py")
        command = [sys.executable, str(program), str(configuration), self.image, str(root), str(self.folder / "aws")]
        return subprocess.run(
            [*command, self.store, self.mlflow_address, version],
            env={**os.environ, **self.engine.environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@contextmanager
def environment_of(in_the_image: InTheImage) -> Iterator[None]:
    with patch.dict(os.environ, in_the_image.account):
        yield


@pytest.fixture(scope="module")
def in_the_image(
    engine: Engine, image: str, store: SeaweedFS, mlflow_address: str, tmp_path_factory: pytest.TempPathFactory
) -> InTheImage:
    return InTheImage(engine, image, store, mlflow_address, tmp_path_factory.mktemp("in-the-image"))


@pytest.fixture(scope="module")
def ended(in_the_image: InTheImage) -> RunConfig:
    """The configuration of a pipeline that has ended in the image."""
    config = load_config("smoke", RECIPES, [FEW[1]])
    done = in_the_image.run(config)
    assert done.returncode == 0, done.stdout[-5000:]
    return config


def test_the_pipeline_ends_in_it_with_the_leaderboard_of_this_machine(
    in_the_image: InTheImage, ended: RunConfig, tmp_path: Path
):
    config = ended
    with environment_of(in_the_image):
        result = workflow.read_result(config, wiring.artifact_store(in_the_image.store))
    here = metantk("search", "smoke", *FEW, "--json", cwd=tmp_path)
    assert result.leaderboard.digest == json.loads(here.stdout)["digest"]
    assert set(result.evaluations) == set(config.networks)
    client = MlflowClient(in_the_image.mlflow_address)
    (parent,) = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()],
        f"attributes.run_name = '{config.run_id}'",
    )
    assert parent.info.status == "FINISHED"
    assert "leaderboard.json" in {file.path for file in client.list_artifacts(parent.info.run_id)}
    sys.stdout.write(f"{in_the_image.image}: leaderboard {result.leaderboard.digest}\n")  # for whoever looks on


@pytest.mark.usefixtures("ended")
def test_it_serves_the_network_that_the_pipeline_registered_to_who_sends_image_files(
    in_the_image: InTheImage, tmp_path: Path
):
    """As docs/serving.md has it, but for the ports: an engine of these tests has the machine's network alone."""
    (port,) = free_ports(1)
    name, address = f"metantk-serving-{uuid.uuid4().hex[:8]}", f"http://127.0.0.1:{port}"
    where = ("--env", f"MLFLOW_TRACKING_URI={in_the_image.mlflow_address}", "--network", "host")
    serve = ("mlflow", "models", "serve", "-m", "models:/metantk-few-shot@champion", "--env-manager", "local")
    serving = (in_the_image.image, *serve, "-h", "127.0.0.1", "-p", str(port))
    in_the_image.engine.docker("run", "--detach", "--name", name, *where, *LOCKED, *serving)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(10):  # two images of each of five classes, of which one is known
        file = tmp_path / f"{number}.png"
        shade = 25 * (number % 5) + rng.integers(0, 9, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(shade.astype(np.uint8)).save(file)
        known = {"label": f"class {number}"} if number < 5 else {}
        rows.append({"image": base64.b64encode(file.read_bytes()).decode(), **known})
    try:
        _until_healthy(in_the_image.engine, name, address)
        answered = asked(address, rows)
        assert [len(answer["probabilities"]) for answer in answered["predictions"]] == [5] * 5
        assert {answer["label"] for answer in answered["predictions"]} <= {f"class {number}" for number in range(5)}
        with pytest.raises(urllib.error.HTTPError) as refused:
            asked(address, rows[:4] + rows[5:])
        assert refused.value.code == 400
    finally:
        in_the_image.engine.docker("rm", "--force", name)


def asked(address: str, rows: Sequence[dict[str, str]]) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations",
        json.dumps({"dataframe_records": rows}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def test_an_image_of_another_version_ends_the_first_step_with_a_sentence(in_the_image: InTheImage):
    before = kept(in_the_image)
    done = in_the_image.run(load_config("smoke", RECIPES, [FEW[1], "name=other"]), version="9.9.9")
    assert done.returncode != 0
    here = metantk_core.__version__
    assert (
        f"metantk: Expected an image with metantk 9.9.9, which compiled this pipeline, got one with {here}"
        in done.stdout
    )
    assert kept(in_the_image) == before


def kept(in_the_image: InTheImage) -> set[str]:
    with environment_of(in_the_image):
        return set(wiring.artifact_store(in_the_image.store).keys())
