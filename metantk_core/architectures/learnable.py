"""Networks as learners take them: an architecture enters, a module with logits, features and a head leaves.

Axes: n images, c channels, h height, w width, d features, k ways.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.architectures.architecture import Architecture, build_network, running, seeded
from metantk_core.architectures.own_modules import OwnModule, own_code
from metantk_core.candidates import Costs, Genotype
from metantk_core.errors import InputError
from metantk_core.networks import (
    FewShotNetwork,
    NetworkConfig,
    Normalisation,
    batch_norm_as,
    cost_table,
    count_macs,
    count_parameters,
    initialise,
    macs_of_pass,
)
from metantk_core.seeding import generator

_TOLERANCE = 1e-4  # of logits, relative: what computing them by the head alone may change by rounding


class OwnNetwork(nn.Module):
    """A person's module with what learners ask of a network: logits, and features that a linear head sees.

    The head is the linear layer that gives the logits: the last ``nn.Linear`` of a pass, if its output is what the
    module returns. Features are what it is given. Where there is no such layer the module can still be trained by
    MAML, which needs logits alone. In ``train()`` mode, what rests stays in ``eval()`` mode.

    Args:
        module: What the factory returned.
        name: Its address, for people.
        head_at: Name of the head in the module; None if there is none.
        resting: Names of the modules that always are in ``eval()`` mode, such as dropout that the factory put to rest.
    """

    def __init__(self, module: nn.Module, name: str, *, head_at: str | None, resting: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.module = module
        self._name, self._head_at, self._resting = name, head_at, resting
        self.train()

    def train(self, mode: bool = True) -> "OwnNetwork":
        """Put all of the module but what rests into ``train()`` mode, or all of it into ``eval()`` mode."""
        super().train(mode)
        for at in self._resting:
            self.module.get_submodule(at).training = False
        return self

    @property
    def head(self) -> nn.Module:
        """The linear layer that gives the logits.

        Raises:
            InputError: There is none.
        """
        if self._head_at is None:
            raise InputError(
                f"Expected the logits of {self._name} to come from a torch.nn.Linear that sees one vector an image, as "
                "ANIL, ProtoNet and RFS need (the features are what it is given), but they don't; end its forward in "
                "such a layer, or train it by maml."
            )
        return self.module.get_submodule(self._head_at)

    def features(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d"]:
        """Return what the head sees of images."""
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self.module(x)
        finally:
            hook.remove()
        return seen[-1]

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n k"]:
        """Return the logits of images."""
        return self.module(x)


LearnableNetwork = FewShotNetwork | OwnNetwork
"""Has logits (a call), ``features`` and ``head``: logits are what the head gives for the features."""


def learnable_network(
    architecture: Architecture,
    config: NetworkConfig,
    *,
    image_shape: tuple[int, int, int],
    ways: int,
    norm: Normalisation,
) -> LearnableNetwork:
    """Return a new network for training, on the CPU, whose weights are still to be given.

    Batch normalisation of a person's module becomes what ``norm`` says, with its own scales and shifts, unless the
    architecture says what is done about it.

    Args:
        architecture: What is built.
        config: Width and depth of a genotype's network; others have their own.
        image_shape: Channels, height and width of the images.
        ways: Number of outputs of the head; 0 for none (a person's module has one of 2 then, which nobody uses).
        norm: Normalisation.

    Raises:
        InputError: A person's factory fails, or what it returns gives no logits; or the images are too small.
    """
    made = ways or (2 if isinstance(architecture, OwnModule) else 1)
    network = build_network(
        architecture, config, image_shape=image_shape, ways=made, variant="training", norm=norm, device="cpu"
    )
    if isinstance(architecture, OwnModule):
        return _own_network(network, architecture, norm, image_shape, made)
    assert isinstance(network, FewShotNetwork)
    if ways == 0:
        network.head = nn.Identity()
    return network


def initial_network(
    architecture: Architecture,
    config: NetworkConfig,
    *,
    image_shape: tuple[int, int, int],
    ways: int,
    norm: Normalisation,
    seed: int,
) -> LearnableNetwork:
    """Return the network that training starts from: weights by seed, those of a person's module by its own factory.

    Args:
        architecture: What is built.
        config: Width and depth of a genotype's network.
        image_shape: Channels, height and width of the images.
        ways: Number of outputs of the head.
        norm: Normalisation.
        seed: Seed of the run.

    Raises:
        InputError: As for :func:`learnable_network`, or gradient descent would change nothing in a person's module.
    """
    with seeded(architecture, seed, "train", "init"):
        network = learnable_network(architecture, config, image_shape=image_shape, ways=ways, norm=norm)
    unused = set(network.head.parameters()) if ways == 0 else set()
    if not any(parameter.requires_grad for parameter in network.parameters() if parameter not in unused):
        below = " below its head" if ways == 0 else ""
        raise InputError(
            f"Expected {architecture} to have parameters that training can change, but none{below} requires a "
            "gradient; give it some, or leave requires_grad of at least one of them as it is."
        )
    if isinstance(network, FewShotNetwork):
        initialise(network, seed, "train", "init")
    return network


def costs_of(
    architecture: Architecture, config: NetworkConfig, *, image_shape: tuple[int, int, int], ways: int
) -> Costs:
    """Return parameters and multiply-accumulates of the network that is trained, those of its head included.

    Args:
        architecture: What is counted.
        config: Width and depth of a genotype's network; others have their own.
        image_shape: Channels, height and width of the images.
        ways: Number of outputs of the head.

    Raises:
        InputError: As for :func:`learnable_network`.
    """
    if isinstance(architecture, Genotype):
        return cost_table(architecture.space, config, image_shape=image_shape, ways=ways).of(architecture)
    with seeded(architecture, 0, "costs"):
        network = learnable_network(
            architecture, config, image_shape=image_shape, ways=ways, norm="batch_transductive"
        ).eval()
        if isinstance(network, FewShotNetwork):
            return Costs(count_parameters(network), count_macs(network, image_shape))
        with running(architecture, "fails while its operations are counted"):
            return Costs(count_parameters(network), macs_of_pass(network, torch.zeros(1, *image_shape)))


def _own_network(
    module: nn.Module, architecture: OwnModule, norm: Normalisation, image_shape: tuple[int, int, int], ways: int
) -> OwnNetwork:
    name = str(architecture)
    follows = architecture.batch_norm is None
    resting = tuple(
        at
        for at, part in module.named_modules()
        if not part.training and not (follows and isinstance(part, nn.modules.batchnorm._BatchNorm))
    )
    head_at = _head_of(module, name, image_shape, ways)
    if follows:
        module = batch_norm_as(module, norm)
    return OwnNetwork(module, name, head_at=head_at, resting=resting)


@torch.no_grad()
def _head_of(module: nn.Module, name: str, image_shape: tuple[int, int, int], ways: int) -> str | None:
    """Return the name of the linear layer that gives the logits of a person's module; none if there is none."""
    images = torch.randn(2, *image_shape, generator=generator(0, "own module", "trial"))
    linear: dict[nn.Module, str] = {layer: at for at, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    passed: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        passed.append((layer, inputs[0], output))

    hooks = [layer.register_forward_hook(note) for layer in linear]
    training = {part: part.training for part in module.modules()}
    try:
        with own_code(f"{name} fails on images of shape {tuple(images.shape)}"):
            logits = module.eval()(images)  # in which no dropout and no moments of the batch come between
    finally:
        for hook in hooks:
            hook.remove()
        for part, was in training.items():
            part.training = was
    if not isinstance(logits, Tensor) or logits.shape != (len(images), ways) or not logits.is_floating_point():
        got = f"{logits.dtype} of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise InputError(
            f"Expected {name} to map {len(images)} images of shape {image_shape} to {ways} logits each, got {got}; let "
            "the factory take (in_channels, ways) and give as many outputs as ways."
        )
    if not passed:
        return None
    layer, seen, output = passed[-1]
    tolerance = _TOLERANCE * float(logits.abs().nan_to_num(0, 0).max())
    gives = output.shape == logits.shape and torch.allclose(output, logits, rtol=_TOLERANCE, atol=tolerance)
    return linear[layer] if gives and seen.dim() == 2 else None
