"""The kernels of a batch that is too large for a device: passes over few of its images enter, the same kernels leave.

Every entry of a kernel needs two images in one pass, so the batch is cut into chunks of which every two pass together:
with half of the images at a time that is 4 to 5 times the work, with a quarter of them 9 times.

Axes: n images of the batch · c h w one image.
"""

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metantk_core.kernels.engine import outputs_with_relus
from metantk_core.kernels.parameters import Kernels, Outputs, ParameterChoice
from metantk_core.kernels.shortcuts import OnRelu
from metantk_core.kernels.tangent import tangent_and_last_layer_kernel


def kernels_by_pairs(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    at_once: int,
    *,
    parameters: ParameterChoice = "weights",
    outputs: Outputs = "sum",
) -> Kernels:
    """Return the kernels of a batch from passes over few of its images: equal up to rounding.

    Args:
        network: As for :func:`metantk_core.kernels.tangent_and_last_layer_kernel`.
        images: As there.
        at_once: Images in one pass, at least 2 and fewer than there are.
        parameters: As there.
        outputs: As there.
    """
    chunks = images.split(at_once // 2)
    rows = torch.arange(len(images)).split(at_once // 2)
    ntk = torch.zeros(len(images), len(images), dtype=torch.float64)
    nngp, totals = torch.zeros_like(ntk), torch.zeros(len(images), dtype=torch.float64)
    has_head = True
    for one, other in combinations(range(len(chunks)), 2):
        both = torch.cat([rows[one], rows[other]])
        part = tangent_and_last_layer_kernel(
            network, torch.cat([chunks[one], chunks[other]]), parameters=parameters, outputs=outputs
        )
        ntk[both[:, None], both] = part.ntk
        totals[both] = part.outputs
        if part.nngp is None:
            has_head = False
        else:
            nngp[both[:, None], both] = part.nngp
    return Kernels(ntk, nngp if has_head else None, totals)


def outputs_with_relus_by_chunks(
    network: nn.Module, images: Float[Tensor, "n c h w"], at_once: int, on_relu: OnRelu
) -> Float[Tensor, "n ..."]:
    """Return the outputs of forward passes over few images each, and show which units were on, as of one pass.

    Args:
        network: As for the kernel.
        images: As for the kernel.
        at_once: Images in one pass.
        on_relu: Sees, for each ReLU, which of its units are on for which images: booleans on the CPU.
    """
    outputs: list[Tensor] = []
    seen: list[list[Tensor]] = []
    for chunk in images.split(at_once):
        relus: list[Tensor] = []
        outputs.append(outputs_with_relus(network, chunk, lambda output: relus.append((output > 0).cpu())))  # noqa: B023
        seen.append(relus)
    for parts in zip(*seen, strict=True):
        on_relu(torch.cat(parts))
    return torch.cat(outputs)
