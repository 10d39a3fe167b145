r"""Scores of one loss backward: a network and labelled episodes enter, sums over its weights or channels leave.

The loss L is the mean cross-entropy of all images of the batch, with the labels of their episodes. It is taken episode
by episode: the mean of the episodes' gradients is the gradient of L, and their spread is what ZiCo asks for, so one
backward of the batch serves six scores. Two more have passes of their own: GraSP differentiates the gradients once
more, GradSign takes them image by image. W are the weights of convolutions and linear layers.

Axes: n images of one episode · c h w one image · t episodes · m channels of one layer's output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.kernels import Convolution, parameter_names, weight_gradient


@dataclass(frozen=True)
class LossGradients:
    r"""What the backward of a batch leaves.

    Attributes:
        weights: The weights W by name.
        by_task: Gradients of each episode's loss, stacked along a first axis t; float64, by the same names.
        saliencies: By layer, the mean over all images of :math:`(\sum_{hw} a \odot \partial L / \partial a)^2`,
            where a is the layer's output.
        loss: Mean loss of each episode.
    """

    weights: Mapping[str, Tensor]
    by_task: Mapping[str, Tensor]
    saliencies: Mapping[str, Float64[Tensor, " m"]]
    loss: Float64[Tensor, " t"]

    def fan_in(self, layer: str) -> int:
        """Return the number of weights behind one channel of a layer's output, a key of ``saliencies``."""
        weight = self.weights[f"{layer}.weight" if layer else "weight"]
        return weight.numel() // len(self.saliencies[layer])

    def finite(self) -> bool:
        """Return whether all losses and gradients are finite."""
        return bool(self.loss.isfinite().all()) and all(bool(g.isfinite().all()) for g in self.by_task.values())

    def zero(self) -> bool:
        """Return whether the loss depends on no weight."""
        return not any(bool(gradient.any()) for gradient in self.by_task.values())


def loss_gradients(
    network: nn.Module,
    images: Sequence[Float[Tensor, "n c h w"]],
    labels: Sequence[Int64[Tensor, " n"]],
    at_once: int | None = None,
) -> LossGradients:
    """Return the gradients of each episode's loss by the weights and by the outputs of their layers.

    Args:
        network: Maps images to logits; it is left as it is, gradients included.
        images: One batch per episode, all of one size, on the network's device, in its precision.
        labels: Their labels, on the same device.
        at_once: Images in one pass; all of an episode if not given.
    """
    outputs: list[tuple[str, Tensor]] = []

    ours = getattr(network, "images_first", False)  # never overwrites what a layer gave it

    def keep(layer: str, module: nn.Module, inputs: tuple, output: Any) -> Tensor | None:
        outputs.append((layer, output))
        return None if ours else output.clone()

    saliencies: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    stacks: list[list[Tensor]] = []
    hooks = []
    try:
        with torch.enable_grad(), exact_arithmetic(), _leaves(network) as leaves:
            names, weights = list(leaves), list(leaves.values())
            # Some weights are no layer's: embeddings of positions, projections that attention keeps for itself.
            for layer, kind in ((name.rpartition(".")[0], name.rpartition(".")[2]) for name in names):
                module = network.get_submodule(layer)
                if kind == "weight" and isinstance(module, nn.modules.conv._ConvNd | nn.Linear):
                    hooks.append(module.register_forward_hook(partial(keep, layer)))
            for batch, classes in zip(images, labels, strict=True):
                stack: list[Tensor] = []
                for part, share_of_batch, loss in _losses(network, batch, classes, at_once, outputs.clear):
                    activations = [output for _, output in outputs]
                    gradients = torch.autograd.grad(loss, [*weights, *activations], materialize_grads=True)
                    wide = [gradient.double() for gradient in gradients[: len(weights)]]
                    stack = [known + more for known, more in zip(stack, wide, strict=True)] if stack else wide
                    total = loss.detach().double()
                    if part:
                        losses[-1] = losses[-1] + total
                    else:
                        losses.append(total)
                    for (layer, output), gradient in zip(outputs, gradients[len(weights) :], strict=True):
                        # L is the mean over episodes, this loss is that of one.
                        product = output.detach().double() * gradient.double() / len(images)
                        if isinstance(network.get_submodule(layer), nn.Linear):
                            product = product.movedim(-1, 1)  # positions lie between images and features
                        product = product.reshape(*product.shape[:2], -1).sum(dim=2)
                        share = product.square().mean(dim=0) * share_of_batch / len(images)
                        saliencies[layer] = saliencies[layer] + share if layer in saliencies else share
                stacks.append(stack)
    finally:
        for hook in hooks:
            hook.remove()
    return LossGradients(
        weights={name: weight.detach() for name, weight in zip(names, weights, strict=True)},
        by_task={name: torch.stack(stack) for name, stack in zip(names, zip(*stacks, strict=True), strict=True)},
        saliencies=saliencies,
        loss=torch.stack(losses),
    )


class EpisodeLosses:
    """The losses of a batch's episodes in the forward pass of the kernel: what :func:`loss_gradients` gives, sooner.

    An onlooker of that pass (:class:`metantk_core.kernels.Onlooker`). Numbers differ by rounding alone, and a second
    forward pass and torch's slower layers are saved. Only layers are seen: see ``whole``.

    Args:
        network: Does not mix images.
        rows: For each episode, the places of its images in the batch.
        labels: Their labels.

    Attributes:
        whole: Whether all gradients were seen, so that these are those of :func:`loss_gradients`.
    """

    def __init__(
        self, network: nn.Module, rows: Sequence[Int64[Tensor, " n"]], labels: Sequence[Int64[Tensor, " n"]]
    ) -> None:
        self._network = network
        self._rows, self._labels = rows, labels
        self._loss = torch.zeros(len(rows), dtype=torch.float64)
        self._by_task: dict[str, Tensor] = {}
        self._saliencies: dict[str, Tensor] = {}
        self.whole = False

    def direction(self, logits: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
        """Return the gradient of each episode's loss by the logits of its images."""
        leaf = logits.detach().requires_grad_()
        losses = torch.stack(
            [F.cross_entropy(leaf[rows], labels) for rows, labels in zip(self._rows, self._labels, strict=True)]
        )
        self._loss = losses.detach().double()
        return torch.autograd.grad(losses.sum(), leaf)[0]

    def see(self, name: str, x: Tensor, output: Tensor, g: Tensor, settings: Convolution | None) -> None:
        """Take up the gradients of a layer's weight, one an episode, and how much its channels matter."""
        self._by_task[name] = torch.stack(
            [weight_gradient(x[rows], g[rows], settings).double() for rows in self._rows]
        ).view(len(self._rows), *self._network.get_parameter(name).shape)
        # L is the mean over episodes, these are gradients of the loss of each.
        product = (output * g).reshape(*output.shape[:2], -1).sum(dim=2, dtype=torch.float64) / len(self._rows)
        shares = torch.stack([product[rows].square().mean(dim=0) for rows in self._rows])
        self._saliencies[name.removesuffix(".weight")] = shares.mean(dim=0)

    def miss(self, names: Set[str]) -> None:
        """Take note of parameters whose gradients were not seen whole."""
        self.whole = not names

    def gradients(self) -> LossGradients:
        """Return what was seen; weights that no logit depends on have gradients of zero."""
        weights = {
            name: self._network.get_parameter(name).detach() for name in parameter_names(self._network, "weights")
        }
        return LossGradients(
            weights=weights,
            by_task={
                name: self._by_task[name]
                if name in self._by_task
                else weight.new_zeros(len(self._rows), *weight.shape, dtype=torch.float64)
                for name, weight in weights.items()
            },
            saliencies={
                name: self._saliencies[name]
                for name in (of.removesuffix(".weight") for of in weights)
                if name in self._saliencies
            },
            loss=self._loss,
        )


def _losses(
    network: nn.Module,
    batch: Float[Tensor, "_ _ _ _"],
    classes: Int64[Tensor, " _"],
    at_once: int | None,
    before_pass: Callable[[], object] = lambda: None,
) -> Iterator[tuple[int, float, Tensor]]:
    """Yield the parts of an episode's mean loss that few images each contribute, with number and share of the images.

    The sum of the parts is the loss; one part of all images is the loss as it would be without parts, bit for bit.
    """
    size = at_once or len(batch)
    for number, (part, labels) in enumerate(zip(batch.split(size), classes.split(size), strict=True)):
        before_pass()
        share = len(part) / len(batch)
        yield number, share, F.cross_entropy(network(part), labels) * share


@contextmanager
def _leaves(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Let the weights require gradients, frozen ones too, as long as the context lasts; they are its value."""
    leaves: dict[str, Tensor] = {name: network.get_parameter(name) for name in parameter_names(network, "weights")}
    frozen = [leaf for leaf in leaves.values() if not leaf.requires_grad]
    try:
        for leaf in frozen:
            leaf.requires_grad_()
        yield leaves
    finally:
        for leaf in frozen:
            leaf.requires_grad_(False)


def grad_norm(gradients: LossGradients) -> float:
    r"""Return :math:`\sum_{\text{layers}} \|\partial L / \partial W\|_2`.

    Source: Abdelfattah et al., ICLR 2021.
    """
    return sum(float(gradient.mean(dim=0).norm()) for gradient in gradients.by_task.values())


def snip(gradients: LossGradients) -> float:
    r"""Return :math:`\sum |\partial L / \partial W \odot W|`: how much the loss would change with single weights gone.

    Source: Lee et al., ICLR 2019.
    """
    return sum(float(product.abs().sum()) for product in _products(gradients))


def plain(gradients: LossGradients) -> float:
    r"""Return :math:`\sum \partial L / \partial W \odot W`.

    A layer that a normalisation follows contributes nothing but rounding, for scaling its weights changes no output.

    Source: Abdelfattah et al., ICLR 2021.
    """
    return sum(float(product.sum()) for product in _products(gradients))


def _products(gradients: LossGradients) -> list[Tensor]:
    return [gradient.mean(dim=0) * gradients.weights[name].double() for name, gradient in gradients.by_task.items()]


def fisher(gradients: LossGradients) -> float:
    r"""Return :math:`\sum_{\text{channels}} \tfrac12 \, \mathrm{mean}_n (\sum_{hw} a \odot \partial L / \partial a)^2`.

    Every channel counts once, as Theis et al. and Turner et al. define it. The activations a are the outputs of
    convolutions and linear layers, before their normalisation.

    Source: Theis et al. 2018; Turner et al., ICLR 2020; activations as in Abdelfattah et al., ICLR 2021.
    """
    return 0.5 * sum(float(saliency.sum()) for saliency in gradients.saliencies.values())


def fisher_fan_in(gradients: LossGradients) -> float:
    r"""Return the sum of :func:`fisher` with every channel counted once for each of its weights.

    .. math:: \sum_{\text{layers}} \text{fan-in} \sum_{\text{channels}}
        \tfrac12 \, \mathrm{mean}_n \Big(\sum_{hw} a \odot \frac{\partial L}{\partial a}\Big)^2,

    where fan-in is the number of weights behind one output channel: input channels over groups, times height and width
    of the kernel. That is what the published code computes: it copies each channel's value to all of the channel's
    weights, so that the value has the shape of the layer's weights, before it sums over them.

    Source: Abdelfattah et al., ICLR 2021, as their code (zero-cost-nas) computes it.
    """
    return 0.5 * sum(
        gradients.fan_in(layer) * float(saliency.sum()) for layer, saliency in gradients.saliencies.items()
    )


def zico(gradients: LossGradients) -> float:
    r"""Return :math:`\sum_{\text{layers}} \log \sum_W \mathrm{mean}_t |g_t| / \mathrm{std}_t(g_t)`.

    One gradient per episode, and the standard deviation of the population, as published. Weights whose gradient is
    the same in all episodes are left out, and so are layers without others.

    Source: Li et al., ICLR 2023 (ZiCo).

    Args:
        gradients: Of at least two episodes.

    Returns:
        Minus infinity if all layers are left out.
    """
    terms = [float((size / deviation).sum().log()) for size, deviation, _ in _spreads(gradients)]
    return sum(terms) if terms else -torch.inf


def zico_error(gradients: LossGradients) -> float:
    r"""Return about how much rounding in float32 moves :func:`zico`, to first order.

    A gradient is known to :math:`\delta = 2^{-24} \max |g|` of its layer, so the term of a weight is known to
    :math:`\delta / \mathrm{std}` of itself; weights whose gradient hardly differs from episode to episode have the
    largest terms and the least known ones. On 18 draws of cells on images of 8 x 8 pixels and 8 on 32 x 32, the error
    against float64 was as a rule less than this, and where it mattered (1 % of the score) at most 6 times this.

    Args:
        gradients: Of at least two episodes.
    """
    total = 0.0
    for size, deviation, largest in _spreads(gradients):
        ratios = size / deviation
        total += float((ratios / deviation).sum() / ratios.sum()) * 2**-24 * largest
    return total


def _spreads(gradients: LossGradients) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield, of each layer, mean size and deviation of the gradients that vary, and the largest of all."""
    for gradient in gradients.by_task.values():
        # From the first one: what is the same in all episodes has a deviation of exactly 0.
        apart = gradient - gradient[0]
        deviation = (apart - apart.mean(dim=0)).square_().mean(dim=0).sqrt_()
        varies = deviation > 0
        sizes = gradient.abs()
        if bool(varies.any()):
            yield sizes.mean(dim=0)[varies], deviation[varies], float(sizes.max())


def grasp(
    network: nn.Module,
    images: Sequence[Float[Tensor, "n c h w"]],
    labels: Sequence[Int64[Tensor, " n"]],
    gradients: LossGradients,
    at_once: int | None = None,
) -> float:
    r"""Return :math:`-\theta^\top H g = -\sum W \odot (H g)`, with g the gradient and H the Hessian of the loss L by W.

    Half of what the squared length of the gradient would grow by, to first order, if all weights were taken away: GraSP
    asks of each weight whether the flow of gradients needs it. Weights that a normalisation follows contribute the
    squared length of their gradient, since scaling them changes no output, so that their :math:`H \theta` is
    :math:`-g`. The temperature of the softmax is 1 and the sign is as in the score's source; the pruning method divides
    logits by 200.

    The Hessian is that of the mean loss of all episodes, times the gradient of the same loss: one backward that can be
    differentiated, and the backward of that.

    Source: Wang, Zhang, Grosse, ICLR 2020 (GraSP); as a score: Abdelfattah et al., ICLR 2021.

    Args:
        network: Maps images to logits; twice differentiable by autograd. It is left as it is.
        images: As for :func:`loss_gradients`.
        labels: As for :func:`loss_gradients`.
        gradients: What :func:`loss_gradients` gives for the same network, images and labels.
        at_once: As for :func:`loss_gradients`.

    Returns:
        With sign; not finite if some second derivative isn't.
    """
    means = [gradient.mean(dim=0) for gradient in gradients.by_task.values()]
    total = 0.0
    with torch.enable_grad(), exact_arithmetic(), _leaves(network) as leaves:
        weights = list(leaves.values())
        for batch, classes in zip(images, labels, strict=True):
            for _, _, loss in _losses(network, batch, classes, at_once):
                slopes = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
                length = sum((slope * mean.to(slope)).sum() for slope, mean in zip(slopes, means, strict=True))
                if isinstance(length, Tensor) and length.requires_grad:  # the loss may be linear in the weights
                    bent = torch.autograd.grad(length, weights, materialize_grads=True)
                    total -= sum(
                        float((weight.detach().double() * product.double()).sum())
                        for weight, product in zip(weights, bent, strict=True)
                    )
    return total / len(images)


def gradsign(
    network: nn.Module, images: Sequence[Float[Tensor, "n c h w"]], labels: Sequence[Int64[Tensor, " n"]]
) -> float:
    r"""Return :math:`\sum_W \left| \sum_i \mathrm{sign}(\partial \ell_i / \partial W) \right|`.

    :math:`\ell_i` is the cross-entropy of image i alone. Weights that most images want to move the same way count
    most. Each image is a batch of its own, as published, so that batch normalisation would take the moments of that
    image. The sum over weights is the paper's; its authors' scripts take the sum or the mean.

    Source: Zhang and Jia, ICLR 2022, algorithm 1.

    Args:
        network: Maps images to logits; it is left as it is.
        images: One batch per episode, on the network's device, in its precision.
        labels: Their labels, on the same device.

    Returns:
        At most the number of images times that of weights; NaN if some gradient is.
    """
    with torch.enable_grad(), exact_arithmetic(), _leaves(network) as leaves:
        weights = list(leaves.values())
        totals = [torch.zeros_like(weight.detach()) for weight in weights]  # whole numbers that float32 all has
        for image, label in zip(torch.cat(list(images)), torch.cat(list(labels)), strict=True):
            loss = F.cross_entropy(network(image[None]), label[None])
            for total, gradient in zip(totals, torch.autograd.grad(loss, weights, materialize_grads=True), strict=True):
                total += torch.where(gradient.isnan(), gradient, gradient.sign())  # the sign of NaN would be 0
    return sum(float(total.double().abs().sum()) for total in totals)
