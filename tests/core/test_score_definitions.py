"""Every score against an independent computation, on networks small enough to do by hand, in float64.

Axes: n images · t episodes · k classes.
"""

import itertools
import math
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from metantk_core.candidates import parse_genotype
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.kernels import (
    adaptation,
    centred_targets,
    held_out_predictions,
    look_on,
    meta_ntk,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import NetworkConfig, build, initialise
from metantk_core.scores import (
    SCORES,
    InnerLoop,
    Outcome,
    Scorer,
    ScoringConfig,
    SwapConfig,
    activations,
    evidence,
    functions,
    score_candidate,
    scorer,
    scoring_episodes,
)
from metantk_core.scores.activations import code_kernel, linear_regions, naswot
from metantk_core.scores.alignment import (
    kernel_target_alignment,
    label_gradient_alignment,
    same_class,
    spectral_entropy,
)
from metantk_core.scores.conditioning import condition_number, log_determinant, trace_ratio
from metantk_core.scores.gradients import (
    EpisodeLosses,
    fisher,
    fisher_fan_in,
    grad_norm,
    loss_gradients,
    plain,
    snip,
    zico,
)
from metantk_core.scores.synflow import layer_flows, synflow
from metantk_core.seeding import generator

DOUBLE = torch.float64


class Tiny(nn.Module):
    """Two convolutions, one of them with a normalisation, and a head: a module and a function as ReLUs."""

    def __init__(self, *, norm: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.GroupNorm(2, 4) if norm else nn.Identity()
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(4, 3, 3, bias=False)
        self.head = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x)).mean(dim=(2, 3)))


def tiny(seed: int = 0, *, norm: bool = True) -> Tiny:
    source_of_weights = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        network = Tiny(norm=norm).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source_of_weights, dtype=DOUBLE) * 0.5 + 0.1)
    return network


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


IMAGES = noise(3, 4, 1, 5, 5)  # three episodes of four images
LABELS = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 1], [0, 0, 1, 2]])
WEIGHTS = ("first.weight", "second.weight", "head.weight")


# One loss backward


def loss_of(network: nn.Module, episode: int | None = None) -> float:
    """Cross-entropy from its definition, mean over all images or over those of one episode."""
    total, count = 0.0, 0
    for t in range(3) if episode is None else (episode,):
        for image, label in zip(IMAGES[t], LABELS[t], strict=True):
            with torch.no_grad():
                logits = network(image[None])[0].numpy()
            total += math.log(np.exp(logits).sum()) - logits[label]
            count += 1
    return total / count


def gradients_by_differences(network: nn.Module, episode: int | None = None) -> dict[str, np.ndarray]:
    """Central differences of the loss by every single weight."""
    step, gradients = 1e-5, {}
    for name in WEIGHTS:
        weight = network.get_parameter(name).detach().view(-1)
        slopes = []
        for index in range(len(weight)):
            start = weight[index].item()
            weight[index] = start + step
            above = loss_of(network, episode)
            weight[index] = start - step
            slopes.append((above - loss_of(network, episode)) / (2 * step))
            weight[index] = start
        gradients[name] = np.array(slopes)
    return gradients


def test_gradient_scores_are_those_of_finite_differences_of_every_weight():
    network = tiny()
    found = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    slopes = gradients_by_differences(network)
    weights = {name: network.get_parameter(name).detach().numpy().ravel() for name in WEIGHTS}
    assert grad_norm(found) == pytest.approx(sum(np.linalg.norm(slopes[name]) for name in WEIGHTS), rel=1e-7)
    assert snip(found) == pytest.approx(sum(np.abs(slopes[name] * weights[name]).sum() for name in WEIGHTS), rel=1e-7)
    assert plain(found) == pytest.approx(sum(slopes[name] @ weights[name] for name in WEIGHTS), rel=1e-7)
    assert found.loss.mean().item() == pytest.approx(loss_of(network), rel=1e-12)


def test_zico_is_that_of_numpy_on_finite_differences_of_every_episode():
    network = tiny()
    found = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    by_task = [gradients_by_differences(network, t) for t in range(3)]
    expected = 0.0
    for name in WEIGHTS:
        slopes = np.stack([gradients[name] for gradients in by_task])
        expected += np.log((np.abs(slopes).mean(axis=0) / slopes.std(axis=0)).sum())
    assert zico(found) == pytest.approx(expected, rel=1e-5)


def test_zico_leaves_out_weights_whose_gradient_never_varies_and_layers_without_others():
    same = loss_gradients(tiny(), (IMAGES[0], IMAGES[0]), (LABELS[0], LABELS[0]))
    assert zico(same) == -math.inf
    network = tiny()
    with torch.no_grad():
        network.second.weight[1] = 0  # its ReLU is off: no gradient, in any episode
        network.head.weight[:, 1] = 0
    found = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    assert not found.by_task["second.weight"][:, 1].any()
    expected = 0.0
    for gradient in found.by_task.values():
        varies = gradient.std(dim=0, correction=0) > 0
        part = gradient[:, varies].numpy()
        expected += np.log((np.abs(part).mean(axis=0) / part.std(axis=0)).sum())
    assert zico(found) == pytest.approx(expected, rel=1e-12)
    assert math.isfinite(expected)


class Grouped(nn.Module):
    """A full convolution, one in two groups with a kernel that is not square, one by channel, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.full = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.groups = nn.Conv2d(4, 6, (1, 3), groups=2)
        self.depthwise = nn.Conv2d(6, 6, (3, 1), groups=6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.depthwise(self.groups(torch.relu(self.full(x))))).mean(dim=(2, 3)))


def channel_values(network: nn.Module) -> dict[str, np.ndarray]:
    """By layer, half the mean square of what scaling one channel of one image does to the loss, by differences."""
    step, values = 1e-5, {}
    for layer, module in network.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        values[layer] = np.zeros(len(module.weight))
        for channel in range(len(module.weight)):
            squares = []
            for t, n in itertools.product(range(3), range(4)):
                losses = []
                for scale in (1 + step, 1 - step):

                    def stretch(module, inputs, output, channel=channel, scale=scale):
                        output = output.clone()
                        output[:, channel] *= scale
                        return output

                    hook = module.register_forward_hook(stretch)
                    with torch.no_grad():
                        logits = network(IMAGES[t, n][None])[0].numpy()
                    hook.remove()
                    losses.append((math.log(np.exp(logits).sum()) - logits[LABELS[t, n]]) / 12)
                squares.append(((losses[0] - losses[1]) / (2 * step)) ** 2)
            values[layer][channel] = 0.5 * np.mean(squares)
    return values


def grouped() -> Grouped:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Grouped().double()


@pytest.mark.parametrize("make", [tiny, grouped])
def test_fisher_counts_what_scaling_one_channel_of_one_image_does_to_the_loss_once(make):
    network = make()
    expected = sum(values.sum() for values in channel_values(network).values())
    assert fisher(loss_gradients(network, tuple(IMAGES), tuple(LABELS))) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("make", [tiny, grouped])
def test_fisher_fan_in_is_the_sum_over_weights_that_each_hold_a_copy_of_their_channels_value(make):
    network, expected = make(), 0.0
    for layer, values in channel_values(network).items():
        copies = np.zeros(tuple(network.get_submodule(layer).weight.shape))
        for index in np.ndindex(copies.shape):
            copies[index] = values[index[0]]
        expected += copies.sum()
    gradients = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    assert fisher_fan_in(gradients) == pytest.approx(expected, rel=1e-7)
    assert fisher_fan_in(gradients) > 1.5 * fisher(gradients)


def test_backward_of_loss_leaves_no_trace_in_the_network():
    network = tiny()
    network.first.weight.grad = torch.ones_like(network.first.weight)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    assert torch.equal(network.first.weight.grad, torch.ones_like(network.first.weight))
    assert network.second.weight.grad is None
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_scaling_weights_before_a_normalisation_scales_their_gradient_inversely_and_leaves_snip_and_plain():
    network, scaled = tiny(), tiny()
    for norm in (network.norm, scaled.norm):
        assert isinstance(norm, nn.GroupNorm)
        norm.eps = 0.0
    with torch.no_grad():
        for parameter in scaled.first.parameters():
            parameter.mul_(7)
    ours, theirs = (loss_gradients(net, tuple(IMAGES), tuple(LABELS)) for net in (network, scaled))
    torch.testing.assert_close(theirs.by_task["first.weight"] * 7, ours.by_task["first.weight"])
    assert snip(theirs) == pytest.approx(snip(ours), rel=1e-10)
    assert plain(theirs) == pytest.approx(plain(ours), rel=1e-10)
    assert grad_norm(theirs) < grad_norm(ours)
    # Scaling weights and bias together changes nothing, so along them the slope is zero.
    slope = sum(
        (torch.autograd.grad(loss, parameter)[0] * parameter).sum().item()
        for parameter in network.first.parameters()
        for loss in [nn.functional.cross_entropy(network(IMAGES.flatten(0, 1)), LABELS.flatten())]
    )
    assert slope == pytest.approx(0, abs=1e-12)


# SynFlow


def flow_by_hand(network: Tiny, size: int) -> float:
    """The sum of the outputs for an image of ones, from loops over positions of the absolute weights."""
    first, second, head = (np.abs(network.get_parameter(name).detach().numpy()) for name in WEIGHTS)
    padded = np.zeros((size + 2, size + 2))
    padded[1:-1, 1:-1] = 1
    maps = np.zeros((4, size, size))
    for m, i, j in itertools.product(range(4), range(size), range(size)):
        maps[m, i, j] = (first[m, 0] * padded[i : i + 3, j : j + 3]).sum()
    features = np.zeros(3)
    for m, i, j in itertools.product(range(3), range(size - 2), range(size - 2)):
        features[m] += (second[m] * maps[:, i : i + 3, j : j + 3]).sum() / (size - 2) ** 2
    return float((head @ features).sum())


@pytest.mark.parametrize("norm", [True, False])
def test_synflow_of_a_chain_is_conserved_from_layer_to_layer_and_equals_the_flow_by_hand(norm):
    network = tiny(norm=norm)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    flow = flow_by_hand(network, 5)
    np.testing.assert_allclose(layer_flows(network, (1, 5, 5)).numpy(), [flow] * 3, rtol=1e-12)
    assert synflow(network, (1, 5, 5)) == pytest.approx(math.log(3 * flow), rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_synflow_of_a_candidate_is_conserved_across_cuts_and_moves_by_the_log_of_a_layers_scale():
    network = build(cell(), NetworkConfig(channels=4, cells=1), in_channels=1, ways=3, variant="scoring")
    initialise(network, 0)
    flows = layer_flows(network, (1, 8, 8))
    assert flows[0].item() == pytest.approx(flows[-1].item(), rel=1e-12)  # all flow passes the stem and the head
    start = synflow(network, (1, 8, 8))
    with torch.no_grad():
        network.get_parameter("head.weight").mul_(-1000)
    assert synflow(network, (1, 8, 8)) == pytest.approx(start + math.log(1000), rel=1e-7)


# Activation codes


def units_by_hand(network: Tiny, images: torch.Tensor) -> list[np.ndarray]:
    """Whether each ReLU of each image is on, image by image."""
    codes = []
    with torch.no_grad():
        for image in images:
            inner = network.norm(network.first(image[None]))
            outer = network.second(inner.clamp_min(0))
            codes.append(np.concatenate([inner.numpy().ravel() > 0, outer.numpy().ravel() > 0]))
    return codes


def test_naswot_is_the_log_determinant_of_units_on_which_images_agree_counted_one_by_one():
    network, images = tiny(), IMAGES.flatten(0, 1)
    codes = units_by_hand(network, images)
    kernel = np.array([[sum(int(a == b) for a, b in zip(x, y, strict=True)) for y in codes] for x in codes])
    found = code_kernel(network, images)
    assert found is not None
    assert np.array_equal(found.numpy(), kernel)
    sign, expected = np.linalg.slogdet(kernel)
    assert sign == 1
    assert naswot(found).value == pytest.approx(expected, rel=1e-12)


def test_kernel_of_codes_is_the_same_counted_in_pieces(monkeypatch):
    whole = code_kernel(tiny(), IMAGES[0])
    assert whole is not None
    monkeypatch.setattr(activations, "_COLUMNS", 7)
    pieces = code_kernel(tiny(), IMAGES[0])
    assert pieces is not None
    assert torch.equal(pieces, whole)


@settings(max_examples=10)
@given(st.permutations(range(12)))
def test_naswot_does_not_depend_on_the_order_of_images(order):
    network, images = tiny(), IMAGES.flatten(0, 1)
    kernels = [code_kernel(network, images), code_kernel(network, images[order])]
    values = [naswot(kernel).value for kernel in kernels if kernel is not None]
    assert values[1] == pytest.approx(values[0], rel=1e-12)


def test_naswot_of_two_images_with_one_code_is_degenerate_and_says_how_many():
    images = torch.cat([IMAGES[0], IMAGES[0, 1:2]])
    kernel = code_kernel(tiny(), images)
    assert kernel is not None
    score = naswot(kernel)
    assert score.outcome is Outcome.DEGENERATE
    assert "2 of 5 images share their code" in score.reason


class OneLayer(nn.Module):
    """ReLUs of linear functions of two numbers."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray) -> None:
        super().__init__()
        self.weight, self.bias = torch.from_numpy(weight), torch.from_numpy(bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x.flatten(1) @ self.weight.mT + self.bias)


def test_linear_regions_of_lines_in_a_plane_are_as_many_as_geometry_says():
    # Three lines in general position cut the plane into 7 pieces, m breakpoints a line into m + 1.
    grid = torch.cartesian_prod(*[torch.linspace(-4, 4, 81, dtype=DOUBLE) + 0.013] * 2).view(-1, 1, 1, 2)
    triangle = OneLayer(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]), np.array([0.0, 0.0, 1.0]))
    assert linear_regions(triangle, grid).value == 7
    assert linear_regions(OneLayer(np.eye(2), np.zeros(2)), grid).value == 4
    parallel = OneLayer(np.tile([[1.0, 0.0]], (5, 1)), np.arange(5.0) - 2)
    assert linear_regions(parallel, grid).value == 6


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 60))
def test_linear_regions_are_the_distinct_sign_patterns_counted_pair_by_pair(seed, units, n):
    rng = np.random.default_rng(seed)
    weight, bias, x = rng.normal(size=(units, 2)), rng.normal(size=units), rng.normal(size=(n, 2))
    codes = [tuple(w @ point + b > 0 for w, b in zip(weight, bias, strict=True)) for point in x]
    expected = sum(1 / sum(other == code for other in codes) for code in codes)
    score = linear_regions(OneLayer(weight, bias), torch.from_numpy(x).view(n, 1, 1, 2))
    assert score.value == pytest.approx(expected)


def test_linear_network_has_one_region():
    assert linear_regions(nn.Flatten(), IMAGES[0]).value == 1.0


# One kernel


def some_kernel(n: int = 6, seed: int = 0) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(n, n + 2))
    return root @ root.T


CLASSES = torch.tensor([0, 1, 2, 0, 1, 0])


def test_alignments_are_those_of_loops_over_pairs():
    kernel, classes = some_kernel(), CLASSES.tolist()
    labels = np.array([[1.0 if a == b else -1.0 for b in classes] for a in classes])
    theirs, target = torch.from_numpy(kernel), same_class(CLASSES)
    assert np.array_equal(target.numpy(), labels)
    dot = sum(kernel[i, j] * labels[i, j] for i in range(6) for j in range(6))
    size = math.sqrt(sum(kernel[i, j] ** 2 for i in range(6) for j in range(6)))
    assert kernel_target_alignment(theirs, target) == pytest.approx(dot / (size * 6), rel=1e-12)
    correlation = np.corrcoef(kernel.ravel(), labels.ravel())[0, 1]
    assert label_gradient_alignment(theirs, target) == pytest.approx(correlation, rel=1e-12)


def test_alignments_are_one_where_the_kernel_is_what_the_labels_say():
    target = same_class(CLASSES)
    assert kernel_target_alignment(3 * target, target) == pytest.approx(1.0)
    assert label_gradient_alignment(3 * target + 5, target) == pytest.approx(1.0)
    assert label_gradient_alignment(-target, target) == pytest.approx(-1.0)
    assert math.isnan(label_gradient_alignment(torch.ones(6, 6, dtype=DOUBLE), target))


def test_spectral_entropy_is_that_of_numpy_and_has_the_limits_of_an_entropy():
    kernel = some_kernel()
    shares = np.linalg.eigvalsh(kernel) / np.trace(kernel)
    expected = -sum(p * math.log(p) for p in shares)
    assert spectral_entropy(torch.from_numpy(kernel)) == pytest.approx(expected, rel=1e-12)
    assert spectral_entropy(4 * torch.eye(5, dtype=DOUBLE)) == pytest.approx(math.log(5))
    assert spectral_entropy(torch.ones(5, 5, dtype=DOUBLE)) == pytest.approx(0, abs=1e-12)


# How even a spectrum is


def kernel_with(spectrum, seed: int = 0) -> torch.Tensor:
    """A symmetric kernel of known eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    kernel = basis @ np.diag(spectrum) @ basis.T
    return torch.from_numpy((kernel + kernel.T) / 2)


def test_unevenness_is_zero_of_equal_eigenvalues_and_does_not_see_a_scale():
    even, uneven = 7 * torch.eye(5, dtype=DOUBLE), torch.from_numpy(some_kernel())
    assert log_determinant(even).value == pytest.approx(0, abs=1e-12)
    assert trace_ratio(even).value == pytest.approx(1, rel=1e-12)
    for measure in (log_determinant, trace_ratio):
        assert measure(1e-6 * uneven).value == pytest.approx(measure(uneven).value, rel=1e-9)


def test_unevenness_is_that_of_determinant_trace_and_inverse_without_eigenvalues():
    kernel = some_kernel()
    sign, log_det = np.linalg.slogdet(kernel)
    assert sign == 1
    ours = torch.from_numpy(kernel)
    assert log_determinant(ours).value == pytest.approx(math.log(np.trace(kernel) / 6) - log_det / 6, rel=1e-10)
    assert trace_ratio(ours).value == pytest.approx(np.trace(kernel) * np.trace(np.linalg.inv(kernel)) / 36, rel=1e-10)


def test_log_determinant_is_the_divergence_from_the_spherical_distribution_of_the_same_variance():
    # 2/n times the mean over samples of the log-likelihood ratio of both normal distributions.
    spectrum = np.array([4.0, 1.0, 0.5, 0.5])
    x = np.random.default_rng(0).normal(size=(200_000, 4)) * np.sqrt(spectrum)
    sphere = spectrum.mean()
    ratio = -0.5 * (np.log(spectrum).sum() + (x**2 / spectrum).sum(1)) + 0.5 * (
        4 * math.log(sphere) + (x**2).sum(1) / sphere
    )
    found = log_determinant(kernel_with(spectrum)).value
    assert found is not None
    assert found == pytest.approx(2 / 4 * ratio.mean(), abs=4 * 2 / 4 * ratio.std() / math.sqrt(len(x)))
    assert found > 0.2


@settings(max_examples=30)
@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=6), st.integers(0, 99))
def test_unevenness_lies_between_none_and_the_condition_number(spectrum, seed):
    kernel = kernel_with(spectrum, seed)
    condition = condition_number(kernel).value
    log_ratio, ratio = log_determinant(kernel).value, trace_ratio(kernel).value
    assert condition is not None
    assert log_ratio is not None
    assert ratio is not None
    # Geometric and harmonic means lie between the ends of the spectrum, in this order.
    assert -1e-9 <= log_ratio <= math.log(ratio) + 1e-9
    assert ratio <= condition * (1 + 1e-9)


@pytest.mark.parametrize("measure", [condition_number, log_determinant, trace_ratio])
@pytest.mark.parametrize(
    ("kernel", "outcome"),
    [
        (torch.zeros(3, 3, dtype=DOUBLE), Outcome.DEGENERATE),
        (kernel_with([1.0, 1.0, 1e-9]), Outcome.DEGENERATE),
        (kernel_with([1.0, 1.0, -1e-3]), Outcome.DEGENERATE),
        (torch.full((3, 3), math.nan, dtype=DOUBLE), Outcome.NON_FINITE),
        (kernel_with([1.0, 1.0, 1e-3]), Outcome.OK),
    ],
)
def test_unevenness_of_a_kernel_without_a_smallest_eigenvalue_is_an_outcome(measure, kernel, outcome):
    assert measure(kernel).outcome is outcome
    if outcome is Outcome.OK:
        assert measure(kernel, floor=0.1).outcome is Outcome.DEGENERATE


# Regression with the MetaNTK


class LinearTasks:
    """Images that are feature vectors, for models that are linear in them, one per class."""

    def __init__(self, tasks=4, queries=3, supports=2, features=24, ways=3, seed=0) -> None:
        self.t, self.q, self.s = tasks, queries, supports
        self.queries = noise(tasks, queries, features, seed=seed) / math.sqrt(features)
        self.supports = noise(tasks, supports, features, seed=seed + 1) / math.sqrt(features)
        self.query_targets = noise(tasks, queries, ways, seed=seed + 2)
        self.support_targets = noise(tasks, supports, ways, seed=seed + 3)
        images = torch.cat([self.queries.flatten(0, 1), self.supports.flatten(0, 1)])
        self.kernel = split(images @ images.mT, tasks=tasks, queries=queries, supports=supports)


def flow(supports: torch.Tensor, residual: torch.Tensor, time: float, steps: int) -> torch.Tensor:
    """What many small gradient steps on the squared loss of the support images add to the weights."""
    change = torch.zeros(supports.shape[1], residual.shape[1], dtype=DOUBLE)
    for _ in range(steps):
        change = change + time / steps * supports.mT @ (residual - supports @ change)
    return change


def test_regression_is_what_meta_training_a_linear_model_by_gradient_descent_arrives_at():
    tasks, time = LinearTasks(), 0.8
    steps, held_out = 1000, (1, 3)
    # Inner loop by small steps; unrolled, predictions are linear in the initial weights: Q_t W + G_t.
    adapted_queries, given = [], []
    for queries, supports, targets in zip(tasks.queries, tasks.supports, tasks.support_targets, strict=True):
        identity = torch.eye(queries.shape[1], dtype=DOUBLE)
        adapted_queries.append(queries + queries @ flow(supports, -supports @ identity, time, steps))
        given.append(queries @ flow(supports, targets, time, steps))
    train = [0, 2]
    features = torch.cat([adapted_queries[t] for t in train])
    wanted = torch.cat([tasks.query_targets[t] - given[t] for t in train])
    weights = torch.zeros(features.shape[1], 3, dtype=DOUBLE)
    for _ in range(1500):  # meta-training from zero
        weights = weights + 0.5 * features.mT @ (wanted - features @ weights)
    assert (features @ weights - wanted).abs().max() < 1e-9
    expected = torch.stack([adapted_queries[t] @ weights + given[t] for t in held_out])

    meta = meta_ntk(tasks.kernel, tasks.kernel, time=time, ridge=0.0)
    adapted = adaptation(tasks.kernel, time=time, ridge=0.0)
    found = held_out_predictions(meta, adapted, tasks.support_targets, tasks.query_targets, held_out=held_out)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)  # 1000 steps are not quite a flow
    assert expected.abs().max() > 0.1


def test_regression_does_not_look_at_the_targets_of_what_it_predicts():
    tasks = LinearTasks()
    meta = meta_ntk(tasks.kernel, tasks.kernel, time=math.inf, ridge=1e-3)
    adapted = adaptation(tasks.kernel, time=math.inf, ridge=1e-3)
    other = tasks.query_targets.clone()
    other[2] = 99.0
    first, second = (
        held_out_predictions(meta, adapted, tasks.support_targets, targets, held_out=(2,))
        for targets in (tasks.query_targets, other)
    )
    assert torch.equal(first, second)


def test_regression_on_a_singular_kernel_is_where_gradient_descent_from_zero_ends():
    tasks = LinearTasks(features=4)  # 9 training queries, but 4 directions: least squares of least norm
    meta = meta_ntk(tasks.kernel, tasks.kernel, time=0.0, ridge=0.0)  # no inner loop: Φ = Θ
    adapted = adaptation(tasks.kernel, time=0.0, ridge=0.0)
    found = held_out_predictions(meta, adapted, tasks.support_targets, tasks.query_targets, held_out=(3,))
    inputs, targets = tasks.queries[:3].flatten(0, 1).numpy(), tasks.query_targets[:3].flatten(0, 1).numpy()
    weights, *_ = np.linalg.lstsq(inputs, targets, rcond=None)
    np.testing.assert_allclose(found[0].numpy(), tasks.queries[3].numpy() @ weights, atol=1e-9)


@pytest.mark.parametrize("held_out", [(), (0, 1, 2, 3)])
def test_regression_needs_tasks_on_both_sides(held_out):
    tasks = LinearTasks()
    adapted = adaptation(tasks.kernel, time=1.0, ridge=0.0)
    meta = meta_ntk(tasks.kernel, tasks.kernel, time=1.0, ridge=0.0)
    with pytest.raises(ValueError, match="expected some of the 4 tasks to be held out and some not"):
        held_out_predictions(meta, adapted, tasks.support_targets, tasks.query_targets, held_out=held_out)


def test_targets_are_one_hot_without_their_mean():
    targets = centred_targets(torch.tensor([[2, 0]]), 3)
    torch.testing.assert_close(targets, torch.tensor([[[-1, -1, 2], [2, -1, -1]]], dtype=DOUBLE) / 3)


# All of them on candidates

EPISODE = EpisodeConfig(ways=3, shots=1, queries=1)
CONFIG = ScoringConfig(
    scores=tuple(SCORES),
    swap=SwapConfig(centre=1.0, width=100.0),
    num_inits=2,
    tasks=3,
    episode=EPISODE,
    image_size=8,
    network=NetworkConfig(channels=4, cells=1),
)
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
DARTS = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 0), ('avg_pool_3x3', 2), "
    "('conv_3x3', 1), ('max_pool_3x3', 3)], normal_concat=range(2, 5), reduce=[('conv_1x5_5x1', 0), "
    "('skip_connect', 1), ('sep_conv_3x3', 0), ('conv_3x3', 2), ('max_pool_3x3', 1), ('skip_connect', 3)], "
    "reduce_concat=range(2, 5))"
)


def cell(text: str = CELL):
    return parse_genotype("nasbench201", text)


def source() -> EpisodeSource:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 1, 8, 8)).astype(np.uint8)
    labels = np.repeat(np.arange(8), 8).astype(np.int64)
    labelled = LabelledImages(images, labels, tuple(f"class {i}" for i in range(8)), "train", "noise")
    return EpisodeSource(labelled, EPISODE, (0.5,), (0.29,), image_size=8)


def by_name(records) -> dict[str, tuple]:
    return {record.score: record.draws for record in records}


def scored(genotype=None, **changes) -> dict[str, tuple]:
    config = ScoringConfig(**{**CONFIG.model_dump(), **changes})
    return by_name(score_candidate(genotype or cell(), source(), config, 3))


def test_every_score_of_a_candidate_is_that_of_its_parts_in_float64():
    found = scored()
    for repeat in range(2):
        network = build(cell(), CONFIG.network, in_channels=1, ways=3, variant="scoring")
        initialise(network, 3, "score", "init", repeat)
        network = network.double()
        episodes = scoring_episodes(source(), CONFIG, 3, repeat)
        batch = torch.cat([e.query_images for e in episodes] + [e.support_images for e in episodes]).double()
        kernels = tangent_and_last_layer_kernel(network, batch)
        ntk = kernels.ntk
        names = [e.class_names[label] for e in episodes for label in e.query_labels]
        names += [e.class_names[label] for e in episodes for label in e.support_labels]
        target = torch.tensor([[1.0 if a == b else -1.0 for b in names] for a in names], dtype=DOUBLE)
        assert (target == 1).sum() > 18  # some class occurs in two episodes
        blocks = split(ntk, tasks=3, queries=3, supports=3)
        meta = meta_ntk(blocks, blocks, time=math.inf, ridge=1e-3)
        adapted = adaptation(blocks, time=math.inf, ridge=1e-3)
        labels = centred_targets(torch.arange(3).expand(3, 3), 3)  # one image a class, in order: queries and supports
        predicted = torch.cat([held_out_predictions(meta, adapted, labels, labels, held_out=(t,)) for t in range(3)])
        gradients = loss_gradients(
            network,
            [torch.cat([e.query_images, e.support_images]).double() for e in episodes],
            [torch.cat([e.query_labels, e.support_labels]) for e in episodes],
        )
        codes = code_kernel(network, batch)
        assert codes is not None
        expected = {
            "metantk_cond": np.linalg.cond(meta.numpy()),
            "ntk_cond": np.linalg.cond(ntk.numpy()),
            "ntk_trace": np.trace(ntk.numpy()),
            "ntk_frobenius": np.linalg.norm(ntk.numpy()),
            "spectral_entropy": spectral_entropy(ntk),
            "label_gradient_alignment": label_gradient_alignment(ntk, target),
            "kernel_target_alignment": kernel_target_alignment(ntk, target),
            "metantk_logdet": math.log(np.trace(meta.numpy()) / 9) - np.linalg.slogdet(meta.numpy())[1] / 9,
            "metantk_trace_ratio": np.trace(meta.numpy()) * np.trace(np.linalg.inv(meta.numpy())) / 81,
            "metantk_spectral_entropy": spectral_entropy(meta),
            "metantk_regression_accuracy": (predicted.argmax(-1) == torch.arange(3)).double().mean().item(),
            "metantk_regression_loss": ((predicted - labels) ** 2).sum().item() / 9,
            "naswot": naswot(codes).value,
            "grad_norm": grad_norm(gradients),
            "snip": snip(gradients),
            "plain": plain(gradients),
            "fisher": fisher(gradients),
            "fisher_fan_in": fisher_fan_in(gradients),
            "zico": zico(gradients),
            "synflow": synflow(network, (1, 8, 8)),
        }
        for name, value in expected.items():
            assert found[name][repeat].value == pytest.approx(value, rel=5e-3, abs=1e-5), name


def test_linear_regions_are_counted_on_noise_with_a_narrow_network_of_the_same_cells_and_depth():
    settings = {"definition": "noise", "channels": 1, "image_size": 2, "images": 150}
    found = scored(scores=("linear_regions",), linear_regions=settings, network={"channels": 4, "cells": 2})
    narrow = build(cell(), NetworkConfig(channels=1, cells=2), in_channels=1, ways=3, variant="scoring")
    values = []
    for repeat in range(2):
        initialise(narrow, 3, "score", "init", repeat)
        noise_images = torch.randn(150, 1, 2, 2, generator=generator(3, "score", "linear regions", repeat))
        values.append(linear_regions(narrow, noise_images).value)
    assert [draw.value for draw in found["linear_regions"]] == values
    assert values[0] != values[1]
    assert all(1 <= value < 150 for value in values if value is not None)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, 2e-6), (DOUBLE, 1e-13)])
@pytest.mark.parametrize(("space", "text"), [("nasbench201", CELL), ("nasbench201", NOTHING), ("darts_fewshot", DARTS)])
def test_gradients_of_the_kernels_own_forward_pass_are_those_of_autograd(space, text, dtype, precision):
    genotype = parse_genotype(space, text)
    network = build(genotype, CONFIG.network, in_channels=1, ways=3, variant="scoring")
    initialise(network, 3, "score", "init", 0)
    network = network.to(dtype)
    images = torch.randn(18, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    rows = [torch.tensor([0, 1, 2, 9, 10, 11]), torch.tensor([3, 4, 5, 12, 13, 14]), torch.tensor([8, 7, 6, 17, 16])]
    labels = [torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([2, 1, 0, 2, 1, 0]), torch.tensor([0, 0, 1, 1, 2])]
    losses = EpisodeLosses(network, rows, labels)
    look_on(network, images, losses)
    found = losses.gradients()
    expected = loss_gradients(network, [images[of] for of in rows], labels)
    assert list(found.by_task) == list(expected.by_task)
    assert found.loss.tolist() == pytest.approx(expected.loss.tolist(), rel=precision)
    for name, gradients in expected.by_task.items():
        apart = (found.by_task[name] - gradients).norm()
        assert apart <= precision * gradients.norm(), name
    for layer, saliency in expected.saliencies.items():
        given = found.saliencies.get(layer, torch.zeros_like(saliency))  # of a layer that no logit depends on
        assert (given - saliency).norm() <= 10 * precision * saliency.norm(), layer
    assert {layer: found.fan_in(layer) for layer in found.saliencies}.items() <= {
        layer: expected.fan_in(layer) for layer in expected.saliencies
    }.items()


def test_gradients_that_do_not_go_through_a_layer_that_is_seen_are_autograds():
    usual = scored(scores=("grad_norm", "zico"))
    with torch.autograd.graph.saved_tensors_hooks(
        lambda kept: kept.clone(), lambda kept: kept
    ):  # as if memory is short
        found = scored(scores=("grad_norm", "zico"))
    for name, draws in usual.items():
        assert [draw.value for draw in found[name]] == pytest.approx([draw.value for draw in draws], rel=1e-4), name
    network = build(cell(), CONFIG.network, in_channels=1, ways=3, variant="scoring")
    forward = network.forward
    network.forward = lambda x: forward(x) + network.get_parameter("head.weight").sum()  # in two ways
    rows, labels = [torch.arange(6)], [torch.tensor([0, 1, 2, 0, 1, 2])]
    losses = EpisodeLosses(network, rows, labels)
    look_on(network, torch.randn(6, 1, 8, 8), losses)
    assert not losses.whole


def test_zico_of_gradients_that_hardly_vary_between_episodes_is_known_from_float64():
    pools = cell("|avg_pool_3x3~0|+|none~0|avg_pool_3x3~1|+|none~0|skip_connect~1|skip_connect~2|")
    for genotype, precision, repeat in ((pools, "float64", 8), (cell(), "float32", 0)):
        config = CONFIG.model_copy(update={"scores": ("zico",), "num_inits": repeat + 1})
        scorer = Scorer(genotype, source(), config, 3)
        draw, (found,) = scorer.draw(genotype, repeat), scorer.score(genotype, range(repeat, repeat + 1))[0].draws
        images, double = draw.task_images, deepcopy(draw.network).double()
        exact = zico(loss_gradients(double, [batch.double() for batch in images], draw.task_labels))
        assert found.precision == precision
        assert found.value == pytest.approx(exact, rel=1e-9 if precision == "float64" else 1e-4)
        # Where float32 is left, it would have been wrong.
        rounded = zico(loss_gradients(draw.network, images, draw.task_labels))
        assert (rounded != pytest.approx(exact, rel=1e-3)) == (precision == "float64")


def test_all_scores_together_cost_one_pass_and_no_other_forward_of_the_loss(monkeypatch):
    counts = {"pass": 0, "forward": 0, "onlooker": 0, "backward": 0}

    def counted(kind, function):
        def wrapper(*arguments, **options):
            counts[kind] += 1
            return function(*arguments, **options)

        return wrapper

    monkeypatch.setattr(evidence, "tangent_and_last_layer_kernel", counted("pass", tangent_and_last_layer_kernel))
    monkeypatch.setattr(evidence, "code_kernel", counted("forward", code_kernel))
    monkeypatch.setattr(evidence, "look_on", counted("onlooker", look_on))
    monkeypatch.setattr(evidence, "loss_gradients", counted("backward", loss_gradients))
    variants = ("metantk_cond_anil", "metantk_cond_maml_time1", "metantk_regression_loss_anil_ridge0.1")
    assert all(draw.value is not None for draws in scored(scores=(*SCORES, *variants)).values() for draw in draws)
    assert counts == {"pass": 2, "forward": 0, "onlooker": 0, "backward": 0}
    counts.update(dict.fromkeys(counts, 0))
    scored(scores=("synflow", "linear_regions", "params"))
    assert not any(counts.values())
    scored(scores=("naswot", "zico"))
    assert counts == {"pass": 0, "forward": 2, "onlooker": 2, "backward": 0}


def test_a_score_does_not_depend_on_which_others_are_computed_nor_on_anything_drawn_before():
    together = scored()
    torch.manual_seed(99)
    for name in SCORES:
        assert scored(scores=(name,))[name] == together[name], name
    fewer = scored(num_inits=1)
    assert all(fewer[name][0] == together[name][0] for name in SCORES)


def test_scoring_leaves_the_global_random_state_and_gradient_mode_untouched():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with torch.no_grad():
        under_no_grad = scored()
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert under_no_grad == scored()


def test_kernel_of_all_logits_is_that_of_their_sum_averaged_over_the_signs_of_the_heads_rows():
    network, images = tiny(), IMAGES.flatten(0, 1)
    every = tangent_and_last_layer_kernel(network, images, outputs="trace")
    rows = network.head.weight.detach().clone()
    total, last = torch.zeros(12, 12, dtype=DOUBLE), torch.zeros(12, 12, dtype=DOUBLE)
    for signs in itertools.product((1.0, -1.0), repeat=3):
        with torch.no_grad():
            network.head.weight.copy_(rows * torch.tensor(signs, dtype=DOUBLE)[:, None])
        kernels = tangent_and_last_layer_kernel(network, images, outputs="sum")
        assert kernels.nngp is not None
        total, last = total + kernels.ntk / 8, last + kernels.nngp / 8
        assert not torch.allclose(kernels.ntk, every.ntk, rtol=0.01)
    torch.testing.assert_close(total, every.ntk, rtol=1e-10, atol=0)
    assert every.nngp is not None
    torch.testing.assert_close(last, every.nngp, rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("changes", "scheme", "outputs"),
    [({"outputs": "trace"}, "kaiming", "trace"), ({"initialisation": "orthogonal"}, "orthogonal", "sum")],
)
def test_configured_outputs_and_initialisation_are_those_of_the_kernel(changes, scheme, outputs):
    config = ScoringConfig(**{**CONFIG.model_dump(), **changes})
    network = build(cell(), CONFIG.network, in_channels=1, ways=3, variant="scoring")
    initialise(network, 3, "score", "init", 1, scheme=scheme)
    episodes = scoring_episodes(source(), config, 3, 1)
    batch = torch.cat([e.query_images for e in episodes] + [e.support_images for e in episodes])
    trace = tangent_and_last_layer_kernel(network, batch, outputs=outputs).ntk.trace().item()
    assert scored(scores=("ntk_trace",), **changes)["ntk_trace"][1].value == pytest.approx(trace, rel=1e-6)
    assert scored(scores=("ntk_trace",))["ntk_trace"][1].value != pytest.approx(trace, rel=0.01)


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("metantk_cond_anil", {"algorithm": "anil"}),
        ("metantk_cond_time1e-3", {"time": 1e-3}),
        ("metantk_cond_anil_time0.5_ridge1e-5", {"algorithm": "anil", "time": 0.5, "ridge": 1e-5}),
        ("metantk_logdet_anil", {"algorithm": "anil"}),
        ("metantk_trace_ratio_ridge0.1", {"ridge": 0.1}),
        ("metantk_spectral_entropy_anil_time1e-3", {"algorithm": "anil", "time": 1e-3}),
        ("metantk_regression_loss_anil_ridge0", {"algorithm": "anil", "ridge": 0.0}),
        ("metantk_regression_accuracy_maml_timeinf", {}),
    ],
)
def test_inner_loop_in_a_name_gives_what_the_configured_one_gives(variant, changes):
    plain_name = next(name for name in SCORES if variant.startswith(name))
    assert scored(scores=(variant,))[variant] == scored(scores=(plain_name,), **changes)[plain_name]
    if changes:
        assert scored(scores=(variant,))[variant] != scored(scores=(plain_name,))[plain_name]


def test_table_understands_inner_loops_in_names_and_lists_plain_ones():
    definition = SCORES["metantk_cond_anil_time1_ridge1e-5"]
    assert definition.name == "metantk_cond_anil_time1_ridge1e-5"
    assert definition.inner_loop == InnerLoop("anil", 1.0, 1e-5)
    assert definition.label == "MetaNTK condition number (ANIL, τ = 1, λ = 1e-05)"
    assert (definition.direction, definition.scale) == ("lower", "log10")
    assert SCORES["metantk_cond_timeinf"].label == "MetaNTK condition number (τ = ∞)"
    assert definition.name not in list(SCORES)
    assert definition.meaning == SCORES["metantk_cond"].meaning
    assert len(list(SCORES)) == len(SCORES)


@pytest.mark.parametrize(
    "name",
    ["metantk_cond_sgd", "ntk_cond_anil", "metantk_cond_", "metantk_cond_ridgeinf", "metantk_cond_ridge1e999",
     "metantk_cond_time-1", "metantk_cond_ridge1_time1", "metantk_cond_anil_maml", "_anil", ""],
)  # fmt: skip
def test_name_of_no_score_is_refused(name):
    assert name not in SCORES
    with pytest.raises(ValidationError, match="unknown score"):
        ScoringConfig(scores=(name,))


@pytest.mark.parametrize("name", ["zico", "metantk_regression_accuracy", "metantk_regression_loss_anil"])
def test_score_that_compares_episodes_needs_two(name):
    assert ScoringConfig(scores=(name,), tasks=2).scores == (name,)
    with pytest.raises(ValidationError, match=f"{name} compares episodes and needs tasks of at least 2, not 1"):
        ScoringConfig(scores=(name,), tasks=1)


def test_network_without_any_signal_is_degenerate_in_all_scores_but_the_counts():
    found = scored(cell(NOTHING))
    for name, draws in found.items():
        for draw in draws:
            if name in ("params", "flops", "l2_norm", "meco"):  # weights, and the maps of the stem
                assert draw.outcome is Outcome.OK
            elif name in ("linear_regions", "swap"):
                assert draw.value == 1.0
            elif name == "swap_regularised":
                assert draw.value is not None
                assert draw.value < 1.0
            else:
                assert draw.outcome is Outcome.DEGENERATE, name
                assert draw.reason


def test_network_whose_numbers_are_lost_is_non_finite_in_all_scores_but_the_counts(monkeypatch):
    def explode(network, seed, *purpose, **options):
        initialise(network, seed, *purpose, **options)
        with torch.no_grad():
            network.head.weight.mul_(math.nan)

    monkeypatch.setattr(scorer, "initialise", explode)
    for name, draws in scored().items():
        # What looks at maps alone, or draws weights of its own, does not see the head.
        headless = ("params", "flops", "zen", "az_expressivity", "az_progressivity", "az_trainability", "meco")
        wanted = Outcome.OK if name in headless else Outcome.NON_FINITE
        assert all(draw.outcome is wanted for draw in draws), name


@pytest.mark.parametrize(
    ("name", "value", "outcome"),
    [
        ("snip", 0.0, Outcome.DEGENERATE),
        ("snip", math.inf, Outcome.NON_FINITE),
        ("snip", 2.0, Outcome.OK),
        ("plain", -1.0, Outcome.OK),
        ("plain", math.nan, Outcome.NON_FINITE),
        ("zico", -math.inf, Outcome.DEGENERATE),
    ],
)
def test_number_that_has_no_place_on_its_scale_is_an_outcome_with_a_reason(name, value, outcome):
    score = functions.checked(name, value)
    assert score.outcome is outcome
    assert (score.value == value) if outcome is Outcome.OK else score.reason


def test_darts_candidate_and_supernet_get_every_score():
    genotype = parse_genotype("darts_fewshot", DARTS)
    found = scored(genotype, network={"channels": 4, "cells": 3}, num_inits=1)
    assert all(draw.outcome is Outcome.OK for draws in found.values() for draw in draws), found


def test_documentation_lists_exactly_the_scores_as_they_are_defined():
    text = (Path(__file__).parents[2] / "docs" / "scores.md").read_text(encoding="utf-8")
    table = text.split("<!-- scores -->")[1].split("<!-- end -->")[0]
    rows = [[part.strip() for part in line.strip("|").split(" | ")] for line in table.strip().splitlines()[2:]]
    assert [(row[0], row[2], row[3], row[5]) for row in rows] == [
        (f"`{name}`", definition.direction, definition.scale, definition.cost) for name, definition in SCORES.items()
    ]
    assert all(row[1] and row[4] for row in rows)
