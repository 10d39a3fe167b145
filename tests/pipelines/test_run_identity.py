"""What makes two runs the same run: settings and the content of the images; and that only one process works on it."""

import os
from pathlib import Path

import numpy as np
import pytest
from forked_commands import metantk
from mlflow import MlflowClient
from PIL import Image

from metantk_core import wiring, workflow
from metantk_core.adapters import locks
from metantk_core.config import RunConfig, load_config
from metantk_core.errors import InputError
from metantk_core.recipes import RECIPES
from metantk_core.scores import scorer
from metantk_core.workflow.runs import remarks
from metantk_core.workspace import Workspace, open_run, own_run


def images(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for split in ("train", "val", "test"):
        for number in range(5):
            place = folder / split / f"{split}-{number}"
            place.mkdir(parents=True, exist_ok=True)
            for image in range(6):
                Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(place / f"{image}.png")


def of_folder(folder: Path) -> RunConfig:
    return load_config("smoke", RECIPES, ["data.source=folder", f"data.path={folder}"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("identity") / "runs")


def test_other_images_at_the_same_path_are_another_run(place: Workspace, tmp_path: Path):
    folder = tmp_path / "images"
    images(folder, 0)
    asked = of_folder(folder)
    first = place.prepare(asked)
    for path in folder.rglob("*.png"):
        os.utime(path)  # a copy of the same images is the same run
    assert place.prepare(asked) == first
    images(folder, 1)
    second = place.prepare(asked)
    assert second.run_id != first.run_id
    tracker = wiring.tracker(place.tracking_uri)
    client = MlflowClient(tracking_uri=place.tracking_uri)
    shown = []
    for config in (second, second):
        with open_run(config, place) as (dataset, ports):
            assert dataset.digest == second.dataset_digest
            shown.append(ports.run)
    assert shown[0] == shown[1] == tracker.find_run(second.run_id)
    assert tracker.find_run(first.run_id) is None
    inputs = client.get_run(shown[0]).inputs
    assert inputs is not None
    assert {entry.dataset.digest for entry in inputs.dataset_inputs} == {second.dataset_digest}
    # What was recognised, whatever data.source says.
    tags = client.get_run(shown[0]).data.tags
    assert (tags["metantk.dataset"], tags["metantk.dataset.layout"]) == ("folder", "folders of images")
    # Images that were pinned, or that changed while a run was on its way, are not mixed with others.
    pinned = open_run(first, place)
    with pytest.raises(InputError, match=f"Expected the images with the digest {first.dataset_digest}, but"), pinned:
        pass


def test_what_was_assumed_of_images_and_what_splits_share_is_told_with_the_run(place: Workspace, tmp_path: Path):
    folder = tmp_path / "images"
    images(folder, 4)
    (folder / "test" / "test-0" / "0.png").write_bytes((folder / "train" / "train-3" / "1.png").read_bytes())
    with pytest.raises(InputError, match=r"1 image of split 'test' .* also in 'train'"):
        place.prepare(of_folder(folder))
    settings = ["data.allow_shared_images=true", "data.name=fc100"]
    config = place.prepare(load_config("smoke", RECIPES, [f"data.path={folder}", *settings]))
    with open_run(config, place) as (dataset, ports):
        tags = MlflowClient(tracking_uri=place.tracking_uri).get_run(ports.run).data.tags
        (remark,) = remarks(ports.store, config.run_id)
    assert (dataset.kind, tags["metantk.dataset"]) == ("fc100", "fc100")
    assert remark == f"images: {tags['metantk.dataset.assumptions']}"
    assert "By data.name it is FC100 (60, 20 and 20 classes); there are 5, 5 and 5 classes." in remark
    assert "1 image of split 'test' (3.33%) also in 'train', pixel for pixel" in remark


def test_the_step_that_prepares_images_opens_the_run_of_these_images(place: Workspace, tmp_path: Path):
    from components.prepare_dataset import prepare_dataset

    class Output:
        def __init__(self, path: Path) -> None:
            self.path, self.metadata = str(path), {}

    def runs_of(seed: int) -> str:
        images(tmp_path / "images", seed)
        dataset, run = Output(tmp_path / f"dataset {seed}"), Output(tmp_path / f"run {seed}")
        asked = of_folder(tmp_path / "images").to_json()
        page = Output(tmp_path / f"page {seed}")
        prepare_dataset.python_func(asked, "", place.tracking_uri, "", "", dataset=dataset, run=run, page=page)
        assert Path(run.path).read_text()
        assert "metantk ui" in Path(page.path).read_text()  # there is no server that could show it
        return RunConfig.from_json(Path(run.path).read_text()).run_id

    assert runs_of(2) != runs_of(3)


def test_embedded_images_leave_the_identity_as_it_was(place: Workspace):
    assert place.prepare(RECIPES["smoke"]) == RECIPES["smoke"]
    assert RECIPES["smoke"].run_id == load_config("smoke", RECIPES, ["dataset_digest=null"]).run_id


def test_one_process_at_a_time_works_on_a_run_and_its_folders_stay(place: Workspace):
    config = RECIPES["smoke"]
    kept = place.folder(config) / "kfp" / "of the first one"
    kept.mkdir(parents=True)
    with own_run(config, place):
        second = metantk("run", "smoke", "--workspace", str(place.root), cwd=place.root)
        # Another configuration in the same workspace is nobody's business.
        with locks.exclusive(place.folder(load_config("smoke", RECIPES, ["seed=1"])) / ".lock", "another run"):
            pass
    assert second.returncode == 2
    assert f"The run {config.run_id} in {place.root} is already running, process {os.getpid()}" in second.stderr
    assert second.stderr.count("\n") == 1
    assert kept.is_dir()
    with own_run(config, place):
        pass


def test_what_a_killed_process_left_running_is_closed_by_the_next(place: Workspace):
    config = RECIPES["smoke"]
    client = MlflowClient(tracking_uri=place.tracking_uri)
    tracker = wiring.tracker(place.tracking_uri)
    run = workflow.open_run(config, tracker)
    part = tracker.open_run(f"{run}/part", "part", parent=run)
    below = tracker.open_run(f"{part}/below", "below", parent=part)
    with own_run(config, place):
        assert [client.get_run(name).info.status for name in (run, part, below)] == ["KILLED"] * 3
        tracker.open_run(f"{run}/part", "part", parent=run)
        workflow.open_run(config, tracker)
        tracker.close_run(run, "finished")
    assert [client.get_run(name).info.status for name in (run, part, below)] == ["FINISHED", "KILLED", "KILLED"]


def test_a_scratch_folder_is_emptied_before_and_removed_after(place: Workspace):
    import tempfile

    scratch = place.folder(RECIPES["smoke"]) / ".scratch"
    scratch.mkdir(parents=True)
    (scratch / "of a killed process").touch()
    before = tempfile.gettempdir()
    with own_run(RECIPES["smoke"], place):
        assert not list(scratch.iterdir())
        assert Path(tempfile.gettempdir()) == scratch
    assert tempfile.gettempdir() == before
    assert not scratch.exists()


def test_what_one_workspace_has_scored_another_one_takes_from_a_shared_store(tmp_path, monkeypatch):
    shared = str(tmp_path / "shared")
    boards = []
    for name in ("first", "second"):
        there = Workspace(tmp_path / name, shared=shared)
        config = there.prepare(load_config("smoke", RECIPES, ["data.images_per_class=6", "search.num_candidates=4"]))
        with open_run(config, there) as (dataset, ports):
            boards.append(workflow.search(config, dataset, ports).leaderboard)
        assert not (tmp_path / name / "scores").exists()
        monkeypatch.setattr(scorer, "score_draw", lambda *_, **__: pytest.fail("scored again"))
    assert boards[0] == boards[1]


@pytest.mark.parametrize("store", ["gopher://host/x", "https://me:hunter2@host/x", "/dev/null/x"])
def test_a_store_that_is_none_is_refused_before_anything_is_written(store, tmp_path):
    place = Workspace(tmp_path / "runs", shared=store)
    with pytest.raises(InputError) as caught:
        place.prepare(RECIPES["smoke"])
    assert "hunter2" not in str(caught.value)
    assert "store" in str(caught.value)
    assert not list(tmp_path.rglob("*/*"))
