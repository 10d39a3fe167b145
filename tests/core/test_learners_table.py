"""The table of learners: raw pixels are answered as by scikit-learn, finished rows stay, intervals are of seeds."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats
from sklearn.neighbors import NearestCentroid

from benchmarks.learners import LEARNERS, Row, Setting, Table, pixel_accuracies, table
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource

PLAIN = ("raw pixels", "conv4-32")
CONFIG = EpisodeConfig(ways=5, shots=3, queries=4)


def noisy_classes() -> LabelledImages:
    rng = np.random.default_rng(0)
    centres = rng.integers(60, 190, (8, 1, 3, 4, 4)).repeat(7, axis=1)
    images = np.clip(centres + rng.normal(0, 90, centres.shape), 0, 255).astype(np.uint8).reshape(-1, 3, 4, 4)
    return LabelledImages(images, np.repeat(np.arange(8), 7), tuple("abcdefgh"), "test", "noisy")


def test_raw_pixels_are_answered_by_the_nearest_class_mean_on_the_episodes_of_evaluation():
    images = noisy_classes()
    source = EpisodeSource(images, CONFIG, (0.5,) * 3, (0.2,) * 3)
    theirs = []
    for index in range(12):
        drawn = source.episode(3, "evaluate", "test", index)
        support, queries = (part.numpy().reshape(len(part), -1) for part in (drawn.support_pixels, drawn.query_pixels))
        answers = NearestCentroid().fit(support.astype(float), drawn.support_labels.numpy()).predict(queries)
        theirs.append(float((answers == drawn.query_labels.numpy()).mean()))
    assert pixel_accuracies(images, CONFIG, 12, 3) == theirs
    assert 0.3 < np.mean(theirs) < 1


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_whole_table_trains_as_long_as_the_recipes_and_a_share_of_it_shorter(learner):
    whole, part = (Setting(share=share).config(learner).training for share in (1.0, 0.1))
    length = "epochs" if learner == "RFS" else "iterations"
    assert (getattr(whole, length), getattr(part, length)) == {
        "RFS": (6, 1),
        "MAML": (120, 12),
        "ProtoNet": (300, 30),
    }[learner]


def test_finished_rows_are_not_computed_again_and_one_that_was_cut_off_is_left_out(tmp_path):
    setting = Setting()
    made = Table(tmp_path, setting)
    rows = [
        Row(made.digest, learner, network, "", 0, number / 20, 0.01, None, 1.0, 1.0, 10, 1000)
        for number, (learner, network) in enumerate(made.asked)
    ]
    other = Row("another setting", "", "raw pixels", "", 0, 0.9, 0.01, None, 0, 0, 0, 0)
    lines = [json.dumps(asdict(row)) for row in (other, *rows)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + '\n{"setting": "' + made.digest[:4], encoding="utf-8")
    assert list(Table(tmp_path, setting).rows(1)) == rows
    assert list(Table(tmp_path, setting, ["conv4-32"]).rows(1)) == [row for row in rows if row.network in PLAIN]


def test_a_row_after_one_that_was_cut_off_is_found_again(tmp_path):
    setting = Setting(image_size=16, images=8, candidates=3, draws=1, episodes=5)
    (tmp_path / "rows.jsonl").write_text('{"setting": "', encoding="utf-8")
    computed = next(Table(tmp_path, setting).rows(1))
    (line,) = (json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines() if line.endswith("}"))
    assert Row(**line) == computed
    assert next(Table(tmp_path, setting).rows(1)) == computed


def test_intervals_are_of_the_means_of_seeds_and_differences_of_pairs_of_a_seed():
    ours, theirs = [0.5, 0.54, 0.61], [0.45, 0.52, 0.53]
    rows = [
        Row("", "MAML", network, "", seed, accuracy, 0.01, None, 10.0, 1.0, 1234, 5_600_000)
        for network, accuracies in (("best", ours), ("conv4-32", theirs))
        for seed, accuracy in enumerate(accuracies)
    ]
    differences = 100 * (np.array(ours) - theirs)
    half = [stats.t.ppf(0.975, 2) * stats.sem(values) for values in (100 * np.array(theirs), differences)]
    cells = table(rows).splitlines()[3].split(" | ")
    assert cells[2] == f"50.0 ± {half[0]:.1f} %"
    assert cells[4] == f"{differences.mean():+.1f} ± {half[1]:.1f}"
    assert cells[5:] == ["3", "10", "1", "1,234", "5.6 M |"]
