"""What must hold of a person's module that is scored: a network and images enter, nothing leaves or one sentence does.

Axes: n images of the batch · k logits.
"""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.architectures import OwnModule, own_code, own_module
from metantk_core.errors import InputError
from metantk_core.kernels import parameter_names
from metantk_core.networks import BatchNormTreatment, count_parameters, macs_of_pass, mixes_images
from metantk_core.scores.config import ScoringConfig, inner_loop
from metantk_core.scores.definitions import SCORES
from metantk_core.scores.evidence import Draw

_TOLERANCE = 1e-3  # of logits, relative: what batching may change by rounding


def check_model(address: str, config: ScoringConfig, *, batch_norm: BatchNormTreatment | None = None) -> OwnModule:
    """Return the person's module at an address, if it may be asked for the configured scores.

    Args:
        address: ``package.module:factory``; see :func:`metantk_core.architectures.own_module`.
        config: What is to be computed.
        batch_norm: What is done about batch normalisation that mixes images; nothing means that it is refused.

    Raises:
        InputError: The address leads to no factory, or a score is none for such a network.
    """
    refuse_scores_of_spaces(config, "a network of your own")
    return own_module(address, batch_norm=batch_norm)


def refuse_scores_of_spaces(config: ScoringConfig, what: str) -> None:
    """Do nothing if all scores can be had for a network that is no candidate of a search space.

    Args:
        config: What is to be computed.
        what: The network, for people.

    Raises:
        InputError: One can't.
    """
    for name in config.scores:
        if SCORES[name].spaces_alone:
            raise InputError(
                f"{name} can't be had for {what}: {SCORES[name].spaces_alone}; leave it out of scoring.scores"
            )


def check_network(model: OwnModule, draw: Draw) -> None:
    """Do nothing if the scores of a network of a person's own mean something.

    Args:
        model: What the network is of.
        draw: The network, and images that it is tried on.

    Raises:
        InputError: It fails on the images, does not map them to logits one by one, or lacks what scores ask for.
    """
    images = draw.images
    with own_code(f"{model} fails on images of shape {tuple(images.shape)}"):
        _check(draw.network, images, draw.config, model.address)


def counts_of(model: OwnModule, draw: Draw, names: Iterable[str]) -> dict[str, int]:
    """Return what is counted on the network of a draw, by the name of the score, at the scoring resolution."""
    images = draw.images[:1]
    with own_code(f"{model} fails on images of shape {tuple(images.shape)}"):
        return {name: _COUNTS[name](draw.network, images) for name in names}


def _check(network: nn.Module, images: Float[Tensor, "n _ _ _"], config: ScoringConfig, address: str) -> None:
    if any(map(mixes_images, network.modules())):
        raise InputError(
            f"{address} holds batch normalisation in training mode, which mixes the images of a batch, so that no "
            "image has a gradient of its own; say --batch-norm group to score it with GroupNorm in its place, or "
            "--batch-norm eval to score it with its running statistics"
        )
    for _ in range(2):  # what a network keeps of one pass must not be in the way of the next
        with torch.enable_grad():
            logits = network(images[:2].clone())
            _check_gradients(network, logits, address)
    with torch.no_grad():
        logits = network(images.clone())
        if not isinstance(logits, Tensor) or logits.shape != (len(images), config.episode.ways):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(
                f"expected {address} to map {len(images)} images to logits of shape "
                f"({len(images)}, {config.episode.ways}), got {got}"
            )
        if not logits.is_floating_point():
            raise InputError(f"expected {address} to return logits as floating-point numbers, got {logits.dtype}")
        if not torch.allclose(network(images.clone()), logits, rtol=_TOLERANCE, atol=_scale(logits), equal_nan=True):
            raise InputError(f"{address} gives other logits each time (dropout?); let the factory call .eval()")
        alone = torch.cat([network(image[None].clone()) for image in images[:2]])
        if not torch.allclose(alone, logits[:2], rtol=_TOLERANCE, atol=_scale(logits), equal_nan=True):
            raise InputError(f"{address} mixes the images of a batch: the logits of one depend on the others")
    if not parameter_names(network, config.parameters):
        raise InputError(f"{address} has no convolution, linear layer or other matrix of parameters that would count")
    loops = [inner_loop(name, config) for name in config.scores if SCORES[name].cost == "pass"]
    if any(loop.algorithm == "anil" for loop in loops) and not isinstance(getattr(network, "head", None), nn.Module):
        raise InputError(f"ANIL needs the last layer of {address} as the attribute 'head'; it has none")


def _check_gradients(network: nn.Module, logits: object, address: str) -> None:
    """Refuse a network that fails in the backward pass, whoever takes its gradients."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if isinstance(logits, Tensor) and logits.is_floating_point() and logits.requires_grad and learned:
        with own_code(f"{address} fails in the backward pass"):
            torch.autograd.grad(logits.sum(), learned, allow_unused=True)


def _scale(logits: Tensor) -> float:
    return _TOLERANCE * float(logits.abs().nan_to_num(0, 0).max())


_COUNTS: dict[str, Callable[[nn.Module, Tensor], int]] = {
    "params": lambda network, image: count_parameters(network),
    "flops": macs_of_pass,
}
