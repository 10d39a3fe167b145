r"""Wide networks against the theory: widths and seeds enter, distances between training and kernels leave.

A fully-connected ReLU network in NTK parameterisation (standard normal parameters, scales outside of the layers),

.. math:: h^1 = \sqrt{2 / d} \, W^1 x + b^1, \qquad h^{l+1} = \sqrt{2 / m} \, W^{l+1} (h^l)_+ + b^{l+1}, \qquad
          f = a \cdot (h^L)_+ / \sqrt{m},

is really meta-trained by second-order MAML (full batch, plain gradient descent, squared loss, float64) on regression
tasks of one angle, and compared with what kernels alone say that it predicts.

Axes: n images · c h w one image (an angle as its cosine and sine: 2 1 1) · m width · k networks of one width ·
t tasks · q, s query and support points of one task · tq those of all tasks.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from metantk_core.kernels import KernelBlocks, adaptation, batch, empirical_ntk, meta_ntk, split
from metantk_core.seeding import generator

INNER_RATE = 0.2
INNER_STEPS = 5
OUTER_STEPS = 100
"""Of size 1/λ_max(Φ): the training loss of wide networks ends below a millionth of where it began."""

DOUBLE = torch.float64


class WideNetwork(nn.Module):
    """The network of this module's docstring; its scales are outside of its layers, so any kernel engine takes it."""

    def __init__(self, width: int, seed: int, *, depth: int = 1) -> None:
        super().__init__()
        # Built without memory first: torch would fill the weights from its global generator.
        with torch.device("meta"):
            inputs = [2] + [width] * (depth - 1)
            self.hidden = nn.ModuleList(nn.Linear(size, width, bias=False) for size in inputs)
            self.shifts = nn.ModuleList(nn.Linear(1, width, bias=False) for _ in inputs)
            self.head = nn.Linear(width, 1, bias=False)
        self.to_empty(device="cpu").to(DOUBLE)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.normal_(generator=generator(seed, "wide network", width, depth, name))

    def features(self, images: Float64[Tensor, "n c h w"]) -> Float64[Tensor, "n m"]:
        """Return what the head sees, scaled so that its kernel stays finite as the network widens."""
        x = images.flatten(1)
        ones = torch.ones_like(x[:, :1])
        for weights, shift in zip(self.hidden, self.shifts, strict=True):
            x = torch.relu(math.sqrt(2 / x.shape[1]) * weights(x) + shift(ones))
        return x / math.sqrt(x.shape[1])

    def forward(self, images: Float64[Tensor, "n c h w"]) -> Float64[Tensor, "n 1"]:
        """Return the one output of each image."""
        return self.head(self.features(images))


def infinite_width_ntk(images: Float64[Tensor, "n c h w"], *, depth: int = 1) -> Float64[Tensor, "n n"]:
    r"""Return the NTK that :class:`WideNetwork` approaches as it widens.

    With the arc-cosine expectations of centred Gaussians u, v with covariance Σ and the angle θ between them (Cho and
    Saul 2009),

    .. math:: 2 E[u_+ v_+] = \tfrac{1}{\pi} \sqrt{\Sigma_{uu} \Sigma_{vv}} (\sin θ + (\pi - θ) \cos θ), \qquad
              2 E[1_{u > 0} 1_{v > 0}] = \tfrac{1}{\pi} (\pi - θ),

    each layer turns the covariance Σ of its inputs and their NTK Θ into those of its outputs (Jacot et al. 2018): Σ
    becomes 2 E[u₊ v₊] + 1 and Θ becomes Θ · 2 E[1 1] + Σ.

    Args:
        images: Inputs.
        depth: Number of hidden layers, at least 1.
    """
    x = images.flatten(1)
    covariance = 2 * x @ x.mT / x.shape[1] + 1
    ntk = covariance
    for layer in range(1, depth + 1):
        size = covariance.diagonal().sqrt()
        cosine = (covariance / size / size[:, None]).clamp(-1, 1)
        angle = torch.arccos(cosine)
        both_active = 1 - angle / math.pi
        second_moment = size * size[:, None] * (torch.sin(angle) / math.pi + both_active * cosine)
        last = layer == depth  # whose variance is 1/m without a shift, not 2/m with one
        covariance = second_moment / 2 if last else second_moment + 1
        ntk = ntk * (both_active / 2 if last else both_active) + covariance
    return ntk


@dataclass(frozen=True)
class Problem:
    """Regression tasks of one angle: first the tasks of meta-training, then those of meta-testing.

    Attributes:
        queries: Query images of each task.
        query_targets: What the network should say of them.
        supports: Support images of each task.
        support_targets: What it is told about them.
        training_tasks: Number of tasks to meta-train on.
    """

    queries: Float64[Tensor, "t q c h w"]
    query_targets: Float64[Tensor, "t q"]
    supports: Float64[Tensor, "t s c h w"]
    support_targets: Float64[Tensor, "t s"]
    training_tasks: int

    @property
    def images(self) -> Float64[Tensor, "n c h w"]:
        """Return all images in the order of a kernel's rows."""
        return batch(list(self.queries), list(self.supports))

    def blocks(self, kernel: Float64[Tensor, "n n"]) -> KernelBlocks:
        """Return the blocks of a kernel over :attr:`images`."""
        tasks, queries = self.query_targets.shape
        return split(kernel, tasks=tasks, queries=queries, supports=self.support_targets.shape[1])


def shifted_sines(training_tasks: int = 3, test_tasks: int = 2, queries: int = 2, supports: int = 3) -> Problem:
    """Return tasks y = sin(x + p) / 2 with a phase p of each task's own, at angles that no two tasks share."""
    tasks = training_tasks + test_tasks
    phases = torch.linspace(0, 1.5, tasks, dtype=DOUBLE)[:, None]
    at_query = torch.linspace(-3, 3, tasks * queries, dtype=DOUBLE).reshape(queries, tasks).mT
    at_support = (
        torch.linspace(-2.5, 2.5, supports, dtype=DOUBLE) + torch.linspace(-0.4, 0.4, tasks, dtype=DOUBLE)[:, None]
    )
    targets = [torch.sin(angles + phases) / 2 for angles in (at_query, at_support)]
    return Problem(on_circle(at_query), targets[0], on_circle(at_support), targets[1], training_tasks)


def on_circle(angles: Float64[Tensor, "*shape"]) -> Float64[Tensor, "*shape 2 1 1"]:
    """Return angles, a full turn being 8, as images of one pixel with two channels: cosine and sine."""
    turned = angles * (math.pi / 4)
    return torch.stack([turned.cos(), turned.sin()], dim=-1)[..., None, None]


def predicted_by_kernel(
    problem: Problem, ntk: Float64[Tensor, "n n"]
) -> tuple[Float64[Tensor, "t q"], Float64[Tensor, "tq tq"]]:
    r"""Return the meta-test predictions of kernel regression, and the MetaNTK Φ over the meta-training queries.

    .. math:: G_{test} + \Phi_{test, train} \Phi_{train, train}^{-1} (Y_{train} - G_{train}), \qquad G = S Y'.

    Args:
        problem: The tasks.
        ntk: NTK of the network over ``problem.images``.
    """
    blocks, time = problem.blocks(ntk), INNER_RATE * INNER_STEPS
    phi = meta_ntk(blocks, blocks, time=time, ridge=0.0, steps=INNER_STEPS)
    maps = adaptation(blocks, time=time, ridge=0.0, steps=INNER_STEPS)
    start = torch.einsum("tqs,ts->tq", maps, problem.support_targets)
    border = problem.training_tasks * start.shape[1]
    residual = (problem.query_targets - start).flatten()[:border]
    change = phi[border:, :border] @ torch.linalg.solve(phi[:border, :border], residual)
    return start[problem.training_tasks :] + change.view(-1, start.shape[1]), phi[:border, :border]


def meta_train(
    problem: Problem, networks: Sequence[WideNetwork], outer_rates: Float64[Tensor, " k"], steps: int = OUTER_STEPS
) -> tuple[Float64[Tensor, "k t q"], Float64[Tensor, " k"]]:
    """Meta-train networks of one width from zero output and return what they predict on the meta-test tasks.

    Zero output is had by subtracting each network's first outputs, which leaves all derivatives as they are.

    Args:
        problem: The tasks.
        networks: One or more, which stay as they are.
        outer_rates: Step size of each network's meta-training.
        steps: Number of meta-training steps.

    Returns:
        The predictions after adapting to the support points of each meta-test task, and the part of the first
        meta-training loss that is left.
    """
    first, _ = stack_module_state(list(networks))
    border = problem.training_tasks

    def output(theta: Mapping[str, Tensor], start: Mapping[str, Tensor], images: Tensor) -> Tensor:
        now, before = (functional_call(networks[0], dict(values), (images,)) for values in (theta, start))
        return (now - before).squeeze(1)

    def adapted(theta: dict[str, Tensor], start: dict[str, Tensor], query: Tensor, support: Tensor, told: Tensor):
        def error(values: dict[str, Tensor]) -> Tensor:
            return ((output(values, start, support) - told) ** 2).sum() / 2

        for _ in range(INNER_STEPS):
            theta = _descend(theta, grad(error)(theta), torch.tensor(INNER_RATE, dtype=DOUBLE))
        return output(theta, start, query)

    def predict(theta: dict[str, Tensor], start: dict[str, Tensor], tasks: slice) -> Tensor:
        over_tasks = vmap(adapted, in_dims=(None, None, 0, 0, 0))
        return over_tasks(theta, start, problem.queries[tasks], problem.supports[tasks], problem.support_targets[tasks])

    def loss(theta: dict[str, Tensor], start: dict[str, Tensor]) -> Tensor:
        training = slice(None, border)
        return ((predict(theta, start, training) - problem.query_targets[training]) ** 2).sum() / 2

    with torch.no_grad():
        start = {name: value.detach() for name, value in first.items()}
        theta = start
        descend = vmap(lambda values, zero, rate: _descend(values, grad(loss)(values, zero), rate))
        for _ in range(steps):
            theta = descend(theta, start, outer_rates)
        left = vmap(loss)(theta, start) / vmap(loss)(start, start)
        return vmap(lambda values, zero: predict(values, zero, slice(border, None)))(theta, start), left


def _descend(theta: dict[str, Tensor], gradient: dict[str, Tensor], rate: Float[Tensor, ""]) -> dict[str, Tensor]:
    return {name: value - rate * gradient[name] for name, value in theta.items()}


@dataclass(frozen=True)
class Distances:
    """How far networks of one width are from the theory: relative errors in the Euclidean or Frobenius norm.

    Attributes:
        width: Width of the hidden layer.
        to_own_kernel: Meta-trained output against the regression with the network's own kernel at initialisation.
        to_infinite_width: Meta-trained output against the regression with the kernel of infinite width.
        of_kernel: The network's kernel at initialisation against that of infinite width.
        loss_left: The part of the first meta-training loss that is left.
    """

    width: int
    to_own_kernel: tuple[float, ...]
    to_infinite_width: tuple[float, ...]
    of_kernel: tuple[float, ...]
    loss_left: tuple[float, ...]


def distances(width: int, seeds: Sequence[int], problem: Problem | None = None) -> Distances:
    """Return how far networks with one hidden layer are from the theory, one number for each seed."""
    problem = problem or shifted_sines()
    networks = [WideNetwork(width, seed) for seed in seeds]
    own = [empirical_ntk(network, problem.images) for network in networks]
    limit = infinite_width_ntk(problem.images)
    predictions, kernels = zip(*(predicted_by_kernel(problem, ntk) for ntk in own), strict=True)
    rates = torch.stack([1 / torch.linalg.eigvalsh(kernel)[-1] for kernel in kernels])
    trained, left = meta_train(problem, networks, rates)
    in_the_limit, _ = predicted_by_kernel(problem, limit)
    return Distances(
        width,
        tuple(relative_error(*pair) for pair in zip(trained, predictions, strict=True)),
        tuple(relative_error(output, in_the_limit) for output in trained),
        tuple(relative_error(ntk, limit) for ntk in own),
        tuple(left.tolist()),
    )


def kernel_distances(width: int, seeds: Sequence[int], *, depth: int) -> tuple[float, ...]:
    """Return the relative error of the kernel at initialisation against that of infinite width, one for each seed."""
    images = shifted_sines().images
    limit = infinite_width_ntk(images, depth=depth)
    return tuple(relative_error(empirical_ntk(WideNetwork(width, seed, depth=depth), images), limit) for seed in seeds)


def relative_error(actual: Float64[Tensor, "*shape"], expected: Float64[Tensor, "*shape"]) -> float:
    """Return the norm of the difference over the norm of what was expected."""
    return ((actual - expected).norm() / expected.norm()).item()
