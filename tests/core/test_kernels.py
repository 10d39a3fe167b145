"""Kernels against their definitions in float64, then their properties.

Axes: n images · t tasks · q, s query and support images of one task · p parameters of a linear model.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from metantk_core.kernels import (
    adaptation,
    batch,
    eigenvalues,
    empirical_ntk,
    last_layer_kernel,
    meta_ntk,
    split,
    tangent,
    tangent_and_last_layer_kernel,
)
from metantk_core.kernels import parameters as pieces
from metantk_core.kernels.tangent import kernels_by_vmap

DOUBLE = torch.float64


class TinyNetwork(nn.Module):
    """A strided, a depthwise dilated and a 1×1 convolution, group normalisation, pooling, a head; an unused layer."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = DOUBLE) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1),
            nn.GroupNorm(2, 4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.Conv2d(4, 6, 1, bias=False),
            nn.GroupNorm(3, 6),
            nn.ReLU(),
        )
        self.unused = nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(6, 3)
        self.to(dtype)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + 0.1)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def images(count: int = 7, dtype: torch.dtype = DOUBLE, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def gram_by_backward(network: TinyNetwork, x: torch.Tensor, names: set[str]) -> torch.Tensor:
    """The definition: one ``backward`` an image of the summed logits, the inner products of what it leaves."""
    rows = []
    for image in x:
        network.zero_grad()
        network(image[None]).sum().backward()
        rows.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if p.grad is None else p.grad.clone()).flatten()
                    for name, p in network.named_parameters()
                    if name in names
                ]
            )
        )
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


WEIGHTS = {"body.0.weight", "body.3.weight", "body.5.weight", "unused.weight", "head.weight"}
BIASES = {"body.0.bias", "body.3.bias", "unused.bias", "head.bias"}


@pytest.mark.parametrize(("choice", "names"), [("weights", WEIGHTS), ("weights+biases", WEIGHTS | BIASES)])
def test_ntk_is_the_gram_matrix_of_gradients_of_the_summed_logits(choice, names):
    network, x = TinyNetwork(), images()
    kernels = tangent_and_last_layer_kernel(network, x, parameters=choice)
    torch.testing.assert_close(kernels.ntk, gram_by_backward(network, x, names), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        kernels.nngp, gram_by_backward(network, x, {n for n in names if n.startswith("head.")}), rtol=1e-12, atol=1e-12
    )
    torch.testing.assert_close(kernels.outputs, network(x).sum(1).detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(empirical_ntk(network, x, parameters=choice), kernels.ntk, rtol=0, atol=0)


@pytest.mark.parametrize("choice", ["weights", "weights+biases"])
def test_last_layer_kernel_from_features_is_the_one_from_gradients(choice):
    network, x = TinyNetwork(), images()
    expected = tangent_and_last_layer_kernel(network, x, parameters=choice).nngp
    torch.testing.assert_close(
        last_layer_kernel(network, x, parameters=choice, images_at_once=3), expected, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("images_at_once", [1, 3, 7, 100])
def test_kernel_does_not_depend_on_how_memory_is_bounded(images_at_once, monkeypatch):
    network, x = TinyNetwork(), images()
    whole = tangent_and_last_layer_kernel(network, x)
    monkeypatch.setattr(tangent, "GRADIENT_BYTES", 7 * 8 * 40)  # 40 of the 172 numbers of an image at a time
    monkeypatch.setattr(pieces, "_COLUMNS", 5)
    parts = kernels_by_vmap(network, x, images_at_once=images_at_once)
    torch.testing.assert_close(parts.ntk, whole.ntk, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.nngp, whole.nngp, rtol=1e-12, atol=1e-12)


def test_groups_of_parameters_stay_within_the_bound_and_lose_none():
    sizes = [10, 20, 30, 1, 200, 5, 5]
    chosen = {str(i): torch.zeros(size, dtype=torch.float32) for i, size in enumerate(sizes)}
    groups = pieces.groups_within(1000, chosen, 5)
    assert [name for group in groups for name in group] == list(chosen)
    for group in groups:
        assert len(group) == 1 or sum(5 * 4 * chosen[name].numel() for name in group) <= 1000
    assert len(groups) == 4


def test_float32_network_gives_a_float64_kernel_close_to_the_exact_one():
    exact = empirical_ntk(TinyNetwork(), images())
    single = empirical_ntk(TinyNetwork(dtype=torch.float32), images(dtype=torch.float32))
    assert single.dtype == torch.float64
    error = (single - exact).abs().max() / exact.abs().max()
    assert 0 < error < 1e-5


def test_pass_leaves_the_network_as_it_was():
    network, x = TinyNetwork(), images()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    tangent_and_last_layer_kernel(network, x)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None
        assert parameter.requires_grad


def test_network_without_signal_has_a_zero_kernel():
    network, x = TinyNetwork(), images()
    with torch.no_grad():
        for parameter in network.body.get_submodule("6").parameters():
            parameter.zero_()
    kernels = tangent_and_last_layer_kernel(network, x)
    assert torch.equal(kernels.ntk, torch.zeros(7, 7, dtype=DOUBLE))
    assert kernels.nngp is not None
    assert torch.equal(kernels.nngp, torch.zeros(7, 7, dtype=DOUBLE))


def test_rest_of_the_ntk_beside_the_last_layer_is_positive_semidefinite():
    kernels = tangent_and_last_layer_kernel(TinyNetwork(), images())
    assert kernels.nngp is not None
    rest = eigenvalues(kernels.ntk - kernels.nngp)
    assert rest[0] > -1e-12 * rest[-1]
    assert rest[-1] > 0


def test_kernel_follows_a_permutation_of_images():
    network, x = TinyNetwork(), images()
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    kernel, permuted = empirical_ntk(network, x), empirical_ntk(network, x[order])
    torch.testing.assert_close(permuted, kernel[order][:, order], rtol=1e-12, atol=1e-12)


def test_blocks_are_in_the_order_of_the_batch():
    tasks, queries, supports = 3, 2, 4
    parts = [
        [torch.full((count, 1, 1, 1), float(number + 10 * task)) for task in range(tasks)]
        for number, count in ((1, queries), (2, supports))
    ]
    values = batch(parts[0], parts[1]).flatten().double()
    blocks = split(torch.outer(values, values), tasks=tasks, queries=queries, supports=supports)
    torch.testing.assert_close(blocks.full, torch.outer(values, values))
    query_support, support_support = blocks.within_task
    for task in range(tasks):
        q, s = 1.0 + 10 * task, 2.0 + 10 * task
        assert torch.equal(query_support[task], torch.full((queries, supports), q * s, dtype=DOUBLE))
        assert torch.equal(support_support[task], torch.full((supports, supports), s * s, dtype=DOUBLE))


def test_kernel_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"3 tasks × \(2 query \+ 4 support\) = 18 images, got 17"):
        split(torch.eye(17, dtype=DOUBLE), tasks=3, queries=2, supports=4)


# MetaNTK: a linear model f(x) = J(x)·θ whose adaptation is carried out on its parameters.


class LinearTasks:
    """Tasks of a model that is linear in its p parameters, of which the last ``head`` ones are its last layer."""

    def __init__(self, seed: int = 0, tasks: int = 3, queries: int = 4, supports: int = 3, p: int = 40, head: int = 12):
        rng = np.random.default_rng(seed)
        self.tasks, self.queries, self.supports, self.p = tasks, queries, supports, p
        self.query = torch.from_numpy(rng.normal(size=(tasks, queries, p)) / math.sqrt(p))
        self.support = torch.from_numpy(rng.normal(size=(tasks, supports, p)) / math.sqrt(p))
        self.is_head = torch.arange(p) >= p - head

    def kernel(self, mask: torch.Tensor | None = None):
        jacobian = torch.cat([self.query.flatten(0, 1), self.support.flatten(0, 1)])
        jacobian = jacobian if mask is None else jacobian * mask
        return split(jacobian @ jacobian.T, tasks=self.tasks, queries=self.queries, supports=self.supports)

    def inner(self, algorithm: str):
        return self.kernel() if algorithm == "maml" else self.kernel(self.is_head)

    def adapts(self, algorithm: str) -> torch.Tensor:
        return torch.ones(self.p, dtype=DOUBLE) if algorithm == "maml" else self.is_head.double()


def gram_of_derivatives(tasks: LinearTasks, predict) -> torch.Tensor:
    """Gram matrix of the derivatives, by the initial parameters, of all adapted query predictions, by autograd."""

    def all_predictions(theta: torch.Tensor) -> torch.Tensor:
        return torch.cat([predict(theta, tasks.query[i], tasks.support[i]) for i in range(tasks.tasks)])

    theta = torch.from_numpy(np.random.default_rng(5).normal(size=tasks.p))
    jacobian = torch.autograd.functional.jacobian(all_predictions, theta)
    assert isinstance(jacobian, torch.Tensor)
    return jacobian @ jacobian.T


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("time", [0.0, 0.3, 2.0, 50.0])
def test_metantk_is_the_gram_matrix_of_derivatives_of_predictions_after_gradient_flow(algorithm, time):
    tasks = LinearTasks()
    adapts, targets = tasks.adapts(algorithm), torch.tensor([0.3, -1.0, 2.0], dtype=DOUBLE)

    def predict(theta, query, support):
        # dθ/dτ = -M Jᵀ(Jθ - y), as one exponential of the affine flow on (θ, 1).
        flow = torch.zeros(tasks.p + 1, tasks.p + 1, dtype=DOUBLE)
        flow[:-1, :-1] = -adapts[:, None] * (support.T @ support)
        flow[:-1, -1] = adapts * (support.T @ targets)
        end = torch.linalg.matrix_exp(time * flow) @ torch.cat([theta, torch.ones(1, dtype=DOUBLE)])
        return query @ end[:-1]

    kernel = meta_ntk(tasks.kernel(), tasks.inner(algorithm), time=time, ridge=0.0)
    torch.testing.assert_close(kernel, gram_of_derivatives(tasks, predict), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
def test_metantk_is_what_many_small_gradient_steps_approach(algorithm):
    tasks, adapts, time = LinearTasks(p=20, head=8), None, 1.5
    adapts = tasks.adapts(algorithm)

    def after(steps: int) -> torch.Tensor:
        def predict(theta, query, support):
            for _ in range(steps):
                (gradient,) = torch.autograd.grad(((support @ theta) ** 2).sum() / 2, theta, create_graph=True)
                theta = theta - time / steps * adapts * gradient
            return query @ theta

        return gram_of_derivatives(tasks, predict)

    kernel = meta_ntk(tasks.kernel(), tasks.inner(algorithm), time=time, ridge=0.0)
    coarse, fine = ((after(steps) - kernel).abs().max().item() for steps in (50, 200))
    assert fine < 0.01
    assert 3 < coarse / fine < 5  # first order in the step: it converges to this kernel, not to one nearby


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("ridge", [1e-3, 0.7])
def test_metantk_at_infinite_time_is_that_of_the_ridge_solution(algorithm, ridge):
    tasks = LinearTasks()
    adapts = tasks.adapts(algorithm)

    def predict(theta, query, support):
        # argmin over the change d of the adapted parameters: |J(θ + d) - y|² + λ|d|²; y drops out of derivatives by θ.
        reduced = support * adapts
        change = torch.linalg.solve(
            reduced.T @ reduced + ridge * torch.eye(tasks.p, dtype=DOUBLE), -reduced.T @ (support @ theta)
        )
        return query @ (theta + adapts * change)

    kernel = meta_ntk(tasks.kernel(), tasks.inner(algorithm), time=math.inf, ridge=ridge)
    torch.testing.assert_close(kernel, gram_of_derivatives(tasks, predict), rtol=1e-9, atol=1e-9)


def test_without_inner_time_the_metantk_is_the_query_block_of_the_ntk():
    kernel = LinearTasks().kernel()
    torch.testing.assert_close(meta_ntk(kernel, kernel, time=0.0, ridge=1e-3), kernel.query_query, rtol=0, atol=1e-15)


def test_long_inner_time_approaches_infinite_time():
    kernel = LinearTasks().kernel()
    limit = meta_ntk(kernel, kernel, time=math.inf, ridge=1e-3)
    distances = [(meta_ntk(kernel, kernel, time=t, ridge=1e-3) - limit).abs().max().item() for t in (1.0, 10.0, 1e3)]
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-12


def test_finite_time_with_a_ridge_is_the_published_formula():
    tasks = LinearTasks()
    kernel = tasks.kernel()
    maps = adaptation(kernel, time=1.3, ridge=0.2)
    for task in range(tasks.tasks):
        inner = tasks.support[task] @ tasks.support[task].T
        identity = torch.eye(tasks.supports, dtype=DOUBLE)
        expected = (
            (tasks.query[task] @ tasks.support[task].T)
            @ torch.linalg.inv(inner + 0.2 * identity)
            @ (identity - torch.linalg.matrix_exp(-1.3 * inner))
        )
        torch.testing.assert_close(maps[task], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("time", [0.5, math.inf])
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
def test_zero_eigenvalue_of_the_support_kernel_is_not_adapted(time, ridge):
    # Two equal support images: what is learnt from the pair is what is learnt from one image that counts twice.
    tasks = LinearTasks(supports=3)
    tasks.support[:, 2] = tasks.support[:, 1]
    once = LinearTasks(supports=2)
    once.support = torch.stack([tasks.support[:, 0], math.sqrt(2) * tasks.support[:, 1]], dim=1)
    assert eigenvalues(tasks.kernel().within_task[1][0])[0].abs() < 1e-12
    kernel = meta_ntk(tasks.kernel(), tasks.kernel(), time=time, ridge=ridge)
    torch.testing.assert_close(
        kernel, meta_ntk(once.kernel(), once.kernel(), time=time, ridge=ridge), rtol=1e-9, atol=1e-9
    )


def test_rounding_of_a_zero_eigenvalue_is_not_amplified_if_the_precision_is_told():
    tasks = LinearTasks(supports=3)
    tasks.support[:, 2] = tasks.support[:, 1]
    exact = meta_ntk(tasks.kernel(), tasks.kernel(), time=math.inf, ridge=0.0)
    jacobian = torch.cat([tasks.query.flatten(0, 1), tasks.support.flatten(0, 1)])
    noise = torch.randn(jacobian.shape, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    noisy = jacobian * (1 + 1e-6 * noise)  # what float32 leaves of gradients
    rounded = split(noisy @ noisy.T, tasks=3, queries=4, supports=3)
    told = meta_ntk(rounded, rounded, time=math.inf, ridge=0.0, precision=torch.finfo(torch.float32).eps)
    untold = meta_ntk(rounded, rounded, time=math.inf, ridge=0.0)
    assert (told - exact).abs().max() < 1e-5
    assert (untold - exact).abs().max() > 1e-2


@pytest.mark.parametrize("time", [0.5, math.inf])
def test_slightly_negative_eigenvalues_are_rounding_too(time):
    tasks = LinearTasks(supports=2)
    kernel = tasks.kernel()
    shifted = split(kernel.full - 1e-18 * torch.eye(18, dtype=DOUBLE), tasks=3, queries=4, supports=2)
    zero = split(
        torch.zeros(18, 18, dtype=DOUBLE) - 1e-18 * torch.eye(18, dtype=DOUBLE), tasks=3, queries=4, supports=2
    )
    assert adaptation(shifted, time=time, ridge=0.0).isfinite().all()
    assert torch.equal(adaptation(zero, time=time, ridge=0.0), torch.zeros(3, 4, 2, dtype=DOUBLE))


def test_kernel_that_is_not_finite_gives_a_metantk_that_is_not_finite():
    broken = LinearTasks().kernel().full.clone()
    broken[-1, -1] = math.inf
    kernel = split(broken, tasks=3, queries=4, supports=3)
    assert not meta_ntk(kernel, kernel, time=math.inf, ridge=1e-3).isfinite().any()


@pytest.mark.parametrize("arguments", [{"time": -1.0, "ridge": 0.0}, {"time": 1.0, "ridge": -1e-3}])
def test_negative_time_and_ridge_are_refused(arguments):
    with pytest.raises(ValueError, match="at least 0"):
        adaptation(LinearTasks().kernel(), **arguments)


def test_metantk_follows_permutations_of_tasks_and_of_images_within_tasks():
    tasks, permuted = LinearTasks(), LinearTasks()
    order, images_order, support_order = [2, 0, 1], [3, 1, 0, 2], [1, 2, 0]
    permuted.query = tasks.query[order][:, images_order]
    permuted.support = tasks.support[order][:, support_order]
    kernel = (
        meta_ntk(tasks.kernel(), tasks.inner("anil"), time=2.0, ridge=0.1).unflatten(0, (3, 4)).unflatten(2, (3, 4))
    )
    expected = kernel[order][:, images_order][:, :, order][:, :, :, images_order].flatten(2).flatten(0, 1)
    actual = meta_ntk(permuted.kernel(), permuted.inner("anil"), time=2.0, ridge=0.1)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    tasks=st.integers(1, 4),
    queries=st.integers(1, 5),
    supports=st.integers(1, 5),
    p=st.integers(1, 30),
    time=st.one_of(st.floats(0, 1e6), st.just(math.inf)),
    ridge=st.one_of(st.just(0.0), st.floats(1e-6, 10)),
    algorithm=st.sampled_from(["maml", "anil"]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_metantk_is_symmetric_positive_semidefinite_and_finite(
    seed, tasks, queries, supports, p, time, ridge, algorithm, scale
):
    linear = LinearTasks(seed, tasks, queries, supports, p, head=(p + 1) // 2)
    linear.query, linear.support = linear.query * scale, linear.support * scale
    inner = linear.inner(algorithm)
    kernel = meta_ntk(linear.kernel(), inner, time=time, ridge=ridge)
    assert kernel.isfinite().all()
    assert torch.equal(kernel, kernel.T)
    # Rounding is relative to the terms of A Θ Aᵀ, and A can be large where the inner kernel is ill-conditioned.
    size = 1 + adaptation(inner, time=time, ridge=ridge).abs().sum(dim=2).max().item()
    largest = eigenvalues(linear.kernel().full)[-1].item()
    assert eigenvalues(kernel)[0] >= -1e-12 * size**2 * largest
