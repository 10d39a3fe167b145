"""What a kernel counts and gives: a network and a choice enter, names of parameters leave; and the pieces of passes.

Axes: n images of the batch · k logits · p one parameter tensor, flattened.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from metantk_core.kernels.choices import Outputs, ParameterChoice

GRADIENT_BYTES = 256 * 2**20
"""Most memory that the per-image gradients of one pass take; a full-size NAS-Bench-201 network needs 184 MB."""

_COLUMNS = 2**16  # of a gradient matrix turned into float64 at a time: 16 MB for 30 images

_MAPS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
    nn.Bilinear,
)
_RECURRENT = nn.RNNBase, nn.RNNCellBase
_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Kernels:
    """What one pass over a batch gives.

    Attributes:
        ntk: Gram matrix of the gradients over all chosen parameters.
        nngp: The part of ``ntk`` that belongs to the parameters of ``network.head``; the rest is positive semidefinite
            too. None if the network has no ``head``.
        outputs: Sum of the logits of each image. Not finite means that the network can't be scored.
    """

    ntk: Float64[Tensor, "n n"]
    nngp: Float64[Tensor, "n n"] | None
    outputs: Float64[Tensor, " n"]


def parameter_names(network: nn.Module, choice: ParameterChoice) -> tuple[str, ...]:
    """Return the names of the parameters that a kernel counts, in the network's own order; a shared one counts once.

    A weight is

    - every parameter with at least two axes longer than 1, whatever module holds it and whatever it is used for: the
      weights of convolutions, of linear, bilinear and recurrent layers, the projections of attention, tables of
      embeddings, a matrix in a module of a person's own, the parts that a parametrisation makes a weight from;
    - of torch's convolutions, linear, bilinear and recurrent layers and projections of attention, and of subclasses of
      these, every weight even if it is narrower, such as the one of a linear layer with one output.

    What torch's normalisation layers and subclasses of these hold is no weight, whatever its shape; nor is anything
    else with fewer axes: scales of channels or layers, slopes of activations, class tokens. Biases are those of the
    layers of the second point.

    Args:
        network: Any module.
        choice: Weights, with or without biases.
    """
    wanted: set[int] = set()  # by identity: a parameter that modules share has one name, perhaps another module's
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None and _kind(module, name, value) in _KINDS[choice]:
                wanted.add(id(value))
    return tuple(name for name, value in network.named_parameters() if id(value) in wanted)


_KINDS: Mapping[ParameterChoice, tuple[str, ...]] = MappingProxyType(
    {"weights": ("weight",), "weights+biases": ("weight", "bias")}
)


def _kind(module: nn.Module, name: str, value: Tensor) -> str | None:
    """Return whether a parameter is a weight or a bias; None if it is neither."""
    named = None
    if isinstance(module, _MAPS):
        named = {"weight": "weight", "bias": "bias"}.get(name)
    elif isinstance(module, _RECURRENT):  # weight_ih_l0, weight_hh_l0_reverse, bias_ih, ...
        named = {"weight": "weight", "bias": "bias"}.get(name.partition("_")[0])
    elif isinstance(module, nn.MultiheadAttention):  # in_proj_weight, q_proj_weight, in_proj_bias, ...
        named = {"weight": "weight", "bias": "bias"}.get(name.partition("_proj_")[2])
    if named is not None:
        return named
    if isinstance(module, _NORMALISATIONS) or sum(length > 1 for length in value.shape) < 2:
        return None
    return "weight"


def head_names(network: nn.Module) -> frozenset[str] | None:
    """Return the names of the parameters of the last layer, ``network.head``; None if the network has none."""
    head = getattr(network, "head", None)
    inside = {id(value) for value in head.parameters()} if isinstance(head, nn.Module) else None
    return frozenset(name for name, value in network.named_parameters() if id(value) in inside) if inside else None


def directions(logits: Float[Tensor, " k"], outputs: Outputs) -> Float[Tensor, "d k"]:
    """Return the combinations of logits that are differentiated: their sum, or each alone.

    Args:
        logits: Logits of one image.
        outputs: Which kernel.
    """
    return torch.ones_like(logits)[None] if outputs == "sum" else torch.diag(torch.ones_like(logits))


def groups_within(limit: int, chosen: Mapping[str, Tensor], images: int) -> list[tuple[str, ...]]:
    """Return the names in order, packed so that the per-image gradients of a group stay below ``limit`` bytes.

    Args:
        limit: In bytes; a single tensor may need more.
        chosen: Parameters by name.
        images: Number of images.
    """
    groups: list[tuple[str, ...]] = []
    room = 0
    for name, tensor in chosen.items():
        size = images * tensor.numel() * tensor.element_size()
        if not groups or size > room:
            groups.append(())
            room = limit
        groups[-1] += (name,)
        room -= size
    return groups


def gram(gradients: Float[Tensor, "n p"]) -> Float64[Tensor, "n n"]:
    """Return ``gradients @ gradients.T`` in float64, never holding more than a few columns of them in float64.

    Args:
        gradients: Gradients of one parameter, one row an image.
    """
    result = gradients.new_zeros(len(gradients), len(gradients), dtype=torch.float64)
    for block in gradients.split(_COLUMNS, dim=1):
        wide = block.double()
        result.addmm_(wide, wide.mT)
    return result
