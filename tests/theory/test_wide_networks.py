"""Wide networks against closed forms, Monte Carlo, neural-tangents and real meta-training.

Axes: n images · c h w one image (2 1 1) · t tasks · q, s query and support points of one task.
"""

import importlib
import math
import sys
import types

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from benchmarks.wide_networks import (
    INNER_RATE,
    INNER_STEPS,
    WideNetwork,
    distances,
    infinite_width_ntk,
    kernel_distances,
    on_circle,
    predicted_by_kernel,
    relative_error,
    shifted_sines,
)
from metantk_core.kernels import empirical_ntk

DOUBLE = torch.float64
ANGLES = on_circle(torch.tensor([-3.1, -1.0, -0.9, 0.0, 0.4, 2.0], dtype=DOUBLE)) * torch.tensor(
    [1.0, 0.5, 2.0, 1.0, 3.0, 0.1], dtype=DOUBLE
).view(-1, 1, 1, 1)  # of several lengths too


@pytest.fixture(scope="module")
def stax():
    """The networks of neural-tangents, in float64, on the CPU.

    Its package loads an experimental part that needs TensorFlow; an empty module in that part's place spares 2 GB.
    """
    jax = pytest.importorskip("jax", reason="neural-tangents 0.6.5 needs a JAX that this Python has no wheels of")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)
    part = "neural_tangents.experimental"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, part, types.ModuleType(part))
        yield importlib.import_module("neural_tangents.stax")


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_infinite_width_kernel_is_that_of_neural_tangents(stax, depth):
    layers = [layer for _ in range(depth) for layer in (stax.Dense(1, math.sqrt(2), 1.0), stax.Relu())]
    _, _, kernel = stax.serial(*layers, stax.Dense(1, 1.0, None))
    expected = torch.from_numpy(np.array(kernel(ANGLES.flatten(1).numpy(), None, "ntk")))
    torch.testing.assert_close(infinite_width_ntk(ANGLES, depth=depth), expected, rtol=1e-7, atol=1e-12)


def test_infinite_width_kernel_is_the_mean_over_random_neurons():
    # With one hidden layer, f = Σ a h₊ / √m and h = x·w + b, Θ is a mean over neurons of h₊ h₊ + 1 1 (x·x + 1).
    x = ANGLES.flatten(1)
    draw = torch.Generator().manual_seed(0)
    weights, shifts = (torch.randn(size, 400_000, generator=draw, dtype=DOUBLE) for size in (2, 1))
    h = x @ weights + shifts
    active = (h > 0).double()
    inner = x @ x.mT + 1
    means = [(h * active) @ (h * active).mT / h.shape[1], inner * (active @ active.mT) / h.shape[1]]
    size = (means[0] + means[1]).diagonal().sqrt()
    error = (infinite_width_ntk(ANGLES) - means[0] - means[1]) / size / size[:, None]
    assert error.abs().max() < 0.01  # five standard errors


def test_engine_gives_the_kernel_of_derivatives_by_all_standard_normal_parameters():
    network = WideNetwork(16, 0, depth=2)
    theta = {name: value.detach() for name, value in network.named_parameters()}
    jacobian = jacrev(lambda values: functional_call(network, values, (ANGLES,)).squeeze(1))(theta)
    rows = torch.cat([part.flatten(1) for part in jacobian.values()], dim=1)
    assert rows.shape[1] == sum(value.numel() for value in theta.values()) == 16 * (2 + 1 + 16 + 1 + 1)
    torch.testing.assert_close(empirical_ntk(network, ANGLES), rows @ rows.mT, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [1, 2])
def test_kernel_approaches_that_of_infinite_width_as_one_over_the_root_of_width(depth):
    seeds = range(8)
    narrow, wide = (np.mean(kernel_distances(width, seeds, depth=depth)) for width in (32, 512))
    assert wide < 0.15
    assert 2.5 < narrow / wide < 6.5  # 4 in the limit


def test_prediction_of_the_kernel_is_what_a_linear_model_is_meta_trained_to():
    # The model f = ∇f(θ₀)·(θ - θ₀) of a network, second-order MAML on its parameters until nothing moves, by autograd.
    problem, network = shifted_sines(training_tasks=2, test_tasks=1), WideNetwork(64, 1)
    theta0 = {name: value.detach() for name, value in network.named_parameters()}
    tangent = jacrev(lambda values: functional_call(network, values, (problem.images,)).squeeze(1))(theta0)
    rows = torch.cat([part.flatten(1) for part in tangent.values()], dim=1)
    tasks, queries = problem.query_targets.shape
    at_query = rows[: tasks * queries].view(tasks, queries, -1)
    at_support = rows[tasks * queries :].view(tasks, -1, rows.shape[1])

    def adapted(theta: torch.Tensor, task: int) -> torch.Tensor:
        for _ in range(INNER_STEPS):
            error = ((at_support[task] @ theta - problem.support_targets[task]) ** 2).sum() / 2
            (gradient,) = torch.autograd.grad(error, theta, create_graph=True)
            theta = theta - INNER_RATE * gradient
        return at_query[task] @ theta

    def loss(theta: torch.Tensor) -> torch.Tensor:
        return sum(((adapted(theta, task) - problem.query_targets[task]) ** 2).sum() / 2 for task in range(2))  # type: ignore[return-value]

    theta = torch.zeros(rows.shape[1], dtype=DOUBLE, requires_grad=True)
    predicted, kernel = predicted_by_kernel(problem, rows @ rows.mT)
    rate = 1.5 / torch.linalg.eigvalsh(kernel)[-1]
    for _ in range(400):
        (gradient,) = torch.autograd.grad(loss(theta), theta)
        theta = (theta - rate * gradient).detach().requires_grad_()
    assert loss(theta) < 1e-16
    torch.testing.assert_close(adapted(theta, 2)[None].detach(), predicted, rtol=1e-6, atol=1e-8)
    assert relative_error(predicted, torch.zeros_like(predicted) + 1) > 0.1  # a prediction, not a constant


def test_wide_network_is_meta_trained_to_the_prediction_of_its_kernel():
    narrow, wide = (distances(width, seeds=(0, 2)) for width in (256, 2048))
    assert max(wide.loss_left) < 1e-5
    assert np.mean(wide.to_own_kernel) < 0.05
    assert np.mean(wide.to_own_kernel) < 0.6 * np.mean(narrow.to_own_kernel)


@pytest.mark.minutes
def test_distance_between_meta_training_and_theory_falls_at_every_widening():
    found = [distances(width, seeds=range(4)) for width in (256, 1024, 4096)]
    own, limit, kernel = (
        [float(np.mean(values)) for values in columns]
        for columns in zip(*((d.to_own_kernel, d.to_infinite_width, d.of_kernel) for d in found), strict=True)
    )
    for errors in (own, limit, kernel):
        assert errors[0] > errors[1] > errors[2]
        assert 2 < errors[0] / errors[2] < 12  # 4 if as one over the root of width, 16 if as one over width
    assert own[2] < 0.03
    assert limit[2] < 0.05
    assert kernel[2] < 0.05
