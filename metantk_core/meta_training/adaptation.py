"""The inner loop in plain torch: a network and the support images of an episode enter, logits of its queries leave.

Evaluation and serving run this; it equals what learn2learn's MAML does in meta-training, without needing it.

Axes: s support images, q query images, c channels, h height, w width, k ways.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.func import functional_call

from metantk_core.architectures import LearnableNetwork
from metantk_core.arithmetic import exact_arithmetic
from metantk_core.device_memory import NoRoomError
from metantk_core.errors import InputError
from metantk_core.meta_training.config import Adaptation
from metantk_core.networks import forget_moments

Parameters = Mapping[str, Tensor]


@exact_arithmetic()
def adapted_logits(
    network: LearnableNetwork,
    support_images: Float[Tensor, "s c h w"],
    support_labels: Int64[Tensor, " s"],
    query_images: Float[Tensor, "q c h w"],
    *,
    algorithm: Adaptation,
    learning_rate: float,
    steps: int,
) -> Float[Tensor, "q k"]:
    r"""Return the logits of queries after the network has adapted to support images.

    The adapted parameters are :math:`\theta_{j+1} = \theta_j - \alpha \nabla_{\theta_j} L(\theta_j; support)`, with the
    mean cross-entropy L (Finn et al. 2017, eq. 1): all parameters for MAML, those of the head for ANIL (Raghu et al.
    2020), but for those that a person has frozen. The support images pass in ``train()`` mode and the queries in
    ``eval()`` mode, so that normalisation by support moments sees the support images under the same parameters that the
    queries meet.

    The network's own parameters stay as they are. Its normalisation layers hold moments while this runs, so one network
    serves one call at a time.

    Args:
        network: The meta-trained network; left in ``eval()`` mode.
        support_images: Normalised images.
        support_labels: Their classes, 0 to k - 1.
        query_images: Normalised images.
        algorithm: Which parameters adapt.
        learning_rate: Inner learning rate α.
        steps: Number of inner steps, at least 0.
    """
    # Callers may have gradients switched off, or be in inference mode; the inner loop needs them.
    adapt = _adapt_head if algorithm == "anil" else _adapt_all
    try:
        with torch.inference_mode(False), torch.enable_grad():
            return adapt(network, support_images, support_labels, query_images, learning_rate, steps)
    finally:
        forget_moments(network)  # with the graph that they hold


def gradient_descent(
    logits: Callable[[Parameters], Tensor],
    labels: Int64[Tensor, " s"],
    parameters: Parameters,
    *,
    learning_rate: float,
    steps: int,
) -> dict[str, Tensor]:
    """Return parameters after some steps of gradient descent on the mean cross-entropy, detached from the given ones.

    Args:
        logits: Maps parameters to the logits of the support images.
        labels: Classes of the support images.
        parameters: Where the descent starts; a parameter that no logit depends on stays as it is.
        learning_rate: Step size.
        steps: Number of steps, at least 0.
    """
    current = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    for _ in range(steps):
        loss = F.cross_entropy(logits(current), labels)
        gradients = torch.autograd.grad(loss, list(current.values()), allow_unused=True)
        current = {
            name: parameter if gradient is None else (parameter - learning_rate * gradient).detach().requires_grad_()
            for (name, parameter), gradient in zip(current.items(), gradients, strict=True)
        }
    return current


def adaptable(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that adapt: a person may have frozen others by ``requires_grad=False``."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def correct_share(logits: Float[Tensor, "q k"], labels: Int64[Tensor, " q"]) -> float:
    """Return the share of queries whose largest logit is that of their class; rows that are not finite are wrong."""
    return (chosen_classes(logits) == labels).double().mean().item()


def chosen_classes(logits: Float[Tensor, "q k"]) -> Int64[Tensor, " q"]:
    """Return the class of each query's largest logit, or -1 where the row is not finite."""
    return logits.argmax(dim=1).masked_fill(~logits.isfinite().all(dim=1), -1)


@contextmanager
def enough_memory(what: str, fewer: str, *, first_order: bool = False) -> Iterator[None]:
    """Turn a lack of the device's memory, with all done about it, into a sentence for people.

    Args:
        what: What there was too little memory for.
        fewer: The setting that says how many images that is.
        first_order: Whether leaving out second derivatives would help.

    Raises:
        InputError: There was too little.
    """
    try:
        yield
    except NoRoomError as error:
        hint = " (training.first_order=true needs less, too)" if first_order else ""
        raise InputError(
            f"Expected memory for {what}, but {error}; take a device with more, or fewer {fewer}, "
            f"training.network.channels or training.network.cells{hint}."
        ) from None


def _adapt_all(
    network: LearnableNetwork,
    support_images: Tensor,
    support_labels: Tensor,
    query_images: Tensor,
    learning_rate: float,
    steps: int,
) -> Tensor:
    network.train()
    adapted = gradient_descent(
        lambda parameters: functional_call(network, dict(parameters), (support_images,)),
        support_labels,
        adaptable(network),
        learning_rate=learning_rate,
        steps=steps,
    )
    with torch.no_grad():
        if remembers_moments(network):
            functional_call(network, adapted, (support_images,))
        network.eval()
        return functional_call(network, adapted, (query_images,))


def _adapt_head(
    network: LearnableNetwork,
    support_images: Tensor,
    support_labels: Tensor,
    query_images: Tensor,
    learning_rate: float,
    steps: int,
) -> Tensor:
    with torch.no_grad():
        network.train()
        support_features = network.features(support_images)
        network.eval()
        query_features = network.features(query_images)
    head: nn.Module = network.head
    adapted = gradient_descent(
        lambda parameters: functional_call(head, dict(parameters), (support_features,)),
        support_labels,
        adaptable(head),
        learning_rate=learning_rate,
        steps=steps,
    )
    with torch.no_grad():
        return functional_call(head, adapted, (query_features,))


def remembers_moments(network: nn.Module) -> bool:
    """Return whether some layer normalises queries by the moments of the support images."""
    return any(getattr(module, "remember", False) for module in network.modules())


def mixes_queries(network: nn.Module) -> bool:
    """Return whether some layer normalises queries by their own moments, so that they help each other."""
    return any(
        getattr(module, "remember", None) is False
        or (isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None)
        for module in network.modules()
    )
