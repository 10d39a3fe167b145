"""Folders of image files are told apart by a few examples of each class; what can't be used is a sentence."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.candidates import space_named
from metantk_core.command_line import app
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.files import Folder
from metantk_core.meta_training import (
    FewShotClassifier,
    MamlTraining,
    Picture,
    ProtoNetTraining,
    classify,
    save_model,
    untrained_model,
)
from metantk_core.networks import NetworkConfig
from metantk_core.workflow import classify_folders, registered_address

KINDS = {"black": 0, "grey": 128, "white": 255}


def model_of(training):
    rng = np.random.default_rng(0)
    images = LabelledImages(
        rng.integers(0, 256, (12, 1, 12, 12), dtype=np.uint8), np.arange(12) % 3, tuple("abc"), "train", "noise"
    )
    source = EpisodeSource(images, EpisodeConfig(ways=3, shots=1, queries=1), (0.5,), (0.25,))
    return untrained_model(space_named("nasbench201").sample(np.random.default_rng(3)), source, training, 0)


@pytest.fixture(scope="module")
def meta_learned():
    episode = EpisodeConfig(ways=3, shots=2, queries=1)
    return model_of(MamlTraining(episode=episode, network=NetworkConfig(channels=4, cells=1), inner_steps=2))


@pytest.fixture(scope="module")
def metric():
    return model_of(ProtoNetTraining(network=NetworkConfig(channels=4, cells=1)))


def picture(value, *, mode="L", size=(20, 30), form="PNG"):
    rng = np.random.default_rng(value)
    pixels = np.clip(value + rng.integers(-20, 20, (size[1], size[0])), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format=form)
    return file.getvalue()


@pytest.fixture
def folders(tmp_path):
    for kind, value in KINDS.items():
        for place in ("shots", "photos"):
            (tmp_path / place / kind).mkdir(parents=True)
        (tmp_path / "shots" / kind / "one.png").write_bytes(picture(value))
        (tmp_path / "shots" / kind / "two.JPG").write_bytes(picture(value + 1, mode="RGB", form="JPEG"))
        (tmp_path / "photos" / kind / "three.png").write_bytes(picture(value + 2, mode="P", size=(50, 9)))
    (tmp_path / "shots" / "black" / "notes.txt").write_text("no image")
    (tmp_path / "shots" / ".hidden").mkdir()
    return tmp_path


def test_images_in_folders_of_known_names_are_counted_as_right_or_wrong(folders, meta_learned):
    found = classify_folders(FewShotClassifier(meta_learned), Folder(folders / "shots"), Folder(folders / "photos"))
    assert found.labels == ("black", "grey", "white")
    assert found.support == (2, 2, 2)
    assert found.truth == ("black", "grey", "white")
    assert [answer.name for answer in found.answers] == ["black/three.png", "grey/three.png", "white/three.png"]
    assert found.truth is not None
    right = sum(answer.label == truth for answer, truth in zip(found.answers, found.truth, strict=True))
    assert found.right == right
    for answer in found.answers:
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.probability == max(answer.probabilities.values()) == answer.probabilities[answer.label]


def test_loose_images_have_no_truth(folders, meta_learned):
    found = classify_folders(
        FewShotClassifier(meta_learned), Folder(folders / "shots"), Folder(folders / "photos" / "grey")
    )
    assert (found.truth, found.right) == (None, None)
    assert [answer.name for answer in found.answers] == ["three.png"]


def test_the_order_and_the_size_of_support_images_do_not_matter_but_what_they_show(meta_learned):
    shown = [Picture(f"{kind} {n}", picture(value + n), kind) for kind, value in KINDS.items() for n in range(2)]
    asked = [Picture("asked", picture(120))]
    classifier = FewShotClassifier(meta_learned)
    first = classify(classifier, [*shown, *asked])[0].probabilities
    assert classify(classifier, [*asked, *reversed(shown)])[0].probabilities == first
    others = [Picture(one.name, picture(7 * n), one.label) for n, one in enumerate(shown)]
    assert classify(classifier, [*others, *asked])[0].probabilities != first


def test_features_tell_any_number_of_classes_apart_and_a_head_as_many_as_it_has(meta_learned, metric):
    two = [Picture(kind, picture(KINDS[kind]), kind) for kind in ("black", "white")]
    asked = Picture("asked", picture(250))
    (answer,) = classify(FewShotClassifier(metric), [*two, asked])
    assert list(answer.probabilities) == ["black", "white"]
    with pytest.raises(InputError, match=r"exactly 3 classes, which this model was trained for, but got 2 \('black'"):
        classify(FewShotClassifier(meta_learned), [*two, asked])
    with pytest.raises(InputError, match=r"at least 2 classes, but got 1 \('black'\)"):
        classify(FewShotClassifier(metric), [two[0], asked])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda place: (place / "photos" / "grey" / "three.png").write_bytes(b"x"), "'grey/three.png' can't be read"),
        (lambda place: (place / "shots" / "more").mkdir(), "Expected images in"),
        (lambda place: (place / "shots").rename(place / "gone"), "There is no folder"),
        (lambda place: [(place / "photos").rename(place / "gone"), (place / "photos").mkdir()], "images to classify"),
        (lambda place: [(place / "shots").rename(place / "gone"), (place / "shots").mkdir()], "a folder of images for"),
    ],
)
def test_folders_that_cannot_be_used_are_a_sentence(folders, meta_learned, change, words):
    change(folders)
    with pytest.raises(InputError, match=words):
        classify_folders(FewShotClassifier(meta_learned), Folder(folders / "shots"), Folder(folders / "photos"))


def test_the_command_prints_a_table_and_json_of_the_same(folders, meta_learned):
    save_model(meta_learned, folders / "model")
    arguments = ["classify", "--support", "shots", "--query", "photos", "--model", "model"]
    arguments = [str(folders / word) if word in ("shots", "photos", "model") else word for word in arguments]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert found["classes"] == {"black": 2, "grey": 2, "white": 2}
    assert f"{found['right']} of 3 are right" in said.stdout
    for answer in found["answers"]:
        assert f"{100 * answer['probability']:.1f} %" in said.stdout
    assert found["model"] == meta_learned.digest


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "a", "--run", "b"], "--model or --run"),
        (["--model", "nowhere"], "Expected a model"),
        (["--run", "smoke-00000000"], "Expected"),
        (["--model", "nowhere", "--support", "nobody"], "There is no folder 'nobody'"),
        (["--model", "models:/nobody@champion"], "Expected runs in the workspace runs"),
    ],
)
def test_models_that_are_not_there_are_a_sentence(folders, options, words, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folders)
    said = CliRunner().invoke(app, ["classify", "--support", "shots", "--query", "photos", *options])
    assert isinstance(said.exception, InputError)
    assert words in str(said.exception)
    assert not (folders / "runs").exists()  # looking makes nothing


def test_a_run_is_given_by_its_name_and_not_by_a_path(tmp_path):
    with pytest.raises(InputError, match="Expected the name of a run"):
        registered_address(FilesystemStore(tmp_path), "../runs/smoke-00000000")


def test_the_largest_file_and_the_number_of_images_are_bounded(metric, monkeypatch):
    from metantk_core.meta_training import image_requests

    monkeypatch.setattr(image_requests, "LARGEST_FILE", 100)
    shown = [Picture(kind, picture(value), kind) for kind, value in KINDS.items()]
    with pytest.raises(InputError, match="expected at most"):
        classify(FewShotClassifier(metric), [*shown, Picture("asked", picture(3))])
    monkeypatch.setattr(image_requests, "MOST_IMAGES", 3)
    with pytest.raises(InputError, match="at most 3 images at once, but got 4"):
        classify(FewShotClassifier(metric), [*shown, Picture("asked", picture(3))])
