"""The MetaNTK of real networks against its definition, its limits, and what it must not depend on.

Axes: n images · t tasks · q, s query and support images of one task · p weights.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call, jacrev

from metantk_core.candidates import SPACES, parse_genotype
from metantk_core.kernels import (
    KernelBlocks,
    adaptation,
    batch,
    eigenvalues,
    meta_ntk,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import FewShotNetwork, NetworkConfig, build, initialise
from metantk_core.scores import condition_number

DOUBLE = torch.float64
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
WAYS, QUERIES, SUPPORTS = 3, 3, 6


def few_shot_network(seed: int = 0) -> FewShotNetwork:
    network = build(
        parse_genotype("nasbench201", CELL),
        NetworkConfig(channels=2, cells=1),
        in_channels=1,
        ways=WAYS,
        variant="scoring",
    )
    initialise(network, seed, "test")
    return network.double()


def episodes(tasks: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Query ``[t q 1 8 8]`` and support images ``[t s 1 8 8]``, each class by class."""
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tasks, QUERIES, 1, 8, 8, generator=draw, dtype=DOUBLE),
        torch.randn(tasks, SUPPORTS, 1, 8, 8, generator=draw, dtype=DOUBLE),
    )


def kernels(
    network: FewShotNetwork, queries: torch.Tensor, supports: torch.Tensor
) -> tuple[KernelBlocks, KernelBlocks]:
    """NTK and last-layer kernel of a network."""
    found = tangent_and_last_layer_kernel(network, batch(list(queries), list(supports)))
    assert found.nngp is not None
    ntk, nngp = (
        split(kernel, tasks=len(queries), queries=queries.shape[1], supports=supports.shape[1])
        for kernel in (found.ntk, found.nngp)
    )
    return ntk, nngp


class Linearised:
    """A network as a model linear in its weights, f(x; θ) = ∇s(x)·θ, by reverse-mode Jacobians of the whole network."""

    def __init__(self, network: FewShotNetwork) -> None:
        self.network = network
        self.weights = {
            name: value.detach()
            for name, value in network.named_parameters()
            if value.dim() > 1  # not biases, not normalisation
        }
        self.is_head = torch.cat(
            [
                torch.full((value.numel(),), float(name.startswith("head.")), dtype=DOUBLE)
                for name, value in self.weights.items()
            ]
        )

    def rows(self, images: torch.Tensor) -> torch.Tensor:
        def summed(weights: dict[str, torch.Tensor]) -> torch.Tensor:
            return functional_call(self.network, weights, (images,)).sum(1)

        jacobian = jacrev(summed)(self.weights)
        return torch.cat([jacobian[name].flatten(1) for name in self.weights], dim=1)

    def gram_of_derivatives(self, queries, supports, adapts, adapt) -> torch.Tensor:
        """Gram matrix of the derivatives of all adapted query outputs by the weights before adapting."""
        at_query, at_support = [self.rows(x) for x in queries], [self.rows(x) for x in supports]

        def outputs(theta: torch.Tensor) -> torch.Tensor:
            return torch.cat([q @ adapt(theta, s, adapts) for q, s in zip(at_query, at_support, strict=True)])

        size = len(self.is_head)
        theta = torch.randn(size, generator=torch.Generator().manual_seed(3), dtype=DOUBLE)
        jacobian = jacrev(outputs)(theta)
        return jacobian @ jacobian.T


TARGETS = torch.tensor([0.3, -1.0, 2.0, 0.0, 0.5, -0.2], dtype=DOUBLE)


def by_steps(rate: float, steps: int):
    def adapt(theta, support, adapts):
        for _ in range(steps):
            theta = theta - rate * adapts * (support.T @ (support @ theta - TARGETS))
        return theta

    return adapt


def by_flow(time: float):
    def adapt(theta, support, adapts):
        # The residual r falls as exp(-K t) r, so θ moves by -M Jᵀ ∫ exp(-K t) dt r: one block of one exponential.
        inner = (support * adapts) @ support.T
        count = len(inner)
        generator = torch.zeros(2 * count, 2 * count, dtype=DOUBLE)
        generator[:count, :count], generator[:count, count:] = -inner, torch.eye(count, dtype=DOUBLE)
        integral = torch.linalg.matrix_exp(time * generator)[:count, count:]
        return theta - adapts * (support.T @ (integral @ (support @ theta - TARGETS)))

    return adapt


def by_ridge(ridge: float):
    def adapt(theta, support, adapts):
        inner = (support * adapts) @ support.T
        dual = torch.linalg.solve(inner + ridge * torch.eye(len(inner), dtype=DOUBLE), support @ theta - TARGETS)
        return theta - adapts * (support.T @ dual)

    return adapt


# Times are in units of the fastest direction of the inner loop, which differs between kernels by orders of magnitude.
INNER_LOOPS = {
    "one step": (0.7, 1, 0.0),
    "five steps": (3.5, 5, 0.0),
    "five steps that overshoot": (8.0, 5, 0.0),
    "flow": (2.0, None, 0.0),
    "long flow": (100.0, None, 0.0),
    "infinite time with a ridge": (math.inf, None, 0.05),
}


@pytest.mark.parametrize("inner_loop", INNER_LOOPS)
@pytest.mark.parametrize("algorithm", ["maml", "anil"])
@pytest.mark.parametrize("tasks", [1, 3])
def test_metantk_of_a_network_is_the_gram_matrix_of_derivatives_of_its_linearisation_after_adapting(
    inner_loop, algorithm, tasks
):
    network, (queries, supports) = few_shot_network(), episodes(tasks)
    ntk, nngp = kernels(network, queries, supports)
    inner = {"maml": ntk, "anil": nngp}[algorithm]
    fastest = eigenvalues(inner.support_support)[-1].item()
    time, steps, ridge = INNER_LOOPS[inner_loop]
    time, ridge = time / fastest, ridge * fastest
    if math.isinf(time):
        adapt = by_ridge(ridge)
    elif steps is None:
        adapt = by_flow(time)
    else:
        adapt = by_steps(time / steps, steps)
    model = Linearised(network)
    adapts = {"maml": torch.ones_like(model.is_head), "anil": model.is_head}[algorithm]
    expected = model.gram_of_derivatives(queries, supports, adapts, adapt)
    actual = meta_ntk(ntk, inner, time=time, steps=steps, ridge=ridge)
    assert (actual - expected).abs().max() <= 1e-9 * expected.abs().max()


# The discrete inner loop


def diagonal(rates: list[float]) -> KernelBlocks:
    """One task whose query images equal its support images, with a diagonal kernel."""
    block = torch.diag(torch.tensor(rates, dtype=DOUBLE))
    return split(torch.cat([torch.cat([block, block], 1)] * 2), tasks=1, queries=len(rates), supports=len(rates))


@settings(max_examples=40)
@given(
    st.lists(st.floats(1e-9, 2.5), min_size=1, max_size=4),
    st.integers(1, 60),
)
def test_steps_leave_what_exact_arithmetic_says(rates, steps):
    # A step of size 1: rates are the products of step size and eigenvalue, above 2 they diverge.
    maps = adaptation(diagonal(rates), time=float(steps), steps=steps, ridge=0.0)[0].diagonal()
    for learnt, rate in zip(maps.tolist(), rates, strict=True):
        exact = 1 - (1 - Fraction(rate)) ** steps
        # An error of 1e-16 in 1 - rate grows by (1 - rate)^steps · steps.
        assert abs(Fraction(learnt) - exact) <= 1e-14 * (abs(exact) + steps * abs(1 - Fraction(rate)) ** steps * rate)


def test_more_and_smaller_steps_approach_the_flow_at_first_order():
    ntk, _ = kernels(few_shot_network(), *episodes(2))
    time = 2 / eigenvalues(ntk.support_support)[-1].item()
    flow = meta_ntk(ntk, ntk, time=time, ridge=0.0)
    coarse, fine = (
        (meta_ntk(ntk, ntk, time=time, steps=steps, ridge=0.0) - flow).norm().item() for steps in (1000, 4000)
    )
    assert 3.9 < coarse / fine < 4.1
    assert fine < 1e-3 * flow.norm().item()


def test_one_step_is_one_gradient_step_on_half_the_squared_error():
    ntk, _ = kernels(few_shot_network(), *episodes(2))
    query_support, _ = ntk.within_task
    torch.testing.assert_close(adaptation(ntk, time=0.01, steps=1, ridge=0.0), 0.01 * query_support)


@pytest.mark.parametrize(("time", "steps"), [(1.0, 0), (1.0, -3), (math.inf, 5)])
def test_time_that_cannot_be_divided_into_steps_is_refused(time, steps):
    with pytest.raises(ValueError, match=f"at least 1 step and a finite time to divide, got steps={steps}"):
        adaptation(diagonal([1.0]), time=time, steps=steps, ridge=0.0)


# Limits in the inner loop's time


def random_kernel(seed: int, tasks: int, queries: int, supports: int) -> KernelBlocks:
    """A kernel of full rank and of trace 1."""
    count = tasks * (queries + supports)
    rows = torch.randn(count, 2 * count, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    kernel = rows @ rows.mT
    return split(kernel / kernel.trace(), tasks=tasks, queries=queries, supports=supports)


SIZES = {"tasks": st.integers(1, 3), "queries": st.integers(1, 4), "supports": st.integers(1, 4)}


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), time=st.floats(0, 1e-2), steps=st.one_of(st.none(), st.integers(1, 10)), **SIZES)
def test_metantk_at_short_times_is_the_ntk_up_to_a_term_of_first_order(seed, time, steps, tasks, queries, supports):
    ntk = random_kernel(seed, tasks, queries, supports)
    kernel = meta_ntk(ntk, ntk, time=time, steps=steps, ridge=0.0)
    # Adapted outputs are those of f - S f', |S| ≤ τ |K|, and no block of a kernel is larger than the kernel: |K| ≤ 1.
    assert torch.linalg.matrix_norm(kernel - ntk.query_query, 2) <= 2 * time + time**2 + 1e-15


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), ridge=st.floats(1e-6, 10), **SIZES)
def test_metantk_at_infinite_time_is_that_of_the_ridge_solution(seed, ridge, tasks, queries, supports):
    ntk = random_kernel(seed, tasks, queries, supports)
    query_support, support_support = ntk.within_task
    maps = torch.linalg.solve(support_support + ridge * torch.eye(supports, dtype=DOUBLE), query_support, left=False)
    change = torch.block_diag(*maps)
    expected = (
        ntk.query_query
        - change @ ntk.query_support.mT
        - ntk.query_support @ change.mT
        + change @ ntk.support_support @ change.mT
    )
    torch.testing.assert_close(meta_ntk(ntk, ntk, time=math.inf, ridge=ridge), expected, rtol=1e-9, atol=1e-12)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), ridge=st.floats(0, 1), **SIZES)
def test_long_flow_and_many_steps_end_at_infinite_time(seed, ridge, tasks, queries, supports):
    ntk = random_kernel(seed, tasks, queries, supports)
    slowest = min(eigenvalues(block)[0].item() for block in ntk.within_task[1])
    limit = meta_ntk(ntk, ntk, time=math.inf, ridge=ridge)
    long = 50 / slowest  # what is left is below exp(-50)
    torch.testing.assert_close(meta_ntk(ntk, ntk, time=long, ridge=ridge), limit, rtol=1e-9, atol=1e-12)
    steps = math.ceil(long)  # steps of size 1, below 1/|K|
    torch.testing.assert_close(meta_ntk(ntk, ntk, time=long, steps=steps, ridge=ridge), limit, rtol=1e-9, atol=1e-12)


# What kernels must not depend on


@pytest.mark.parametrize("space", SPACES)
def test_nothing_depends_on_the_order_of_episodes_of_images_or_of_the_shots_of_a_class(space):
    network = build(
        SPACES[space].sample(np.random.default_rng(1)),
        NetworkConfig(channels=2, cells=1),
        in_channels=1,
        ways=WAYS,
        variant="scoring",
    )
    initialise(network, 0, "test")
    network.double()
    episode_order, query_order = [2, 0, 1], [1, 2, 0]
    queries, supports = episodes(3)
    swapped_shots = supports.unflatten(1, (WAYS, -1)).flip(2).flatten(1, 2)
    before = kernels(network, queries, supports)
    after = kernels(network, queries[episode_order][:, query_order], swapped_shots[episode_order])
    same_condition(before[0].full, after[0].full)
    for inner in (0, 1):  # MAML, ANIL
        kernel, actual = (meta_ntk(both[0], both[inner], time=math.inf, ridge=1e-3) for both in (before, after))
        by_task = kernel.unflatten(0, (3, -1)).unflatten(2, (3, -1))
        rows = by_task[episode_order][:, query_order]
        expected = rows[:, :, episode_order][:, :, :, query_order].flatten(2).flatten(0, 1)
        assert (actual - expected).abs().max() <= 1e-9 * kernel.abs().max()
        assert torch.equal(actual, actual.mT)
        spectrum = eigenvalues(actual)
        assert spectrum[0] >= -1e-12 * spectrum[-1]
        same_condition(kernel, actual)


def same_condition(before: torch.Tensor, after: torch.Tensor) -> None:
    first, second = condition_number(before, precision=1e-14), condition_number(after, precision=1e-14)
    assert first.value is not None
    assert second.value == pytest.approx(first.value, rel=1e-6)
