"""What can be scored and trained, as one type: a genotype or a person's module enters, networks of it leave.

What differs between the kinds of architecture when a network is made stands here, a function each.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from metantk_core.architectures.own_modules import OwnModule, own_code
from metantk_core.candidates import Genotype
from metantk_core.networks import FewShotNetwork, NetworkConfig, Normalisation, Variant, build, restricted
from metantk_core.seeding import derive

Architecture = Genotype | OwnModule
"""What can be scored and trained; records show its ``space`` and ``str()``.

A published network is a genotype, by its name; a person's module has the weights, width and depth of its own factory.
"""


def build_network(
    architecture: Architecture,
    config: NetworkConfig,
    *,
    in_channels: int,
    ways: int,
    variant: Variant,
    norm: Normalisation = "batch_support",
    device: str = "cpu",
) -> nn.Module:
    """Return a new network; its weights are to be had by :func:`seeded` and :func:`initialise_network`.

    Args:
        architecture: What is built.
        config: Width and depth; a person's module has its own.
        in_channels: Channels of the images.
        ways: Number of classes of an episode.
        variant: What the network is for; a person's module has one.
        norm: Normalisation of the training variant of a genotype.
        device: Where it will run, as torch spells it.

    Raises:
        InputError: A person's factory fails, or returns something else than a complete module.
    """
    if isinstance(architecture, OwnModule):
        return architecture.network(in_channels, ways, device)
    # Modules draw their first weights from torch's global generator, whose state is the caller's.
    with torch.random.fork_rng(devices=()):
        network = build(architecture, config, in_channels=in_channels, ways=ways, variant=variant, norm=norm)
    return network.to(device)


@contextmanager
def seeded(architecture: Architecture, seed: int, *purpose: str | int) -> Iterator[None]:
    """Give a context in which what a person's code draws from torch's global generator depends on a seed alone.

    Its state is put back afterwards. A genotype's networks draw nothing from it.

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
    """Return the part of a supernet's network that a genotype keeps; the whole network for a person's module."""
    if isinstance(architecture, OwnModule):
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
