"""Every recipe of a published protocol runs whole on archives of the right format, however few classes these have.

Settings are changed only where that saves time: few epochs, episodes and candidates, narrow networks, 32 pixels where
ResNet-12 is trained, and for a search by pruning (test_searching.py) a sample of candidates, of which the best alone is
trained.
"""

import html
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from forked_commands import metantk
from made_layouts import MADE, Extent, labelled

from metantk_core import datasets, workflow
from metantk_core.config import load_config
from metantk_core.recipes import RECIPES

# 25 images a class are what 10 shots and 15 queries take; 26 characters, by the usual shares, 2 of them for val.
FEW = {"classes": {"train": 6, "val": 5, "test": 5}, "each": 25}
CHARACTERS = {"images_background": {"Greek": 13}, "images_evaluation": {"Tibetan": 13}}
LAYOUTS = {**MADE, "unnamed pickles": labelled("{}.pickle")}


@dataclass(frozen=True)
class Case:
    """A recipe, what its images lie as, and what is said in the end.

    Attributes:
        recipe: Its name.
        layout: Name of the layout; empty for glyphs.
        kind: What the images are recognised as.
        title: What people call them.
        train: Classes and images of the training split, as the sentence has them.
    """

    recipe: str
    layout: str = ""
    kind: str = "glyphs"
    title: str = ""
    train: str = ""

    def write(self, root: Path) -> list[str]:
        """Write the images and return the setting that names them."""
        if not self.layout:
            return []
        size = RECIPES[self.recipe].data.image_size
        root.mkdir()
        LAYOUTS[self.layout](root, Extent(**FEW, size=size, alphabets=CHARACTERS))
        return [f"data.path={root}"]


_PHOTOGRAPHS = "6 train classes of 150 images are here, of "
_MINI, _TIERED = ("miniimagenet", "miniImageNet"), ("tieredimagenet", "tieredImageNet")
_OF_MINI, _OF_TIERED = f"{_PHOTOGRAPHS}64 of 38,400", f"{_PHOTOGRAPHS}351 of 448,695"
_OF_FC100 = f"{_PHOTOGRAPHS}60 of 36,000"
_RFS = [
    Case("mini-rfs-5", "mini-rfs", *_MINI, _OF_MINI),
    Case("mini-rfs-8", "mini-cache", *_MINI, _OF_MINI),
    Case("tiered-rfs-5", "tiered-rfs", *_TIERED, _OF_TIERED),
    Case("tiered-rfs-8", "tiered-ren", *_TIERED, _OF_TIERED),
    Case("cifarfs-rfs", "unnamed pickles", "cifar-fs", "CIFAR-FS", _OF_MINI),
    Case("fc100-rfs", "unnamed pickles", "fc100", "FC100", _OF_FC100),
]
_MAML = [
    Case("mini-maml-conv4", "mini-rfs", *_MINI, _OF_MINI),
    Case("cifarfs-maml-conv4", "cifar-fs-metaopt", "cifar-fs", "CIFAR-FS", _OF_MINI),
    Case("fc100-maml-conv4", "fc100-metaopt", "fc100", "FC100", _OF_FC100),
    # 26 characters: 2 for val, 7 for test, and each four times by its rotations.
    Case(
        "omniglot-maml-conv4",
        "omniglot",
        "omniglot",
        "Omniglot",
        "68 train classes of 1,700 images are here, of 1,100 of 22,000 or 4,400 of 88,000",
    ),
]
_GLYPHS = [Case("glyphs-rfs"), Case("glyphs-protonet")]

_SEARCH = ["search.num_candidates=3", "search.shards=1", "scoring.num_inits=1", "scoring.image_size=16"]
_TRAINING = ["training.validation_episodes=2", "evaluation.episodes=2", "evaluation.episode.queries=5"]
_NETWORKS = ["scoring.network.channels=4", "training.network.channels=4"]
_LENGTH = {
    "rfs": ["training.epochs=2", "training.decay_epochs=[1]", "training.validate_every=1"],
    "maml": ["training.iterations=2", "training.validate_every=2", "training.meta_batch=2"],
    "protonet": ["training.iterations=2", "training.validate_every=2"],
}


def shorter(recipe: str) -> list[str]:
    """Return the settings that make a recipe a matter of a minute."""
    config = RECIPES[recipe]
    changes = [*_SEARCH, *_TRAINING, *_NETWORKS, *_LENGTH[config.training.algorithm]]
    if config.search.space == "darts_fewshot":
        changes += ["search.strategy=sample", "scoring.linear_regions.images=32", "trained_roles=[best]"]
    if "resnet12" in config.yardsticks:
        changes += ["data.image_size=32"]
    return changes


# By kind of data, algorithm and network; what is not here has no published number.
_BANDS = {
    ("miniimagenet", "rfs", "resnet12"): "62.02 %, 5-shot: 79.64 %",
    ("tieredimagenet", "rfs", "resnet12"): "69.74 %, 5-shot: 84.41 %",
    ("cifar-fs", "rfs", "resnet12"): "71.5 %, 5-shot: 86 %",
    ("fc100", "rfs", "resnet12"): "42.6 %, 5-shot: 59.1 %",
    ("miniimagenet", "maml", "conv4-32"): "46.5 to 50 %",
    ("cifar-fs", "maml", "conv4-32"): "56 to 59 %",
    ("fc100", "maml", "conv4-32"): "36 to 41 %",
    ("omniglot", "maml", "conv4-64"): "98 to 99 %",
}


@pytest.mark.minutes
@pytest.mark.parametrize("case", [*_RFS, *_MAML, *_GLYPHS], ids=lambda case: case.recipe)
def test_recipe_runs_whole_and_says_what_its_accuracies_are_worth(case, tmp_path):
    written = case.write(tmp_path / "images")
    changes = [*written, *shorter(case.recipe)]
    sets = [part for change in changes for part in ("--set", change)]
    done = metantk("run", case.recipe, *sets, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    short, config = (load_config(case.recipe, RECIPES, some) for some in (changes, written))
    (folder,) = (tmp_path / "runs" / "datasets").iterdir()
    dataset = datasets.load(folder)
    assert dataset.kind == case.kind
    workflow.episode_source(config, dataset, "test")  # there are images for the episodes of the recipe as it stands

    evaluations = found["evaluations"]
    assert tuple(evaluations) == short.trained
    assert set(found["costs"]) == set(short.trained)
    (report,) = (tmp_path / "runs").glob(f"{case.recipe}-*/report.html")
    page = html.unescape(report.read_text(encoding="utf-8"))
    for name in config.yardsticks:
        assert f'<span class="badge {name}">{name}</span>' in page
    for name, evaluation in evaluations.items():
        told = evaluation["published"]
        assert told in page
        band = _BANDS.get((case.kind, config.training.algorithm, name))
        if band is None:
            assert told == "No published number is known here for this network and way of training."
        else:
            learner = config.training.algorithm.upper()
            assert told.startswith(f"Published for {name} by {learner} on {case.title}, 5-way 1-shot: {band} (")
            assert f"; not comparable: {case.train}" in told
