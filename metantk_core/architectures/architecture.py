"""What can be scored and trained, as one type: a genotype, a named network or a person's module; and its two texts.

What differs between the kinds of architecture when a network is made stands here, a function each.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from metantk_core.architectures.own_modules import OwnModule, own_code
from metantk_core.candidates import (
    MODEL_SPACE,
    NAMED_NETWORKS,
    NAMED_SPACE,
    Genotype,
    NamedNetwork,
    parse_genotype,
)
from metantk_core.errors import InputError, quoted
from metantk_core.networks import (
    REVISIONS,
    FewShotNetwork,
    NetworkConfig,
    Normalisation,
    Variant,
    build,
    build_named,
    restricted,
)
from metantk_core.seeding import derive, digest

Architecture = Genotype | NamedNetwork | OwnModule
"""What can be scored and trained; records show its ``space`` and ``str()``.

A published cell is a genotype, by its name. A named network and a person's module have a width and a depth of their
own, and a person's module has the weights of its own factory.
"""


def parse_architecture(space: str, text: str) -> Architecture:
    """Return the architecture that a text describes; :func:`format_architecture` gives such texts.

    No code of a person runs here: their module is imported when its first network is built.

    Args:
        space: Name of a search space; ``"named"`` for a named network, ``"model"`` for a person's module.
        text: A text form of the space, or the name of a published candidate of it; the name of a named network, also
            where a search space is given; the address of a person's module, with its batch normalisation.

    Raises:
        InputError: There is no such space, or the text is none of it.
    """
    if space == MODEL_SPACE:
        return OwnModule.parse(text)
    name = text.strip()
    if name in NAMED_NETWORKS:
        return NamedNetwork(name)
    if space == NAMED_SPACE:
        raise InputError(f"Expected one of the named networks {', '.join(NAMED_NETWORKS)}, got {quoted(text)}.")
    return parse_genotype(space, text)


def format_architecture(architecture: Architecture) -> str:
    """Return the text that :func:`parse_architecture` reads back to an equal architecture, given its ``space``."""
    return architecture.text if isinstance(architecture, OwnModule) else str(architecture)


def identity_of(architecture: Architecture) -> tuple[str, int | str]:
    """Return what the numbers of an architecture's networks depend on, of all that settings don't say.

    Of a person's module that is its text and the file that its address leads to; a change in another file that this one
    imports is not noticed.

    Raises:
        InputError: A person's module can't be imported.
    """
    if isinstance(architecture, OwnModule):
        return digest([MODEL_SPACE, architecture.text]), architecture.file_digest()
    return architecture.key, REVISIONS[architecture.space]


def build_network(
    architecture: Architecture,
    config: NetworkConfig,
    *,
    image_shape: tuple[int, int, int],
    ways: int,
    variant: Variant,
    norm: Normalisation = "batch_support",
    device: str = "cpu",
) -> nn.Module:
    """Return a new network; its weights are to be had by :func:`seeded` and :func:`initialise`.

    Args:
        architecture: What is built.
        config: Width and depth of a genotype's network; others have their own.
        image_shape: Channels, height and width of the images.
        ways: Number of classes of an episode.
        variant: What the network is for; a person's module has one.
        norm: Normalisation of the training variant of ours.
        device: Where it will run, as torch spells it.

    Raises:
        InputError: A person's factory fails, or returns something else than a complete module; or the images are too
            small for a named network.
    """
    if isinstance(architecture, OwnModule):
        return architecture.network(image_shape[0], ways, device)
    return _ours(architecture, config, image_shape=image_shape, ways=ways, variant=variant, norm=norm).to(device)


def _ours(
    architecture: Genotype | NamedNetwork,
    config: NetworkConfig,
    *,
    image_shape: tuple[int, int, int],
    ways: int,
    variant: Variant,
    norm: Normalisation,
) -> FewShotNetwork:
    # Modules draw their first weights from torch's global generator, whose state is the caller's.
    with torch.random.fork_rng(devices=()):
        if isinstance(architecture, NamedNetwork):
            return build_named(architecture, image_shape=image_shape, ways=ways, variant=variant, norm=norm)
        return build(architecture, config, in_channels=image_shape[0], ways=ways, variant=variant, norm=norm)


@contextmanager
def seeded(architecture: Architecture, seed: int, *purpose: str | int) -> Iterator[None]:
    """Give a context in which what a person's code draws from torch's global generator depends on a seed alone.

    Its state is put back afterwards. Our networks draw nothing from it.

    Args:
        architecture: Whose networks are built, or used, in it.
        seed: Seed of the whole run.
        purpose: What the network is for, as in ``("score", "init", 2)``.
    """
    if not isinstance(architecture, OwnModule):
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, *purpose))
        yield


def part_of(network: nn.Module, architecture: Architecture) -> nn.Module:
    """Return the part of a supernet's network that a genotype keeps; the whole network of any other architecture."""
    if not isinstance(architecture, Genotype):
        return network
    assert isinstance(network, FewShotNetwork)
    return restricted(network, architecture)


@contextmanager
def running(architecture: Architecture, what: str) -> Iterator[None]:
    """Give a context for using a network: what a person's code raises in it becomes one sentence, an ``InputError``.

    Args:
        architecture: Whose network is used.
        what: What fails then, as in ``"fails while its scores are computed"``.
    """
    if not isinstance(architecture, OwnModule):
        yield
        return
    with own_code(f"{architecture} {what}", ours=True):
        yield
