"""What a number depends on, and nothing else: a run, its images and a candidate enter, keys of kept work leave.

Whatever else changes (a name, shards, addresses, the folder of the images), work under an equal key is not repeated.
"""

from collections.abc import Mapping

import torch

from metantk_core import __version__
from metantk_core.architectures import Architecture, identity_of
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset
from metantk_core.meta_training import TrainedModel
from metantk_core.networks import REVISIONS
from metantk_core.scores import SCORES, inner_loop
from metantk_core.seeding import digest


def score_key(name: str, config: RunConfig, dataset: ImageDataset, device: str) -> str:
    """Return the digest of everything that a score depends on beside the candidate: nothing else, and nothing less.

    That is the settings that reach this score and no other ones, the images (or what else of them it sees), the seed,
    the revisions of its definition and of the space's operations, torch's release and the kind of device.

    Args:
        name: Name of the score.
        config: The run.
        dataset: The images.
        device: Kind of the device.
    """
    definition = SCORES[name]
    values = config.scoring.model_dump(mode="json")
    settings: dict[str, object] = {field: _setting(values, field) for field in definition.reads}
    if definition.inner_loop is not None:
        settings["inner loop"] = [str(part) for part in inner_loop(name, config.scoring)]
    if definition.cost == "none":
        settings["training network"] = config.training.network.model_dump(mode="json")
    shape = dataset.train.image_shape
    seen = {"images": dataset.digest, "shape": shape, "channels": shape[0]}[definition.sees]
    space = config.search.space
    return digest(
        [name, definition.revision, space, REVISIONS[space], settings, seen, config.seed, _torch_release(), device]
    )


def training_key(
    config: RunConfig, architecture: Architecture, dataset: ImageDataset, device: str, seed: int | None = None
) -> str:
    """Return the digest of everything that the weights of a meta-trained network depend on.

    Args:
        config: The run.
        architecture: The network.
        dataset: The images.
        device: Kind of the device.
        seed: Seed of the training, the run's if not given; validation episodes are the run's.
    """
    training = config.training.model_dump(mode="json")
    seeds = [config.seed] if seed in (None, config.seed) else [config.seed, seed]
    return digest([training, *identity_of(architecture), dataset.digest, *seeds, __version__, _torch_release(), device])


def evaluation_key(config: RunConfig, model: TrainedModel, dataset: ImageDataset, device: str) -> str:
    """Return the digest of everything that an accuracy depends on: the network with its weights, and the protocol.

    Args:
        config: The run.
        model: The meta-trained network.
        dataset: The images.
        device: Kind of the device.
    """
    evaluated = config.evaluation.model_dump(mode="json")
    return digest([model.digest, evaluated, dataset.digest, config.seed, device])


def _torch_release() -> str:
    """Return torch's release; its build (2.13.0+cpu, 2.13.0+cu130) says nothing that the kind of device doesn't."""
    return torch.__version__.partition("+")[0]


def _setting(values: object, path: str) -> object:
    """Return the setting at a path of names with dots between them."""
    for part in path.split("."):
        assert isinstance(values, Mapping)
        values = values[part]
    return values
