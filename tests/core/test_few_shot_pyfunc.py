"""The registered model: loaded by name in a process that knows no repository, it answers as the classifier."""

import base64
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.models import get_model_info
from mlflow.tracking import MlflowClient
from PIL import Image

from metantk_core import wiring
from metantk_core.candidates import space_named
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.meta_training import (
    FewShotClassifier,
    MamlTraining,
    Picture,
    classify,
    load_model,
    save_model,
    untrained_model,
)
from metantk_core.networks import NetworkConfig
from metantk_core.ports import DatasetSummary, MetricPoint, RegisteredModel

WAYS, SHOTS, SIZE = 3, 2, 12
NAME = "few-shot"
TEST = DatasetSummary("noise-test", "0123456789abcdef", "noise", 90, 9, (1, SIZE, SIZE))


@pytest.fixture(scope="module")
def request_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {
        "support_images": rng.integers(0, 256, (WAYS * SHOTS, 1, SIZE, SIZE), dtype=np.uint8),
        "support_labels": np.repeat(np.arange(WAYS, dtype=np.int64), SHOTS),
        "query_images": rng.integers(0, 256, (5, 1, SIZE, SIZE), dtype=np.uint8),
    }


def _save(directory: Path, seed: int) -> Path:
    rng = np.random.default_rng(0)
    images = LabelledImages(
        images=rng.integers(0, 256, (4 * WAYS, 1, SIZE, SIZE), dtype=np.uint8),
        labels=np.repeat(np.arange(WAYS, dtype=np.int64), 4),
        class_names=tuple("abc"),
        split="train",
        name="noise",
    )
    episode = EpisodeConfig(ways=WAYS, shots=SHOTS, queries=1)
    source = EpisodeSource(images, episode, (0.5,), (0.25,))
    genotype = space_named("darts_fewshot").sample(np.random.default_rng(3))
    config = MamlTraining(episode=episode, network=NetworkConfig(channels=4, cells=2), inner_steps=2)
    save_model(untrained_model(genotype, source, config, seed), directory)
    return directory


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("trained"), seed=0)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('registry')}/mlflow.db"


@pytest.fixture(scope="module")
def run(uri: str) -> str:
    tracker = wiring.tracker(uri)
    run = tracker.open_run("run", "run")
    tracker.log_metrics(run, [MetricPoint("eval/accuracy best", 0.5)])
    return run


@pytest.fixture(scope="module")
def register(uri: str, run: str, request_arrays: dict[str, np.ndarray]):
    def register(directory: Path, name: str = NAME, **words: str) -> RegisteredModel:
        return wiring.model_registry(uri).register(
            run,
            name,
            load_model(directory),
            directory,
            alias="champion",
            description=words.get("description", "A classifier."),
            tags={"accuracy": words.get("accuracy", "0.50")},
            input_example=request_arrays,
            metrics=[MetricPoint("eval/accuracy best", 0.5), MetricPoint("eval/half width 95 best", 0.01)],
            dataset=TEST,
        )

    return register


@pytest.fixture(scope="module")
def registered(register, model_directory: Path) -> RegisteredModel:
    return register(model_directory)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, format="PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def rows(request_arrays: dict[str, np.ndarray]) -> list[dict]:
    support = zip(request_arrays["support_images"], request_arrays["support_labels"], strict=True)
    shown = [{"image": png(image), "label": f"kind {label}"} for image, label in support]
    return [*shown, *({"image": png(image)} for image in request_arrays["query_images"])]


def test_a_fresh_process_elsewhere_answers_as_the_classifier(
    registered: RegisteredModel,
    uri: str,
    model_directory: Path,
    request_arrays: dict[str, np.ndarray],
    rows: list[dict],
    tmp_path: Path,
):
    pd.DataFrame(rows).to_parquet(tmp_path / "request.parquet")
    body = f"""
import sys
# An editable install must not help: only the copy of the package inside the model may.
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
import json, mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{NAME}@champion")
json.dump(model.predict(pandas.read_parquet("request.parquet")), open("answer.json", "w"))
import metantk_core
print(metantk_core.__file__)
"""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1"}  # the copy stays as it was registered
    environment.pop("PYTHONPATH", None)
    fresh = subprocess.run(
        [sys.executable, "-c", body], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert fresh.returncode == 0, fresh.stderr
    assert not Path(fresh.stdout.strip()).is_relative_to(Path(__file__).parents[2])
    answers = json.loads((tmp_path / "answer.json").read_text())
    expected = FewShotClassifier(load_model(model_directory)).predict_proba(**request_arrays)
    assert [list(answer["probabilities"]) for answer in answers] == [["kind 0", "kind 1", "kind 2"]] * 5
    np.testing.assert_allclose([list(answer["probabilities"].values()) for answer in answers], expected, atol=1e-5)
    assert [answer["label"] for answer in answers] == [f"kind {best}" for best in expected.argmax(axis=1)]
    assert np.ptp(expected, axis=1).min() > 1e-3  # not the uniform answer of a network that adapted to nothing


@pytest.fixture(scope="module")
def served(registered: RegisteredModel, uri: str, tmp_path_factory: pytest.TempPathFactory):
    """A server of the registered model, as people start it; the address of its answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # The copy of the code stays as it was registered.
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", registered.uri, "--env-manager", "local"]
    log = tmp_path_factory.mktemp("served") / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment,
            cwd=log.parent,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5):
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ask(address: str, body: object) -> tuple[int, dict]:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encoded(rows: list[dict]) -> list[dict]:
    return [{**row, "image": base64.b64encode(row["image"]).decode()} for row in rows]


@pytest.mark.slow
def test_a_served_model_answers_image_files_in_any_form_that_mlflow_takes(served: str, model_directory: Path, rows):
    def picture(mode: str, size: tuple[int, int], form: str, value: int) -> bytes:
        file = io.BytesIO()
        Image.new("L", size, value).convert(mode).save(file, format=form)
        return file.getvalue()

    # As people have them: another size, mode and format each.
    photos = [
        {"image": picture("RGB", (50, 20), "JPEG", 250), "label": "white"},
        {"image": picture("P", (12, 90), "GIF", 128), "label": "grey"},
        {"image": picture("1", (30, 30), "PNG", 0), "label": "black"},
        {"image": picture("RGBA", (7, 9), "WEBP", 3)},
    ]
    classifier = FewShotClassifier(load_model(model_directory))
    for asked in (rows, photos):
        pictures = [Picture("", row["image"], row.get("label")) for row in asked]
        expected = [answer.probabilities for answer in classify(classifier, pictures)]
        for form in ({"dataframe_records": encoded(asked)}, {"inputs": encoded(asked)}):
            status, answer = ask(served, form)
            assert status == 200, answer
            for found, wanted in zip(answer["predictions"], expected, strict=True):
                assert found["probabilities"] == pytest.approx(wanted, abs=1e-5)
                assert found["label"] == max(wanted, key=wanted.__getitem__)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:4], "Expected support images, which have a label, and query images"),
        (lambda rows: rows[6:], "Expected support images, which have a label, and query images"),
        (lambda rows: [*rows[:4], *rows[6:]], "exactly 3 classes, which this model was trained for, but got 2"),
        (lambda rows: [*rows, {"image": base64.b64encode(b"hello").decode()}], "Image 'row 11' can't be read"),
        (lambda rows: [*rows, {"image": "%%%"}], "Image 'row 11' can't be read"),
        (lambda rows: [*rows, {"image": rows[0]["image"], "label": " "}], "one is blank"),
        (lambda rows: [{"label": "a"}], "Model is missing inputs ['image']"),
        (lambda rows: [], "Model is missing inputs ['image']"),
    ],
)
def test_a_request_that_cannot_be_answered_gets_400_and_a_sentence(served: str, rows, change, words: str):
    status, answer = ask(served, {"dataframe_records": change(encoded(rows))})
    assert status == 400
    assert words in answer["message"]
    if "missing inputs" not in words:  # whose sentence is MLflow's
        assert len(answer["message"]) < 300  # not the request again


def test_a_registered_model_is_fetched_by_its_address(registered: RegisteredModel, uri: str, tmp_path: Path):
    fetched = load_model(wiring.model_registry(uri).fetch(f"models:/{NAME}@champion", tmp_path / "model"))
    assert fetched.digest == load_model(wiring.model_registry(uri).fetch(registered.uri, tmp_path / "again")).digest
    for address in (f"models:/{NAME}/99", "models:/nobody@champion"):
        with pytest.raises(InputError, match="Expected a registered model at"):
            wiring.model_registry(uri).fetch(address, tmp_path / "none")


def test_the_same_model_of_the_same_run_is_one_version_with_the_newest_words(
    registered: RegisteredModel, register, model_directory: Path, uri: str, run: str
):
    again = register(model_directory, accuracy="0.75", description="Better words.")
    assert again == registered
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version_by_alias(NAME, "champion")
    assert (version.name, str(version.version), version.run_id) == (NAME, registered.version, run)
    assert version.description == "Better words."
    assert version.tags["accuracy"] == "0.75"
    assert len(client.search_model_versions(f"name = '{NAME}'")) == 1
    outputs = client.get_run(run).outputs
    assert outputs is not None
    assert version.source in [f"models:/{output.model_id}" for output in outputs.model_outputs]


def test_the_accuracy_is_shown_with_the_model_and_the_images_and_once_with_the_run(
    registered: RegisteredModel, register, model_directory: Path, uri: str, run: str
):
    register(model_directory)
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    version = client.get_model_version(NAME, registered.version)
    model = client.get_logged_model(str(version.source).removeprefix("models:/"))
    assert model.metrics is not None
    assert sorted(
        (metric.key, metric.value, metric.dataset_name, metric.dataset_digest) for metric in model.metrics
    ) == [
        ("eval/accuracy best", 0.5, TEST.name, TEST.digest),
        ("eval/half width 95 best", 0.01, TEST.name, TEST.digest),
    ]
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": NAME, "version": registered.version}]
    assert model.params["genotype"] == load_model(model_directory).genotype
    # The run has had the first point since the network was evaluated; the second came with the model.
    assert [point.value for point in client.get_metric_history(run, "eval/accuracy best")] == [0.5]
    assert [point.value for point in client.get_metric_history(run, "eval/half width 95 best")] == [0.01]


def test_the_words_about_a_model_lie_beside_its_weights(
    registered: RegisteredModel, uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = download_artifacts(registered.uri, dst_path=str(tmp_path))
    assert Path(folder, "README.md").read_text() == "A classifier."


def test_another_model_is_another_version_and_takes_the_alias(
    registered: RegisteredModel, register, model_directory: Path, uri: str, tmp_path: Path
):
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    other = register(_save(tmp_path / "other", seed=1), name="another")
    third = register(model_directory, name="another")
    assert [other.version, third.version] == ["1", "2"]
    assert str(client.get_model_version_by_alias("another", "champion").version) == "2"
    assert register(_save(tmp_path / "other", seed=1), name="another") == other
    assert str(client.get_model_version_by_alias("another", "champion").version) == "1"


def test_the_model_says_what_it_takes_and_what_it_needs(
    registered: RegisteredModel, uri: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    info = get_model_info(registered.uri)
    assert info.signature is not None
    inputs = json.loads(info.signature.to_dict()["inputs"])
    assert inputs == [
        {"type": "binary", "name": "image", "required": True},
        {"type": "string", "name": "label", "required": False},
    ]
    outputs = json.loads(info.signature.to_dict()["outputs"])
    assert [output["name"] for output in outputs] == ["label", "probability", "probabilities"]
    folder = Path(download_artifacts(registered.uri))
    requirements = (folder / "requirements.txt").read_text()
    assert "torch==" in requirements
    assert "+cpu" not in requirements
    assert "learn2learn" not in requirements
    assert not list(folder.rglob("*.pkl"))
    assert not list(folder.rglob("__pycache__"))


@pytest.mark.parametrize("name", ["", " ", "a/b", "a:b"])
def test_a_name_that_breaks_addresses_is_refused(register, model_directory: Path, name: str):
    with pytest.raises(InputError, match="can't be named"):
        register(model_directory, name=name)
