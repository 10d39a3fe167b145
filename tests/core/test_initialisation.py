"""How weights are drawn: each scheme against its definition, and what all of them have in common."""

import math

import pytest
import torch
from torch import nn

from metantk_core.candidates import space_named
from metantk_core.kernels import empirical_ntk
from metantk_core.networks import NetworkConfig, build, initialise
from metantk_core.networks.initialisation import _WEIGHTS

SCHEMES = tuple(_WEIGHTS)


class Layers(nn.Module):
    """One layer of each kind, large enough to see how its weights are distributed."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(6, 40, 3)
        self.expanding = nn.Conv2d(8, 300, 1, bias=False)
        self.depthwise = nn.Conv2d(500, 500, 3, groups=500)
        self.grouped = nn.Conv2d(12, 8, 3, groups=2, bias=False)
        self.norm = nn.GroupNorm(2, 8)
        self.linear = nn.Linear(700, 60)
        self.wide = nn.Linear(20, 900)


def layers(scheme, seed: int = 0) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        made = Layers()
    initialise(made, seed, "test", scheme=scheme)
    return {name: parameter.detach() for name, parameter in made.named_parameters()}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_norms_are_neutral_and_biases_zero_but_for_those_of_torchs_own_layers(scheme):
    found = layers(scheme)
    assert torch.equal(found["norm.weight"], torch.ones(8))
    assert torch.equal(found["norm.bias"], torch.zeros(8))
    for name in ("plain", "depthwise", "linear", "wide"):
        assert bool(found[f"{name}.bias"].any()) is (scheme == "torch_default")


@pytest.mark.parametrize("scheme", ["kaiming", "orthogonal"])
def test_mean_square_of_weights_is_two_over_fan_in(scheme):
    for name, weight in layers(scheme).items():
        if weight.dim() > 1 and weight.numel() > 2000:
            expected = 2 / weight[0].numel()
            # Orthogonal ones have it exactly; the others within four standard errors of a mean square.
            margin = 1e-5 if scheme == "orthogonal" else 4 * math.sqrt(2 / weight.numel())
            assert weight.square().mean().item() == pytest.approx(expected, rel=margin), name


def test_orthogonal_rows_are_orthogonal_of_one_length_in_each_group_and_columns_where_there_are_more_outputs():
    found = layers("orthogonal")
    for name, groups in (("plain", 1), ("linear", 1), ("grouped", 2), ("depthwise", 500)):
        for block in found[f"{name}.weight"].flatten(1).double().chunk(groups):
            torch.testing.assert_close(
                block @ block.mT, 2 * torch.eye(len(block), dtype=torch.float64), atol=1e-5, rtol=0
            )
    for name, outputs, inputs in (("expanding", 300, 8), ("wide", 900, 20)):
        weight = found[f"{name}.weight"].flatten(1).double()
        expected = 2 * outputs / inputs * torch.eye(inputs, dtype=torch.float64)
        torch.testing.assert_close(weight.mT @ weight, expected, atol=1e-4, rtol=0)


def test_orthogonal_weights_point_in_all_directions_alike():
    # Of a uniform unit vector in nine dimensions the mean is zero and every square has the mean 1/9.
    directions = layers("orthogonal")["depthwise.weight"].flatten(1) / math.sqrt(2)
    assert directions.mean(dim=0).abs().max() < 4 / math.sqrt(9 * 500)
    assert (directions.square().mean(dim=0) - 1 / 9).abs().max() < 4 * math.sqrt(2) / 9 / math.sqrt(500)


def test_torch_default_is_distributed_as_what_torchs_modules_draw_by_themselves():
    found = layers("torch_default")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = dict(Layers().named_parameters())
    grid = torch.linspace(0.05, 0.95, 7)
    for name in ("plain", "expanding", "depthwise", "linear", "wide"):
        for kind in ("weight", "bias"):
            full = f"{name}.{kind}"
            if full not in found or found[full].numel() < 400:
                continue
            ours, torchs = (values.detach().flatten() for values in (found[full], theirs[full]))
            bound = torchs.abs().max().item()
            assert ours.abs().max().item() == pytest.approx(bound, rel=0.02), full
            gaps = (torch.quantile(ours, grid) - torch.quantile(torchs, grid)).abs().max().item()
            assert gaps < 4 * bound / math.sqrt(len(ours)), full


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_depend_on_seed_name_and_scheme_and_on_nothing_else(scheme):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = layers(scheme)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    again, other = layers(scheme), layers(scheme, seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["linear.weight"], other["linear.weight"])
    assert all(not torch.equal(first["linear.weight"], layers(s)["linear.weight"]) for s in SCHEMES if s != scheme)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("space", ["nasbench201", "darts_fewshot"])
def test_supernet_shares_weights_with_what_is_left_of_it_and_has_a_kernel(scheme, space):
    supernet = space_named(space).supernet()
    edge = next(edge for edge in supernet.edges if len(edge.operations) > 1)
    made = []
    with torch.random.fork_rng(devices=[]):
        for genotype in (supernet, supernet.without(edge, edge.operations[-1])):
            made.append(build(genotype, NetworkConfig(channels=4, cells=1), in_channels=1, ways=3, variant="scoring"))
            initialise(made[-1], 0, "test", scheme=scheme)
    whole = made[0].state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in made[1].state_dict().items())
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    kernel = empirical_ntk(made[1], images)
    assert bool(kernel.isfinite().all())
    assert bool((kernel.diagonal() > 0).all())


def test_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="expected one of kaiming, orthogonal, torch_default as scheme, got 'xavier'"):
        initialise(nn.Linear(2, 2), 0, scheme="xavier")
