"""Score of the weights alone: a network enters, a number that no image and no gradient reaches leaves."""

from torch import nn

from metantk_core.kernels import parameter_names


def l2_norm(network: nn.Module) -> float:
    r"""Return :math:`\sum_{\text{layers}} \|W\|_2` over convolutions and linear layers.

    With weights drawn independently it is a count: a layer's norm is close to the root of the number of its weights
    times their standard deviation, with Kaiming's to the root of twice its number of outputs.

    Source: Abdelfattah et al., ICLR 2021, as their code (zero-cost-nas) and NASLib compute it.
    """
    return sum(
        float(network.get_parameter(name).detach().double().norm()) for name in parameter_names(network, "weights")
    )
