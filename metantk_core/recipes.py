"""Named complete runs: nothing enters, configurations that work as they are leave."""

from collections.abc import Mapping
from types import MappingProxyType

from metantk_core.config import RunConfig


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

RECIPES: Mapping[str, RunConfig] = MappingProxyType(
    {
        # Minutes on two cores: the main job of `make run`.
        "glyphs": _recipe(
            "glyphs",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "nasbench201", "strategy": "sample", "num_candidates": 32, "shards": 2},
            scoring={"num_inits": 8, "image_size": 32, "network": {"channels": 8, "cells": 1}},
            training={"network": {"channels": 8, "cells": 1}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
        ),
        # The same on the search space of the paper.
        "glyphs-darts": _recipe(
            "glyphs-darts",
            data={"source": "glyphs", "image_size": 32},
            search={"space": "darts_fewshot", "strategy": "sample", "num_candidates": 24, "shards": 2},
            scoring={"num_inits": 4, "image_size": 32, "network": {"channels": 8, "cells": 3}},
            training={"network": {"channels": 8, "cells": 3}, **_SHORT_TRAINING},
            evaluation={"episode": _FEW_SHOT, "episodes": 600},
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
    }
)
