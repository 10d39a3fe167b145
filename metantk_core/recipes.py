"""Named complete runs: nothing enters, configurations that work as they are leave."""

import json
from collections.abc import Mapping
from types import MappingProxyType

from metantk_core.config import RunConfig
from metantk_core.meta_training import RfsTraining


def _recipe(name: str, **values: object) -> RunConfig:
    return RunConfig.from_values({"name": name, **values}, f"recipe {name!r}")


_FEW_SHOT = {"ways": 5, "shots": 1, "queries": 15}

# Few large steps: first-order MAML that learns within minutes on a laptop. Accuracy still rises when it ends.
_SHORT_TRAINING = {
    "algorithm": "maml",
    "first_order": True,
    "episode": {"ways": 5, "shots": 1, "queries": 5},
    "inner_steps": 2,
    "inner_learning_rate": 0.4,
    "outer_learning_rate": 0.01,
    "meta_batch": 4,
    "iterations": 120,
    "validate_every": 20,
    "validation_episodes": 40,
}

# 4-CONV learns little by these steps; with second derivatives, and batches normalised as MAML has it, it does.
_SHORT_CONV4 = {
    "conv4-32": {
        "first_order": False,
        "norm": "batch_transductive",
        "inner_steps": 3,
    }
}

# The published search [Wang et al. 2022]: C = 48, 3 episodes of 5-way 1-shot with one query image a class, 32 x 32, and
# its two criteria, ranked with equal weight.
_PUBLISHED_SCORING = {
    "scores": ["metantk_cond", "linear_regions", "params", "flops"],
    "num_inits": 3,
    "tasks": 3,
    "episode": {"ways": 5, "shots": 1, "queries": 1},
    "image_size": 32,
}

# What the published code does where it differs from the paper; see docs/search.md.
_REFERENCE_SCORING = {
    "initialisation": "torch_default",
    "redraw": "head",
    "augmentation": "flip_crop",
    "normalisation": "cifar10",
}
_REFERENCE_PRUNING = {"draws": "own", "change": "relative", "ranks": "dense", "edges": "one node at a time"}

#: Dataset and number of cells → folder of the images, and the inner loop of the MetaNTK in the paper's scripts.
_PUBLISHED: Mapping[str, tuple[str, int, dict[str, object]]] = MappingProxyType(
    {
        "mini-5": ("data/mini-imagenet", 5, {"algorithm": "maml", "ridge": 1e-3}),
        "mini-8": ("data/mini-imagenet", 8, {"algorithm": "anil", "time": 1.0, "ridge": 1e-5}),
        "tiered-5": ("data/tiered-imagenet", 5, {"algorithm": "maml", "ridge": 1e-3}),
        "tiered-8": ("data/tiered-imagenet", 8, {"algorithm": "anil", "ridge": 1e-3}),
    }
)


# Supervised training as RFS has it [Tian et al. 2020], with the drop-path of the MetaNTK-NAS scripts.
_RFS_MINI = {
    "algorithm": "rfs",
    "epochs": 100,
    "decay_epochs": [60, 80],
    "learning_rate": 0.02,
    "drop_path": 0.2,
    "validation_episodes": 200,
}
_RFS_TIERED = {**_RFS_MINI, "epochs": 60, "decay_epochs": [30, 40, 50], "learning_rate": 0.01, "drop_path": 0.1}

# MAML's own settings for 4-CONV [Finn et al. 2017].
_MAML_CONV4 = {
    "algorithm": "maml",
    "first_order": False,
    "norm": "batch_transductive",
    "episode": _FEW_SHOT,
    "inner_steps": 5,
    "inner_learning_rate": 0.01,
    "outer_learning_rate": 1e-3,
    "meta_batch": 4,
    "iterations": 60_000,
    "validate_every": 1_000,
    "validation_episodes": 200,
}
_MAML_OMNIGLOT = {**_MAML_CONV4, "inner_steps": 1, "inner_learning_rate": 0.4, "meta_batch": 32}


_CIFAR_FS = {"path": "data/cifar-fs", "image_size": 32, "name": "cifar-fs"}
_FC100 = {"path": "data/fc100", "image_size": 32, "name": "fc100"}


def _published_search(setting: str, *, reference: bool = False) -> dict[str, dict[str, object]]:
    """Return the sections of the paper's search, or of the published code's."""
    _, cells, loop = _PUBLISHED[setting]
    network = {"channels": 48, "cells": cells}
    return {
        "search": {
            "space": "darts_fewshot",
            "strategy": "prune",
            "num_candidates": 20,
            "shards": 8,
            "prune": _REFERENCE_PRUNING if reference else {},
        },
        "scoring": {**_PUBLISHED_SCORING, **loop, "network": network, **(_REFERENCE_SCORING if reference else {})},
        "rank_by": {"metantk_cond": 1, "linear_regions": 1},
    }


def _published(kind: str, setting: str) -> RunConfig:
    folder, cells, _ = _PUBLISHED[setting]
    return _recipe(
        f"{kind}-{setting}",
        data={"path": folder, "image_size": 84, "channels": 3},
        **_published_search(setting, reference=kind == "reference"),
        yardsticks=["conv4-64"],
        # As MAML has it for 4-CONV [Finn et al. 2017].
        yardstick_training={"conv4-64": {name: _MAML_CONV4[name] for name in ("first_order", "norm")}},
        training={
            "algorithm": "maml",
            "first_order": True,
            "network": {"channels": 48, "cells": cells},
            "episode": {"ways": 5, "shots": 1, "queries": 15},
            "inner_steps": 5,
            "inner_learning_rate": 0.01,
            "outer_learning_rate": 1e-3,
            "meta_batch": 4,
            "iterations": 30_000,
            "validate_every": 1_000,
            "validation_episodes": 200,
        },
        evaluation={"episode": _FEW_SHOT, "episodes": 600},
    )


def _rfs(
    recipe: str, setting: str, schedule: Mapping[str, object], data: Mapping[str, object] | None = None
) -> RunConfig:
    """Return the paper's search and training, beside a cell that it published, 4-CONV and ResNet-12 trained alike."""
    folder, cells, _ = _PUBLISHED[setting]
    return _recipe(
        recipe,
        data={"path": folder, "image_size": 84, "channels": 3, **(data or {})},
        **_published_search(setting),
        yardsticks=[f"paper-{setting}-a", "conv4-64", "resnet12"],
        training={**schedule, "network": {"channels": 48, "cells": cells}},
        evaluation={"episode": _FEW_SHOT, "episodes": 600, "further_shots": [5, 10]},
    )


def _maml_conv4(recipe: str, training: Mapping[str, object], network: str, data: Mapping[str, object]) -> RunConfig:
    """Return the field's first yardstick; what is searched beside it is small, for comparison."""
    steps = {"inner_steps": 3 if training is _MAML_OMNIGLOT else 10}  # in evaluation, as published
    return _recipe(
        recipe,
        data={"channels": 3, **data},
        search={"space": "nasbench201", "strategy": "sample", "num_candidates": 32, "shards": 2},
        scoring={"num_inits": 8, "image_size": 32, "network": {"channels": 8, "cells": 1}},
        trained_roles=["best"],
        yardsticks=[network],
        training={**training, "network": {"channels": 16, "cells": 1}},
        evaluation={"episode": _FEW_SHOT, "episodes": 600, **steps},
    )


RECIPES: Mapping[str, RunConfig] = MappingProxyType(
    {
        # Minutes on two cores: the main job of `make run`.
        "glyphs": _recipe(
            "glyphs",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "nasbench201", "strategy": "sample", "num_candidates": 32, "shards": 2},
            scoring={"num_inits": 8, "image_size": 32, "network": {"channels": 8, "cells": 1}},
            yardsticks=["conv4-32"],
            yardstick_training=_SHORT_CONV4,
            training={"network": {"channels": 8, "cells": 1}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
        ),
        # The same on the search space of the paper.
        "glyphs-darts": _recipe(
            "glyphs-darts",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "darts_fewshot", "strategy": "sample", "num_candidates": 24, "shards": 2},
            # 5 draws: what a reliability of 0.8 takes on this space and width (docs/reliability.md).
            scoring={"num_inits": 5, "image_size": 32, "network": {"channels": 8, "cells": 3}},
            yardsticks=["conv4-32"],
            yardstick_training=_SHORT_CONV4,
            training={"network": {"channels": 8, "cells": 3}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
        ),
        # The paper's search, small enough for a laptop: too small for its choices to mean much, and it says so.
        "glyphs-prune": _recipe(
            "glyphs-prune",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "darts_fewshot", "strategy": "prune", "num_candidates": 12, "shards": 1},
            scoring={**_PUBLISHED_SCORING, "image_size": 16, "network": {"channels": 8, "cells": 3}},
            rank_by={"metantk_cond": 1, "linear_regions": 1},
            training={"network": {"channels": 8, "cells": 3}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
        ),
        # The candidates of glyphs, four times as many: only those that may be the best get all draws.
        "glyphs-race": _recipe(
            "glyphs-race",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "nasbench201", "strategy": "race", "num_candidates": 128, "shards": 1},
            scoring={"num_inits": 20, "image_size": 32, "network": {"channels": 8, "cells": 1}},
            training={"network": {"channels": 8, "cells": 1}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
        ),
        # Good candidates of the paper's space changed again and again.
        "glyphs-evolve": _recipe(
            "glyphs-evolve",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "darts_fewshot", "strategy": "evolve", "num_candidates": 64, "shards": 1},
            scoring={"num_inits": 5, "image_size": 16, "network": {"channels": 8, "cells": 3}},
            training={"network": {"channels": 8, "cells": 3}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
        ),
        # The paper's training on letters: features by telling the base classes apart, then a linear classifier an
        # episode. Letters are not mirrored.
        "glyphs-rfs": _recipe(
            "glyphs-rfs",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "nasbench201", "strategy": "sample", "num_candidates": 16, "shards": 2},
            scoring={"num_inits": 8, "image_size": 32, "network": {"channels": 8, "cells": 1}},
            yardsticks=["conv4-32"],
            # Steps of 0.2, right for narrow cells, leave wider networks with features that are all the same.
            yardstick_training={name: {"learning_rate": 0.05} for name in ("conv4-32", "resnet12")},
            training={
                "algorithm": "rfs",
                "network": {"channels": 8, "cells": 1},
                "epochs": 6,
                "decay_epochs": [4, 5],
                "learning_rate": 0.2,
                "augmentation": {"flip": False},
                "validate_every": 1,
                "validation_episodes": 40,
            },
            evaluation={"episode": _FEW_SHOT, "episodes": 600, "further_shots": [5]},
        ),
        # Distances to class means, learned on episodes of more classes than those that are evaluated.
        "glyphs-protonet": _recipe(
            "glyphs-protonet",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "nasbench201", "strategy": "sample", "num_candidates": 16, "shards": 2},
            scoring={"num_inits": 8, "image_size": 32, "network": {"channels": 8, "cells": 1}},
            yardsticks=["conv4-32"],
            yardstick_training={"resnet12": {"learning_rate": 1e-3}},  # of Snell et al. 2017
            training={
                "algorithm": "protonet",
                "network": {"channels": 8, "cells": 1},
                "episode": {"ways": 20, "shots": 1, "queries": 5},
                "learning_rate": 0.01,
                "halve_every": 100,
                "iterations": 300,
                "validate_every": 50,
                "validation_episodes": 40,
            },
            evaluation={"episode": _FEW_SHOT, "episodes": 600, "further_shots": [5]},
        ),
        # Everything once, as small as it gets: proves an installation. Its numbers mean nothing.
        "smoke": _recipe(
            "smoke",
            data={"source": "glyphs", "image_size": 16},
            search={"space": "nasbench201", "strategy": "sample", "num_candidates": 6, "shards": 2},
            scoring={"num_inits": 2, "image_size": 16, "network": {"channels": 4, "cells": 1}},
            training={
                "network": {"channels": 4, "cells": 1},
                **_SHORT_TRAINING,
                "inner_steps": 1,
                "iterations": 8,
                "validate_every": 4,
                "validation_episodes": 5,
            },
            evaluation={"episode": {"ways": 5, "shots": 1, "queries": 5}, "episodes": 20},
        ),
        # The paper's searches, and the published code's; the images are yours: --set data.path=...
        **{f"{kind}-{setting}": _published(kind, setting) for kind in ("paper", "reference") for setting in _PUBLISHED},
        # The paper's searches and the paper's training.
        **{
            f"{data}-rfs-{cells}": _rfs(f"{data}-rfs-{cells}", f"{data}-{cells}", schedule)
            for data, schedule in (("mini", _RFS_MINI), ("tiered", _RFS_TIERED))
            for cells in (5, 8)
        },
        # For CIFAR-FS and FC100 the schedule is that of miniImageNet.
        "cifarfs-rfs": _rfs("cifarfs-rfs", "mini-5", _RFS_MINI, _CIFAR_FS),
        "fc100-rfs": _rfs("fc100-rfs", "mini-5", _RFS_MINI, _FC100),
        # Yardsticks of the field: `metantk train mini-maml-conv4 --genotype conv4-32` trains nothing else.
        "mini-maml-conv4": _maml_conv4(
            "mini-maml-conv4", _MAML_CONV4, "conv4-32", {"path": "data/mini-imagenet", "image_size": 84}
        ),
        "cifarfs-maml-conv4": _maml_conv4("cifarfs-maml-conv4", _MAML_CONV4, "conv4-32", _CIFAR_FS),
        "fc100-maml-conv4": _maml_conv4("fc100-maml-conv4", _MAML_CONV4, "conv4-32", _FC100),
        "omniglot-maml-conv4": _maml_conv4(
            "omniglot-maml-conv4",
            _MAML_OMNIGLOT,
            "conv4-64",
            {"path": "data/omniglot", "image_size": 28, "channels": 1},
        ),
    }
)

#: What a quick benchmark has at most.
_QUICK: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "search": {"num_candidates": 12},
        "scoring": {"num_inits": 4},
        "training": {"iterations": 40, "validate_every": 20, "validation_episodes": 20},
        "evaluation": {"episodes": 100},
    }
)


_QUICK_EPOCHS = 3


def quickened(config: RunConfig) -> RunConfig:
    """Return a configuration that takes minutes where the given one takes longer: another experiment, of another name.

    Raises:
        InputError: It can't be made smaller.
    """
    values = json.loads(config.to_json())
    for part, limits in _QUICK.items():
        for name, most in limits.items():
            if name in values[part]:
                values[part][name] = min(values[part][name], most)
    if isinstance(config.training, RfsTraining):
        values["training"]["epochs"] = min(config.training.epochs, _QUICK_EPOCHS)
        values["training"]["decay_epochs"] = [e for e in config.training.decay_epochs if e < _QUICK_EPOCHS]
    for changes in values["yardstick_training"].values():
        for name in values["training"].keys() & {*_QUICK["training"], "epochs", "decay_epochs"}:
            changes.pop(name, None)
    if config.search.strategy == "evolve":
        values["search"]["evolve"]["population"] = min(config.search.evolve.population, 6)
    return RunConfig.from_values({**values, "name": f"{config.name[:44]}-quick"}, f"the quick form of {config.name}")
