r"""The inner loop of all episodes of a meta-batch at once: episodes side by side enter, their queries' logits leave.

What learn2learn's MAML computes one episode after the other, ``torch.func`` computes for all of them in one pass: fewer
and larger operations. The numbers are the same up to rounding.

Axes: t episodes, s support images, q query images, c channels, h height, w width, k ways.
"""

from functools import partial

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metantk_core.architectures import LearnableNetwork
from metantk_core.meta_training.adaptation import adaptable, remembers_moments
from metantk_core.meta_training.config import Adaptation
from metantk_core.networks import written_out


def batched_query_logits(
    network: LearnableNetwork,
    support_images: Float[Tensor, "t s c h w"],
    support_labels: Int64[Tensor, "t s"],
    query_images: Float[Tensor, "t q c h w"],
    *,
    algorithm: Adaptation,
    learning_rate: float,
    steps: int,
    first_order: bool,
) -> Float[Tensor, "t q k"]:
    r"""Return the logits of queries after adaptation, differentiable in the network's parameters.

    Each episode's parameters are :math:`\theta_{j+1} = \theta_j - \alpha \nabla L(\theta_j)` (Finn et al. 2017, eq. 1);
    support images pass in ``train()`` mode and queries in ``eval()`` mode, as in :func:`adapted_logits`.

    Args:
        network: Left in ``eval()`` mode.
        support_images: Normalised images.
        support_labels: Their classes, 0 to k - 1.
        query_images: Normalised images.
        algorithm: Which parameters adapt: all for MAML, those of the head for ANIL.
        learning_rate: Inner learning rate α.
        steps: Number of inner steps, at least 0.
        first_order: Whether gradients of the inner loop are taken for constants.
    """
    descended = partial(_descended, learning_rate=learning_rate, steps=steps, first_order=first_order)

    def maml(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        network.train()
        adapted = descended(network, support, labels)
        if remembers_moments(network):
            functional_call(network, adapted, (support,))
        network.eval()
        return functional_call(network, adapted, (queries,))

    def anil(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        network.train()
        features = network.features(support)
        network.eval()
        asked = network.features(queries)
        return functional_call(network.head, descended(network.head, features, labels), (asked,))

    with written_out(network):
        answered = vmap(anil if algorithm == "anil" else maml, randomness="different")
        return answered(support_images, support_labels, query_images)


def _descended(
    module: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    *,
    learning_rate: float,
    steps: int,
    first_order: bool,
) -> dict[str, Tensor]:
    """Return a module's parameters after some steps of gradient descent on the mean cross-entropy of one episode."""

    def loss(current: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(module, current, (inputs,)), labels)

    current = adaptable(module)
    for _ in range(steps):
        gradients = grad(loss)(current)
        current = {
            name: parameter - learning_rate * (gradients[name].detach() if first_order else gradients[name])
            for name, parameter in current.items()
        }
    return current
