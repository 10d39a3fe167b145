r"""The empirical neural tangent kernel: a network and images enter, the Gram matrix of per-image gradients leaves.

.. math:: \Theta(a, b) = \langle \nabla_\theta s(x_a), \nabla_\theta s(x_b) \rangle, \qquad s(x) = \sum_k f_k(x).

The sum of the logits makes one backward pass per image enough (the "pseudo-NTK" of Mohamadi et al. 2023). One pass of
``vmap(grad)`` gives the gradients of every image; each parameter tensor adds its Gram matrix to the kernel, in float64.

Memory, above the network itself: the per-image gradients of one group of parameters, at most ``GRADIENT_BYTES`` (or one
single larger tensor), plus the activations of ``images_at_once`` images. A network whose gradients need more is
differentiated group by group, one pass each.

Axes: n images · c h w one image · p one parameter tensor, flattened.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

ParameterChoice = Literal["weights", "weights+biases"]
"""Which parameters of the convolutions and linear layers count. Those of normalisation layers never do."""

GRADIENT_BYTES = 256 * 2**20
"""Most memory that the per-image gradients of one pass take; a full-size NAS-Bench-201 network needs 184 MB."""

IMAGES_AT_ONCE = 16
"""Images whose activations are kept at the same time: half the memory of a usual batch of 30, at the same speed."""

_COLUMNS = 2**16  # of a gradient matrix turned into float64 at a time: 16 MB for 30 images

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class Kernels:
    """What one pass over a batch gives.

    Attributes:
        ntk: Gram matrix of the gradients over all chosen parameters.
        nngp: The part of ``ntk`` that belongs to the parameters of ``network.head``; the rest is positive semidefinite
            too.
        outputs: Sum of the logits of each image. Not finite means that the network can't be scored.
    """

    ntk: Float64[Tensor, "n n"]
    nngp: Float64[Tensor, "n n"]
    outputs: Float64[Tensor, " n"]


def tangent_and_last_layer_kernel(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    images_at_once: int = IMAGES_AT_ONCE,
) -> Kernels:
    """Return the empirical NTK and the last-layer kernel from one per-image-gradient pass.

    Parameters that an image's output does not depend on contribute zero.

    Args:
        network: Maps ``[n, c, h, w]`` to logits ``[n, ways]`` without mixing images (no batch normalisation in training
            mode), and has its last linear layer, with a weight, as ``network.head``. It is left as it is.
        images: Images on the network's device, in its precision.
        parameters: Weights of convolutions and linear layers, with or without their biases.
        images_at_once: Images whose activations are in memory at the same time; changes no number beyond rounding.

    Returns:
        Float64 kernels on the CPU. Gradients are taken in the precision of the network (its rounding, about 1e-5
        relative in float32, is all that separates them from the exact kernel) and multiplied in float64.
    """
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}
    chosen = {name: values[name] for name in parameter_names(network, parameters)}
    ntk = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    nngp = torch.zeros_like(ntk)
    outputs = torch.zeros(len(images))

    def summed_logits(variables: dict[str, Tensor], image: Float[Tensor, "c h w"]) -> Float[Tensor, ""]:
        return functional_call(network, {**values, **variables}, (image[None],)).sum()

    # TF32 would move condition numbers by as much as the choice of an operation does.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        one_pass = vmap(grad_and_value(summed_logits), in_dims=(None, 0), chunk_size=images_at_once)
        for group in _groups(chosen, len(images)):
            gradients, outputs = one_pass({name: chosen[name] for name in group}, images)
            for name in group:
                gram = _gram(gradients.pop(name).flatten(1))
                ntk += gram
                if name.startswith("head."):
                    nngp += gram
    return Kernels(ntk.cpu(), nngp.cpu(), outputs.double().cpu())


def empirical_ntk(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    images_at_once: int = IMAGES_AT_ONCE,
) -> Float64[Tensor, "n n"]:
    """Return the empirical NTK alone; see :func:`tangent_and_last_layer_kernel` for the arguments."""
    return tangent_and_last_layer_kernel(network, images, parameters=parameters, images_at_once=images_at_once).ntk


def parameter_names(network: nn.Module, choice: ParameterChoice) -> tuple[str, ...]:
    """Return the names of the parameters that a kernel counts, in the network's own order; a shared one counts once.

    Args:
        network: Any module.
        choice: Weights of convolutions and linear layers, with or without their biases.
    """
    kinds = ("weight",) if choice == "weights" else ("weight", "bias")
    layers = [name for name, module in network.named_modules() if isinstance(module, _LAYERS)]
    wanted = {f"{layer}.{kind}" if layer else kind for layer in layers for kind in kinds}
    return tuple(name for name, _ in network.named_parameters() if name in wanted)


def _groups(chosen: dict[str, Tensor], images: int) -> list[tuple[str, ...]]:
    """Return the names in order, packed so that the per-image gradients of a group stay below ``GRADIENT_BYTES``."""
    groups: list[tuple[str, ...]] = []
    room = 0
    for name, tensor in chosen.items():
        size = images * tensor.numel() * tensor.element_size()
        if not groups or size > room:
            groups.append(())
            room = GRADIENT_BYTES
        groups[-1] += (name,)
        room -= size
    return groups


def _gram(gradients: Float[Tensor, "n p"]) -> Float64[Tensor, "n n"]:
    """Return ``gradients @ gradients.T`` in float64, never holding more than a few columns of them in float64."""
    gram = gradients.new_zeros(len(gradients), len(gradients), dtype=torch.float64)
    for block in gradients.split(_COLUMNS, dim=1):
        wide = block.double()
        gram.addmm_(wide, wide.mT)
    return gram
