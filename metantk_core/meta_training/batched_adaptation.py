r"""The inner loop of all episodes of a meta-batch at once: episodes side by side enter, their queries' logits leave.

What learn2learn's MAML computes one episode after the other, ``torch.func`` computes for all of them in one pass: fewer
and larger operations. The numbers are the same up to rounding.

Axes: t episodes, s support images, q query images, c channels, h height, w width, k ways.
"""

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from metantk_core.architectures import LearnableNetwork
from metantk_core.meta_training.adaptation import Parameters, remembers_moments
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
    answer = _anil if algorithm == "anil" else _maml
    parameters = dict(network.named_parameters())

    def one(support: Tensor, labels: Tensor, queries: Tensor) -> Tensor:
        return answer(network, parameters, support, labels, queries, learning_rate, steps, first_order)

    with written_out(network):
        return vmap(one, randomness="different")(support_images, support_labels, query_images)


def _maml(
    network: LearnableNetwork,
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    queries: Tensor,
    learning_rate: float,
    steps: int,
    first_order: bool,
) -> Tensor:
    network.train()
    adapted = _descended(network, parameters, support, labels, learning_rate, steps, first_order)
    if remembers_moments(network):
        functional_call(network, adapted, (support,))
    network.eval()
    return functional_call(network, adapted, (queries,))


def _anil(
    network: LearnableNetwork,
    parameters: Parameters,
    support: Tensor,
    labels: Tensor,
    queries: Tensor,
    learning_rate: float,
    steps: int,
    first_order: bool,
) -> Tensor:
    network.train()
    features = network.features(support)
    network.eval()
    asked = network.features(queries)
    adapted = _descended(
        network.head, dict(network.head.named_parameters()), features, labels, learning_rate, steps, first_order
    )
    return functional_call(network.head, adapted, (asked,))


def _descended(
    module: nn.Module,
    parameters: Parameters,
    inputs: Tensor,
    labels: Tensor,
    learning_rate: float,
    steps: int,
    first_order: bool,
) -> dict[str, Tensor]:
    """Return parameters after some steps of gradient descent on the mean cross-entropy of one episode."""

    def loss(current: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(module, current, (inputs,)), labels)

    current = dict(parameters)
    for _ in range(steps):
        gradients = grad(loss)(current)
        current = {
            name: parameter - learning_rate * (gradients[name].detach() if first_order else gradients[name])
            for name, parameter in current.items()
        }
    return current
