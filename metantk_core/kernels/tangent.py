r"""The empirical neural tangent kernel: a network and images enter, the Gram matrix of per-image gradients leaves.

Two kernels of a network with K logits :math:`f_k`, both sums over the chosen parameters:

.. math::
    \Theta_\text{sum}(a, b) = \langle \nabla s(x_a), \nabla s(x_b) \rangle, \quad s = \sum_k f_k, \qquad
    \Theta_\text{trace}(a, b) = \sum_k \langle \nabla f_k(x_a), \nabla f_k(x_b) \rangle.

``sum`` is the "pseudo-NTK" of Mohamadi et al. 2023 and the kernel of Wang et al. 2022; one backward pass is enough for
it. ``trace`` is the kernel of theory, K times the infinite-width NTK. With one logit they are the same.

There are two implementations, whose numbers agree up to rounding: ``engine`` (see ``kernels.engine``), and ``vmap``
below, the plain one, which takes the gradients of every image with ``vmap(grad)`` and multiplies them in float64.

Memory of the plain one, above the network itself: the per-image gradients of one group of parameters, at most
``GRADIENT_BYTES`` (or one single larger tensor), plus the activations of ``images_at_once`` images. A network whose
gradients need more is differentiated group by group, one pass each.

Axes: n images of the batch · c h w one image · k logits · p one parameter tensor, flattened.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels.engine import Onlooker, kernels_by_layer, look_on
from metantk_core.kernels.parameters import (
    GRADIENT_BYTES,
    Kernels,
    Outputs,
    ParameterChoice,
    directions,
    gram,
    groups_within,
    head_names,
    parameter_names,
)
from metantk_core.kernels.shortcuts import OnRelu, watched

IMAGES_AT_ONCE = 16
"""Images whose activations are kept at the same time: half the memory of a usual batch of 30, at the same speed."""


def kernels_by_vmap(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    outputs: Outputs = "sum",
    on_relu: OnRelu | None = None,
    onlooker: Onlooker | None = None,
    images_at_once: int = IMAGES_AT_ONCE,
) -> Kernels:
    """Return the kernels from per-image gradients of whole parameter groups: plain, general, and the oracle in tests.

    Args:
        network: As for :func:`tangent_and_last_layer_kernel`; must also work under ``torch.func.vmap``.
        images: Images on the network's device, in its precision.
        parameters: Weights, with or without biases, as :func:`parameter_names` says.
        outputs: Which kernel.
        on_relu: Sees the output of each ReLU, in a forward pass of its own.
        onlooker: Has a backward pass, after a forward pass of its own.
        images_at_once: Images whose activations are in memory at the same time; changes no number beyond rounding.
    """
    values = {name: parameter.detach() for name, parameter in network.named_parameters()}
    chosen = {name: values[name] for name in parameter_names(network, parameters)}
    ntk = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    nngp, head = torch.zeros_like(ntk), head_names(network)

    def logits(variables: dict[str, Tensor], image: Float[Tensor, "c h w"]) -> Float[Tensor, " k"]:
        return functional_call(network, {**values, **variables}, (image[None].clone(),)).flatten()

    def along(direction: Float[Tensor, " k"]) -> Callable:
        return lambda variables, image: logits(variables, image) @ direction

    with exact_arithmetic():
        with torch.no_grad():
            if on_relu is not None:
                with watched(on_relu):
                    network(images.clone())
            totals = vmap(lambda image: logits({}, image).sum(), chunk_size=images_at_once)(images)
            example = logits({}, images[0])
        for direction in directions(example, outputs):
            one_pass = vmap(grad_and_value(along(direction)), in_dims=(None, 0), chunk_size=images_at_once)
            for group in groups_within(GRADIENT_BYTES, chosen, len(images)):
                gradients, _ = one_pass({name: chosen[name] for name in group}, images)
                for name in group:
                    contribution = gram(gradients.pop(name).flatten(1))
                    ntk += contribution
                    if head and name in head:
                        nngp += contribution
    if onlooker is not None:
        look_on(network, images, onlooker)
    return Kernels(ntk.cpu(), None if head is None else nngp.cpu(), totals.double().cpu())


#: How a kernel is computed; equal up to rounding.
IMPLEMENTATIONS: Mapping[str, Callable[..., Kernels]] = MappingProxyType(
    {"engine": kernels_by_layer, "vmap": kernels_by_vmap}
)


def tangent_and_last_layer_kernel(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    outputs: Outputs = "sum",
    implementation: str = "engine",
    on_relu: OnRelu | None = None,
    onlooker: Onlooker | None = None,
) -> Kernels:
    """Return the empirical NTK and the last-layer kernel from one pass.

    Parameters that an image's output does not depend on contribute zero.

    Args:
        network: Maps ``[n, c, h, w]`` to logits ``[n, ways]`` without mixing images (no batch normalisation in training
            mode). Its last linear layer is ``network.head``, if it is to have a last-layer kernel. It is left as it is.
        images: Images on the network's device, in its precision.
        parameters: Weights, with or without biases, as :func:`parameter_names` says.
        outputs: ``sum``, the kernel of the summed logits, or ``trace``, the sum of the kernels of all logits.
        implementation: A key of ``IMPLEMENTATIONS``.
        on_relu: Sees the output of each ReLU of the forward pass, be it a module or a function; the same tensor again
            where ReLUs of one input share it.
        onlooker: Has one more backward pass, and sees what it brings to each layer.

    Returns:
        Float64 kernels on the CPU. Gradients are taken in the precision of the network (its rounding, about 1e-5
        relative in float32, is all that separates them from the exact kernel).

    Raises:
        ValueError: There is no such implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"expected one of {', '.join(IMPLEMENTATIONS)} as implementation, got {implementation!r}")
    run = IMPLEMENTATIONS[implementation]
    return run(network, images, parameters=parameters, outputs=outputs, on_relu=on_relu, onlooker=onlooker)


def empirical_ntk(
    network: nn.Module,
    images: Float[Tensor, "n c h w"],
    *,
    parameters: ParameterChoice = "weights",
    outputs: Outputs = "sum",
    implementation: str = "engine",
) -> Float64[Tensor, "n n"]:
    """Return the empirical NTK alone; see :func:`tangent_and_last_layer_kernel` for the arguments."""
    return tangent_and_last_layer_kernel(
        network, images, parameters=parameters, outputs=outputs, implementation=implementation
    ).ntk
