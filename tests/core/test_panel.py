"""The panel of zero-cost scores against definitions written out in float64, on networks small enough for dense ones.

Axes: n images · d channels.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from metantk_core.candidates import parse_genotype, space_named
from metantk_core.kernels import parameter_names, tangent_and_last_layer_kernel
from metantk_core.networks import FewShotNetwork, NetworkConfig, batch_normalised, build, initialise
from metantk_core.scores import Outcome, Score, activations
from metantk_core.scores.activations import SamplePatterns, sample_patterns, swap, swap_regularised
from metantk_core.scores.gradients import fisher, gradsign, grasp, loss_gradients
from metantk_core.scores.jacobians import epe_nas, input_gradients, jacob_cov
from metantk_core.scores.meco import meco
from metantk_core.scores.stages import (
    StageStatistics,
    expressivity,
    gaussian_noise,
    progressivity,
    stage_statistics,
    stages_of,
    trainability,
)
from metantk_core.scores.synflow import synflow_bn
from metantk_core.scores.weights import l2_norm
from metantk_core.scores.zen import last_maps, zen
from metantk_core.seeding import generator, numpy_generator

DOUBLE = torch.float64
AnyModule = TypeVar("AnyModule", bound=nn.Module)
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"


class Tiny(nn.Module):
    """Two convolutions with normalisation after each, and a head: a module and a function as ReLUs."""

    def __init__(self, norm: type[nn.Module] = nn.GroupNorm, eps: float = 1e-5) -> None:
        super().__init__()
        make = (lambda: nn.GroupNorm(2, 4, eps)) if norm is nn.GroupNorm else (lambda: nn.BatchNorm2d(4, eps))
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = make()
        self.relu = nn.ReLU()
        self.second = nn.Conv2d(4, 4, 3, bias=False)
        self.last = make()
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.norm(self.first(x)))
        return self.head(torch.relu(self.last(self.second(x))).mean(dim=(2, 3)))


class Normalised(nn.Module):
    """A normalisation follows every weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False)
        self.norms = nn.ModuleList([nn.GroupNorm(2, 4, eps=1e-14), nn.GroupNorm(1, 4, eps=1e-14)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norms[0](self.first(x)))
        return (self.norms[1](self.second(x)) ** 2).mean(dim=(2, 3))[:, :3]


def drawn(network: AnyModule, seed: int = 0) -> AnyModule:
    source = torch.Generator().manual_seed(seed)
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source, dtype=DOUBLE) * 0.5 + 0.1)
    return network


def tiny(norm: type[nn.Module] = nn.GroupNorm, seed: int = 0, eps: float = 1e-5) -> Tiny:
    with torch.random.fork_rng(devices=[]):
        return drawn(Tiny(norm, eps), seed)


def candidate(text: str = CELL, space: str = "nasbench201", *, channels: int = 4, cells: int = 1) -> FewShotNetwork:
    config = NetworkConfig(channels=channels, cells=cells)
    with torch.random.fork_rng(devices=[]):
        network = build(parse_genotype(space, text), config, in_channels=2, ways=3, variant="scoring")
    initialise(network, 0, "panel")
    return network.double()


def value(score: Score) -> float:
    assert score.value is not None, score.reason
    return score.value


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


IMAGES = noise(2, 4, 2, 6, 6)  # two episodes of four images
LABELS = torch.tensor([[0, 1, 2, 0], [2, 1, 0, 1]])
ALL = IMAGES.flatten(0, 1)


def flat_weights(network: nn.Module) -> tuple[torch.Tensor, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Return the weights as one vector, and what computes the logits of images from such a vector."""
    values = {name: network.get_parameter(name).detach() for name in parameter_names(network, "weights")}

    def logits(vector: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        parts = vector.split([value.numel() for value in values.values()])
        shaped = {name: part.view_as(value) for (name, value), part in zip(values.items(), parts, strict=True)}
        return functional_call(network, shaped, (images,))

    return torch.cat([value.flatten() for value in values.values()]), logits


def cross_entropies(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.exp().sum(dim=1).log() - logits[torch.arange(len(labels)), labels]


# Second derivatives of the loss


@pytest.mark.parametrize("network", [tiny(), candidate(channels=2)], ids=["own", "candidate"])
def test_grasp_is_minus_weights_times_hessian_times_gradient_of_the_dense_hessian(network):
    vector, logits = flat_weights(network)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return cross_entropies(logits(weights, ALL), LABELS.flatten()).mean()

    gradient = torch.func.grad(loss)(vector)
    if len(vector) < 300:
        expected = -(vector @ torch.as_tensor(hessian(loss, vector)) @ gradient).item()
    else:  # one column of the Hessian by central differences of gradients
        step = 1e-5
        ends = [torch.func.grad(loss)(vector + sign * step * gradient) for sign in (1, -1)]
        expected = -(vector @ (ends[0] - ends[1]) / (2 * step)).item()
    found = grasp(network, tuple(IMAGES), tuple(LABELS), loss_gradients(network, tuple(IMAGES), tuple(LABELS)))
    assert found == pytest.approx(expected, rel=1e-7)


def test_grasp_of_weights_that_a_normalisation_follows_is_their_squared_gradient():
    network = drawn(Normalised())
    gradients = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    squared = sum(float(gradient.mean(dim=0).square().sum()) for gradient in gradients.by_task.values())
    assert grasp(network, tuple(IMAGES), tuple(LABELS), gradients) == pytest.approx(squared, rel=1e-8)


def test_grasp_is_zero_where_the_loss_is_linear_and_leaves_the_network_as_it_was(monkeypatch):
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).double()
    monkeypatch.setattr("torch.nn.functional.cross_entropy", lambda logits, labels: logits.mean())
    gradients = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    assert grasp(network, tuple(IMAGES), tuple(LABELS), gradients) == 0
    assert all(parameter.grad is None for parameter in network.parameters())


# Gradients image by image


@pytest.mark.parametrize("norm", [nn.GroupNorm, nn.BatchNorm2d])
def test_gradsign_is_the_sum_of_absolute_sums_of_signs_of_every_images_gradient(norm):
    network = tiny(norm)
    vector, logits = flat_weights(network)
    rows = [
        jacobian(
            lambda weights, i=i: cross_entropies(logits(weights, ALL[i : i + 1]), LABELS.flatten()[i : i + 1]), vector
        )
        for i in range(len(ALL))
    ]
    signs = np.sign(torch.cat(rows).numpy())
    assert gradsign(network, tuple(IMAGES), tuple(LABELS)) == np.abs(signs.sum(axis=0)).sum()


def test_gradsign_knows_no_order_of_images_and_counts_every_weight_where_all_are_the_same():
    network = tiny()
    order = torch.tensor([3, 0, 2, 1])
    assert gradsign(network, (IMAGES[1], IMAGES[0][order]), (LABELS[1], LABELS[0][order])) == gradsign(
        network, tuple(IMAGES), tuple(LABELS)
    )
    same, label = IMAGES[0][:1].expand(4, -1, -1, -1), LABELS[0][:1].expand(4)
    moved = gradsign(network, (same[:1],), (label[:1],))
    assert gradsign(network, (same,), (label,)) == 4 * moved
    assert 0 < moved <= sum(network.get_parameter(name).numel() for name in parameter_names(network, "weights"))


def test_gradients_of_the_loss_exist_where_weights_are_frozen_or_no_layers():
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.place = nn.Parameter(noise(2, 36))
            self.attention = nn.MultiheadAttention(36, 2, batch_first=True).double()
            self.head = nn.Linear(72, 3).double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(2) + self.place
            return self.head(self.attention(x, x, x)[0].flatten(1))

    network = drawn(Attention()).requires_grad_(False)
    names = {"place", "attention.in_proj_weight", "attention.out_proj.weight", "head.weight"}
    gradients = loss_gradients(network, tuple(IMAGES), tuple(LABELS))
    assert set(gradients.by_task) == names
    assert all(bool(gradient.any()) for gradient in gradients.by_task.values())
    vector, logits = flat_weights(network)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        return cross_entropies(logits(weights, ALL), LABELS.flatten()).mean()

    gradient = torch.func.grad(loss)(vector)
    step = 1e-5 / gradient.norm().item()
    ends = [torch.func.grad(loss)(vector + sign * step * gradient) for sign in (1, -1)]
    expected = -(vector @ (ends[0] - ends[1]) / (2 * step)).item()
    assert grasp(network, tuple(IMAGES), tuple(LABELS), gradients) == pytest.approx(expected, rel=1e-6)
    assert gradsign(network, tuple(IMAGES), tuple(LABELS)) > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


# Weights alone


def test_l2_norm_is_the_sum_of_the_layers_norms_and_grows_with_the_weights():
    network = tiny()
    layers = [network.first, network.second, network.head]
    expected = sum(math.sqrt(sum(number**2 for number in layer.weight.detach().flatten().tolist())) for layer in layers)
    assert l2_norm(network) == pytest.approx(expected, rel=1e-12)
    with torch.no_grad():
        for layer in layers:
            layer.weight *= -2
    assert l2_norm(network) == pytest.approx(2 * expected, rel=1e-12)


# Gradients by pixels


@pytest.mark.parametrize("norm", [nn.GroupNorm, nn.BatchNorm2d])
def test_input_gradients_are_those_of_the_sum_of_all_logits_with_the_moments_of_the_batch(norm):
    network = tiny(norm)
    expected = jacobian(lambda images: network(images).sum(), ALL).flatten(1)
    assert torch.allclose(input_gradients(network, ALL), expected, rtol=1e-10, atol=1e-14)
    alone = torch.cat([input_gradients(network, image[None].repeat(2, 1, 1, 1))[:1] for image in ALL])
    assert torch.allclose(alone, expected, rtol=1e-8) is (norm is nn.GroupNorm), "moments of a batch mix its images"


def test_input_gradients_of_a_frozen_network_that_begins_in_place_and_of_one_that_looks_at_nothing():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x), 3, dtype=DOUBLE)

    network = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(72, 3).double()).requires_grad_(False)
    expected = network.get_parameter("2.weight").sum(dim=0) * (ALL > 0).flatten(1)
    assert torch.allclose(input_gradients(network, ALL), expected)
    assert not input_gradients(Constant(), ALL).any()


def test_jacob_cov_is_that_of_numpy():
    rows = input_gradients(batch_normalised(candidate()), ALL)
    values = np.linalg.eigvals(np.corrcoef(rows.numpy())).real
    expected = -sum(math.log(value + 1e-5) + 1 / (value + 1e-5) for value in values)
    assert value(jacob_cov(rows)) == pytest.approx(expected, rel=1e-9)


def test_jacob_cov_knows_neither_order_nor_scale_of_images_and_punishes_two_that_are_alike():
    rows = noise(6, 40)
    found = value(jacob_cov(rows))
    scaled = rows[torch.tensor([5, 1, 0, 3, 2, 4])] * torch.tensor([1.0, 2, 3, 4, 5, 1e6])[:, None] + 3
    assert value(jacob_cov(scaled)) == pytest.approx(found, rel=1e-9)
    assert found < -6
    assert value(jacob_cov(torch.cat([rows, rows[:1]]))) < -99_000


def test_epe_nas_is_that_of_numpy_class_by_class():
    classes = torch.tensor([4, 4, 1, 1, 1, 9, 4, 7])
    rows = input_gradients(tiny(nn.BatchNorm2d), ALL)
    expected = 0.0
    for number in (1, 4, 9, 7):
        correlations = np.atleast_2d(np.corrcoef(rows[classes == number].numpy()))
        expected += abs(sum(math.log(abs(value) + 1e-5) for value in correlations.ravel()))
    assert value(epe_nas(rows, classes)) == pytest.approx(expected, rel=1e-10)
    order = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0])
    assert value(epe_nas(rows[order], 3 - classes[order])) == pytest.approx(expected, rel=1e-10)


def test_epe_nas_compares_classes_where_there_are_more_than_a_hundred():
    rows, classes = noise(202, 5), torch.arange(202) % 101
    sums = []
    for number in range(101):
        (correlation,) = {round(value, 12) for value in np.corrcoef(rows[classes == number].numpy())[[0, 1], [1, 0]]}
        sums.append((2 * math.log(1 + 1e-5) + 2 * math.log(abs(correlation) + 1e-5)) / 2)
    expected = sum(abs(one - other) for one, other in itertools.product(sums, sums)) / 101
    assert value(epe_nas(rows, classes)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("score", [jacob_cov, lambda rows: epe_nas(rows, torch.zeros(len(rows), dtype=torch.int64))])
def test_gradients_by_pixels_without_correlations_say_why(score):
    rows = noise(4, 30)
    rows[2] = 0.1
    flat = score(rows)
    assert flat.outcome is Outcome.DEGENERATE
    assert "1 images" in flat.reason
    rows[2, 3] = math.inf
    assert score(rows).outcome is Outcome.NON_FINITE


# Zen-NAS


def by_hand(network: nn.Module, seed: int, inputs: int) -> float:
    """Zen-NAS's score of the tiny network with batch normalisation, layer by layer."""
    weights = {
        name: torch.randn(network.get_parameter(name).shape, generator=generator(seed, "parameter", name)).to(DOUBLE)
        for name in ("first.weight", "second.weight")
    }
    x, epsilon = torch.randn(2, inputs, 2, 6, 6, generator=generator(seed, "inputs")).to(DOUBLE)
    variances = []

    def maps(values: torch.Tensor, *, remember: bool) -> torch.Tensor:
        for name, padding in (("first.weight", 1), ("second.weight", 0)):
            values = F.conv2d(values, weights[name], padding=padding)
            for channel in range(4):
                own = values[:, channel]
                variance = ((own - own.mean()) ** 2).mean()
                values[:, channel] = (own - own.mean()) / (variance + 1e-5).sqrt()
                if remember:
                    variances.append(variance.item())
            values = values.clamp_min(0)
        return values

    moved = maps(x + 0.01 * epsilon, remember=False) - maps(x, remember=True)
    distance = sum(math.sqrt((difference**2).sum().item()) for difference in moved) / inputs
    return math.log(distance) + sum(math.log(math.sqrt(sum(part) / 4)) for part in (variances[:4], variances[4:]))


def test_zen_is_the_definition_layer_by_layer():
    class Maps(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.last(self.second(self.relu(self.norm(self.first(x))))))

    seed = int(torch.randint(2**62, (), generator=generator(3, "zen")))
    network = drawn(Maps(nn.BatchNorm2d))
    found = zen(network, (2, 6, 6), generator(3, "zen"), inputs=5)
    assert value(found) == pytest.approx(by_hand(network, seed, 5), rel=1e-9)
    whole = zen(tiny(nn.BatchNorm2d), (2, 6, 6), generator(3, "zen"), inputs=5)
    assert value(whole) == pytest.approx(value(found), rel=1e-12), "the head and the pooling before it do not count"


def test_zen_sees_neither_the_weights_nor_the_global_random_state():
    network = batch_normalised(candidate())
    before, state = {name: value.clone() for name, value in network.state_dict().items()}, torch.get_rng_state()
    first = zen(network, (2, 8, 8), generator(0, "zen"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert zen(drawn(network, 5), (2, 8, 8), generator(0, "zen")) == first
    assert zen(network, (2, 8, 8), generator(1, "zen")) != first


def test_zen_of_two_cells_that_compute_the_same_is_the_same():
    zero = "|none~0|+|nor_conv_3x3~0|{}~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
    scores = [
        zen(batch_normalised(candidate(zero.format(operation))), (2, 8, 8), generator(0, "zen"))
        for operation in ("none", "nor_conv_3x3", "skip_connect")
    ]
    assert value(scores[1]) == pytest.approx(value(scores[0]), rel=1e-12), "normalised zeros count as nothing"
    assert value(scores[2]) == pytest.approx(value(scores[0]), rel=1e-12)


def test_zen_of_maps_that_do_not_depend_on_the_input_is_degenerate():
    nothing = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    found = zen(batch_normalised(candidate(nothing)), (2, 8, 8), generator(0, "zen"))
    assert found.outcome is Outcome.DEGENERATE
    flat = zen(nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), (2, 8, 8), generator(0, "zen"))
    assert "no feature maps" in flat.reason


def test_last_maps_of_any_module_are_those_before_its_global_pooling():
    class Wrapped(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    def maps(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        found = last_maps(network)(images)
        assert found is not None
        return found

    network = candidate()
    with torch.no_grad():
        assert torch.equal(maps(Wrapped(network), noise(3, 2, 8, 8)), network.body(noise(3, 2, 8, 8)))
        pooled = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 3, 1)).double()
        assert torch.equal(maps(pooled, ALL), pooled[:2](ALL))
        assert last_maps(nn.Sequential(nn.Flatten(), nn.Linear(72, 3).double()))(ALL) is None


# AZ-NAS


class Chain(nn.Module):
    """Three stages: the second halves an odd size, the third keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.reduce = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 4, 3, stride=2, padding=1))
        self.keep = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1))
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.keep(self.reduce(self.stem(x))).mean(dim=(2, 3)))


def chain() -> Chain:
    with torch.random.fork_rng(devices=[]):
        network = Chain()
    return drawn(network)


def test_scores_of_stages_are_their_definitions_from_dense_jacobians():
    network, inputs = chain(), noise(2, 2, 5, 5)
    stages = (network.stem, network.reduce, network.keep)
    statistics = stage_statistics(network, stages, inputs, generator(0, "signs"))
    with torch.no_grad():
        features = [network.stem(inputs)]
        features.append(network.reduce(features[0]))
        features.append(nn.Sequential(nn.ReLU(), network.keep[1])(features[1]))
    entropies = []
    for maps in features:
        spectrum = np.linalg.eigvalsh(np.cov(maps.transpose(0, 1).flatten(1).numpy()))
        shares = spectrum / spectrum.sum()
        entropies.append(-sum(share * math.log(share) for share in shares))
    assert statistics.entropies == pytest.approx(entropies, rel=1e-9)
    assert value(expressivity(statistics)) == pytest.approx(sum(entropies), rel=1e-9)
    grown = min(entropies[1] - entropies[0], entropies[2] - entropies[1])
    assert value(progressivity(statistics)) == pytest.approx(grown, rel=1e-9)

    random, norms = generator(0, "signs"), []
    for stage, before, after, step in ((network.reduce, *features[:2], 2), (network.keep, *features[1:], 1)):
        signs = torch.randint(2, after.shape, generator=random).to(DOUBLE) * 2 - 1
        dense = jacobian(lambda x, stage=stage: stage(x.clone()), before)
        gradient = torch.einsum("abcd,abcdefgh->efgh", signs, dense)
        (n, d, h, w), c = after.shape, before.shape[1]
        estimate = np.zeros((c * step * step, d))
        for image, row, column in itertools.product(range(n), range(h), range(w)):
            behind = np.zeros((c, step, step))
            for down, right in itertools.product(range(step), range(step)):
                y, x = row * step + down, column * step + right
                if y < before.shape[2] and x < before.shape[3]:
                    behind[:, down, right] = gradient[image, :, y, x]
            estimate += np.outer(behind.ravel(), signs[image, :, row, column]) / (n * h * w)
        norms.append(np.linalg.svd(estimate, compute_uv=False)[0])
    assert statistics.norms == pytest.approx(norms, rel=1e-9)
    assert value(trainability(statistics)) == pytest.approx(np.mean([2 - s - 1 / s for s in norms]), rel=1e-9)


@pytest.mark.parametrize("space", ["nasbench201", "darts_fewshot"])
def test_stages_of_our_networks_are_stem_cells_and_reductions_and_their_gradients_those_of_the_whole_graph(space):
    cell = space_named(space).sample(numpy_generator(2, "stages"))
    network = batch_normalised(candidate(str(cell), space, channels=2, cells=3 if space != "nasbench201" else 1))
    inputs = noise(3, 2, 8, 8)
    stages = stages_of(network, inputs)
    assert len(stages) == (6 if space == "nasbench201" else 4)
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, arguments: object, output: Any) -> None:
        kept.append(output[-1] if isinstance(output, list) else output)

    hooks = [stage.register_forward_hook(keep) for stage in stages]
    logits = network(inputs)
    for hook in hooks:
        hook.remove()
    random, norms = generator(0, "signs"), []
    for before, after in itertools.pairwise(kept):
        signs = torch.randint(2, after.shape, generator=random).to(DOUBLE) * 2 - 1
        (gradient,) = torch.autograd.grad(after, before, signs, retain_graph=True)
        if gradient.shape == signs.shape and torch.equal(gradient, signs):
            norms.append(math.inf)
            continue
        step = gradient.shape[-1] // signs.shape[-1]
        gradient = F.pixel_unshuffle(gradient, step)
        estimate = torch.einsum("nahw,nbhw->ab", gradient, signs) / signs[:, 0].numel()
        norms.append(torch.linalg.svdvals(estimate)[0].item())
    statistics = stage_statistics(network, stages, inputs, generator(0, "signs"))
    assert statistics.norms == pytest.approx(norms, rel=1e-9)
    assert torch.equal(network(inputs), logits), "the network is left as it is"


def test_stages_of_any_module_are_the_blocks_that_convolve_and_hand_on_maps():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.layers = nn.Linear(4, 3), nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
            self.norm, self.conv = nn.BatchNorm2d(4), nn.Conv2d(2, 4, 3, padding=1)
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.conv(x)))
            for layer in self.layers:
                x = x + layer(x)
            return self.fc(self.pool(x).flatten(1))

    network = Residual().double()
    assert stages_of(network, ALL) == (network.conv, network.layers[0], network.layers[1])
    block = nn.Sequential(network.layers[0])
    inside = nn.Sequential(nn.Sequential(network.conv, nn.ReLU(), block), nn.Flatten())
    assert stages_of(inside, ALL) == (network.conv, block)
    attention = nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(36, 2, 8, dropout=0).double(), nn.Flatten())
    assert stages_of(attention, ALL) == ()
    statistics = stage_statistics(attention, (), ALL, generator(0, "signs"))
    assert {score(statistics).outcome for score in (expressivity, progressivity, trainability)} == {Outcome.DEGENERATE}


@pytest.mark.parametrize(
    ("block", "words"), [(nn.Identity(), "unchanged"), (nn.Threshold(1e9, 0.0), "nowhere")], ids=["identity", "zeros"]
)
def test_stage_that_estimates_no_jacobian_makes_trainability_degenerate(block, words):
    network = nn.Sequential(nn.Conv2d(2, 3, 3).double(), nn.ReLU(), block)
    statistics = stage_statistics(network, (network[0], network[2]), ALL, generator(0, "signs"))
    if words == "unchanged":
        statistics = stage_statistics(network, (network[1], network[2]), ALL, generator(0, "signs"))
    found = trainability(statistics)
    assert found.outcome is Outcome.DEGENERATE
    assert f"stage 2 {words}" in found.reason
    if words == "nowhere":
        assert "stage 2 are the same everywhere" in expressivity(statistics).reason


def test_scores_of_stages_that_overflow_are_non_finite():
    statistics = StageStatistics((1.0, math.nan), (math.nan,), finite=False)
    assert {score(statistics).outcome for score in (expressivity, progressivity, trainability)} == {Outcome.NON_FINITE}


def test_entropy_of_a_stage_is_at_most_the_logarithm_of_its_channels_and_knows_no_scale():
    class Spread(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.mix, self.scale = nn.Conv2d(4, 4, 1).double(), scale
            with torch.no_grad():
                self.mix.weight.copy_(torch.eye(4)[:, :, None, None] * scale)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(x)

    inputs = gaussian_noise((4, 16, 16), generator(0, "noise"), inputs=64).double()
    found = []
    for scale in (1.0, 1e-3):
        network = Spread(scale)
        statistics = stage_statistics(network, (network.mix,), inputs, generator(0, "signs"))
        found.append(value(expressivity(statistics)))
    assert found[0] == pytest.approx(math.log(4), abs=1e-3)
    assert found[0] <= math.log(4)
    assert found[1] == pytest.approx(found[0], rel=1e-9)


# SWAP


def patterns_by_hand(network: Tiny, images: torch.Tensor) -> int:
    with torch.no_grad():
        first = torch.relu(network.norm(network.first(images)))
        second = torch.relu(network.last(network.second(first)))
    units = torch.cat([first.flatten(1), second.flatten(1)], dim=1) > 0
    return len({tuple(column) for column in units.T.tolist()})


def patterns_of(network: nn.Module, images: torch.Tensor) -> SamplePatterns:
    found = sample_patterns(network, images)
    assert found is not None
    return found


@pytest.mark.parametrize(("images", "waiting"), [(3, 2**20), (8, 1), (64, 50), (65, 1), (130, 2**20)])
def test_swap_is_the_number_of_different_columns_of_codes(images, waiting, monkeypatch):
    monkeypatch.setattr(activations, "_PATTERNS", waiting)
    network, seen = tiny(), noise(images, 2, 6, 6)
    found = value(swap(patterns_of(network, seen)))
    assert found == patterns_by_hand(network, seen)
    assert found <= 2**images
    assert value(swap(patterns_of(network, seen.flip(0)))) == found


def test_swap_comes_out_of_the_kernel_pass_and_counts_a_shared_relu_once():
    network, images = candidate(), noise(6, 2, 8, 8)
    patterns = SamplePatterns(len(images))
    tangent_and_last_layer_kernel(network, images, on_relu=patterns)
    assert patterns.count == patterns_of(network, images).count
    before = patterns.count
    output = torch.relu(noise(6, 500, seed=5))
    patterns(output)
    grown = patterns.count
    patterns(output)
    assert before <= grown == patterns.count


def test_swap_without_a_relu_is_degenerate_and_of_infinite_outputs_nothing():
    assert swap(patterns_of(nn.Flatten(), ALL)).outcome is Outcome.DEGENERATE
    assert sample_patterns(nn.Sequential(nn.ReLU(), nn.Flatten()), ALL * math.inf) is None


def test_regularised_swap_is_swap_times_a_bell_of_the_number_of_parameters():
    patterns = patterns_of(tiny(), ALL)
    found = [value(swap_regularised(patterns, count, centre=1.5, width=0.5)) for count in (1500, 1000, 2000)]
    assert found[0] == value(swap(patterns))
    assert found[1] == found[2] == pytest.approx(found[0] * math.exp(-0.5), rel=1e-12)
    assert swap_regularised(patterns, 10**9, centre=1.5, width=0.5).outcome is Outcome.DEGENERATE
    assert swap_regularised(SamplePatterns(3), 1, centre=1.0, width=1.0).reason == "the network has no ReLU"


# MeCo


def test_meco_is_the_sum_of_smallest_eigenvalues_of_numpys_correlations():
    network = tiny(nn.BatchNorm2d)
    image = torch.randn(1, 2, 9, 9, generator=generator(0, "meco")).double()
    kept = []
    with torch.no_grad():
        for layer in (network.first, network.second):
            layer.register_forward_hook(lambda module, arguments, output: kept.append(output[0].flatten(1).numpy()))
        network(image)
    expected = sum(np.linalg.eigvalsh(np.corrcoef(maps))[0] for maps in kept)
    found = value(meco(network, 2, generator(0, "meco"), size=9))
    assert found == pytest.approx(expected, rel=1e-9)
    assert 0 < found < 2


def test_meco_knows_no_scale_of_channels_and_sees_convolutions_that_are_no_modules():
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(noise(4, 2, 3, 3)), nn.Parameter(noise(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.conv2d(x, self.weight, self.bias)

    network = Functional()
    found = value(meco(network, 2, generator(0, "meco"), size=9))
    with torch.no_grad():
        scales = torch.tensor([1.0, -2.0, 3.0, 1e-3], dtype=DOUBLE)
        network.weight.mul_(scales[:, None, None, None])
        network.bias.add_(5)
    assert found > 0
    assert value(meco(network, 2, generator(0, "meco"), size=9)) == pytest.approx(found, rel=1e-6)


def test_meco_counts_maps_with_a_constant_channel_or_too_few_pixels_as_zero():
    network = nn.Conv2d(2, 4, 3).double()
    assert value(meco(network, 2, generator(0, "meco"), size=4)) == 0, "four pixels, four channels"
    assert value(meco(network, 2, generator(0, "meco"), size=9)) > 0
    with torch.no_grad():
        network.weight[1] = 0
    assert value(meco(network, 2, generator(0, "meco"), size=9)) == 0
    assert meco(nn.Flatten(), 2, generator(0, "meco")).outcome is Outcome.DEGENERATE
    with torch.no_grad():
        network.weight[1] = math.nan
    assert meco(network, 2, generator(0, "meco"), size=9).outcome is Outcome.NON_FINITE


# SynFlow with normalisation


def test_synflow_bn_is_the_flow_of_absolute_weights_through_batch_normalisation_written_out():
    network = tiny(nn.BatchNorm2d)
    values = {name: value.detach().abs().requires_grad_() for name, value in network.named_parameters()}

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(dim=(0, 2, 3), keepdim=True)
        scaled = centred / (centred.square().mean(dim=(0, 2, 3), keepdim=True) + 1e-5).sqrt()
        return scaled * values[f"{name}.weight"][:, None, None] + values[f"{name}.bias"][:, None, None]

    x = F.conv2d(torch.ones(1, 2, 6, 6, dtype=DOUBLE), values["first.weight"], values["first.bias"], padding=1)
    x = normalised(F.conv2d(torch.relu(normalised(x, "norm")), values["second.weight"]), "last")
    flow = (torch.relu(x).mean(dim=(2, 3)) @ values["head.weight"].T + values["head.bias"]).sum()
    names = ("first.weight", "second.weight", "head.weight")
    slopes = torch.autograd.grad(flow, [values[name] for name in names])
    expected = sum(
        float((values[name] * slope).abs().sum().detach()) for name, slope in zip(names, slopes, strict=True)
    )
    assert value(synflow_bn(network, (2, 6, 6))) == pytest.approx(math.log(expected), rel=1e-9)


def test_synflow_bn_knows_no_scale_and_no_sign_of_weights_that_a_normalisation_follows():
    network = tiny(nn.BatchNorm2d, eps=1e-14)
    found = value(synflow_bn(network, (2, 6, 6)))
    with torch.no_grad():
        network.first.weight *= -3
        network.second.weight *= 0.1
    assert value(synflow_bn(network, (2, 6, 6))) == pytest.approx(found, rel=1e-9)
    assert network.first.weight.dtype is DOUBLE


def test_synflow_bn_without_a_flow_or_without_moments_says_so():
    nothing = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    zero = candidate(nothing)
    with torch.no_grad():
        zero.get_parameter("head.weight").zero_()
    assert synflow_bn(batch_normalised(zero), (2, 8, 8)).outcome is Outcome.DEGENERATE
    single = synflow_bn(batch_normalised(candidate()), (2, 4, 4))
    assert single.outcome is Outcome.DEGENERATE
    assert "single pixel" in single.reason
    huge = tiny(nn.BatchNorm2d)
    with torch.no_grad():
        huge.head.weight.fill_(math.inf)
    assert synflow_bn(huge, (2, 6, 6)).outcome is Outcome.NON_FINITE


def test_fisher_of_a_linear_layer_between_positions_sums_over_positions_within_a_feature():
    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = torch.nn.Linear(8, 5), torch.nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x[:, 0]).tanh().mean(dim=1))

    torch.manual_seed(0)
    network = Tokens().double()
    images, labels = torch.randn(6, 1, 4, 8, dtype=torch.float64), torch.arange(6) % 3
    expected = 0.0
    outputs = network.features(images[:, 0])
    logits = network.head(outputs.tanh().mean(dim=1))
    slopes = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, labels), [outputs, logits])
    for activation, slope in zip((outputs, logits), slopes, strict=True):
        for channel in range(activation.shape[-1]):
            products = activation[..., channel].detach() * slope[..., channel]
            expected += 0.5 * (products.reshape(6, -1).sum(dim=1) ** 2).mean().item()
    assert fisher(loss_gradients(network, [images], [labels])) == pytest.approx(expected, rel=1e-10)
