"""How large a network is: a network enters, its parameters or its multiply-accumulate operations leave."""

import copy
from collections import Counter

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from metantk_core.networks.normalisation import BatchMoments


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters, those of normalisations and of the head included."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulate operations of convolutions and linear layers for one image.

    The literature on NAS calls this number "FLOPs". Normalisation, activation, pooling and addition are not counted.

    Args:
        network: The network; it is not changed.
        image_shape: Channels, height and width of the image.
    """
    return macs_by_module(network, image_shape)[""]


def macs_by_module(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the multiply-accumulate operations of every module that has any, by its name; ``""`` is the whole network.

    A module's number includes those of the modules in it.

    Args:
        network: The network; it is not changed.
        image_shape: Channels, height and width of the image.
    """
    # Shapes are all that counting needs: no memory, no arithmetic.
    shadow = copy.deepcopy(network).to("meta").train()
    # Three quarters of the time would go into normalisations, which change no shape and are not counted.
    for module in list(shadow.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchMoments):
                setattr(module, name, nn.Identity())
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow(torch.empty(1, *image_shape, device="meta"))
    root = type(network).__name__
    found = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    return {**found, "": counter.get_total_flops() // 2}


def macs_of_pass(network: nn.Module, image: Float[Tensor, "1 c h w"]) -> int:
    """Return the multiply-accumulate operations of all products in one pass, of whatever the network is made of.

    Those of convolutions, matrix products (attention's too), recurrent and bilinear layers. Torch's counter passes over
    some of them where they are fused, so that nothing is fused here, and recurrent and bilinear layers are counted by
    their definition: each of their weights meets each step once.

    Args:
        network: A network of a person's own, on its device; it is not changed.
        image: What it takes.
    """
    kinds = (nn.RNNBase, nn.Bilinear)
    names: dict[nn.Module, str] = {of: name for name, of in network.named_modules() if isinstance(of, kinds)}
    by_definition: Counter[str] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor | PackedSequence, ...], _: object) -> None:
        first = inputs[0].data if isinstance(inputs[0], PackedSequence) else inputs[0]
        weights = sum(parameter.numel() for parameter in module.parameters() if parameter.dim() > 1)
        by_definition[names[module]] += weights * (first.numel() // first.shape[-1])

    hooks = [module.register_forward_hook(note) for module in names]
    counter = FlopCounterMode(display=False)
    try:
        # Attention is fused where no gradient is asked for.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            network(image.clone().requires_grad_().clone())
    finally:
        for hook in hooks:
            hook.remove()
    counted = counter.get_flop_counts()
    root = type(network).__name__
    twice = sum(sum(counted.get(f"{root}.{name}" if name else root, {}).values()) for name in by_definition)
    return (counter.get_total_flops() - twice) // 2 + by_definition.total()
