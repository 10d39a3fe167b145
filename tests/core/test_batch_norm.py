"""Batch normalisation of other people's networks: what stands in its place keeps everything but the mixing.

Axes: n images · c channels.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metantk_core.errors import InputError
from metantk_core.networks import (
    BATCH_NORM_TREATMENTS,
    batch_norm_to_group_norm,
    batch_norm_to_running_statistics,
    mixes_images,
)
from metantk_core.networks.normalisation import groups_of

LAYERS = {
    "one axis": (nn.BatchNorm1d, (3, 12, 5)),
    "two axes": (nn.BatchNorm2d, (3, 12, 4, 5)),
    "three axes": (nn.BatchNorm3d, (3, 12, 2, 3, 4)),
    "synchronised": (nn.SyncBatchNorm, (3, 12, 4, 5)),
}


def filled(layer: nn.Module) -> Any:
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.linspace(-1, 2 + number, parameter.numel()))
    return layer


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_group_normalisation_stands_in_with_the_same_parameters_and_epsilon(name, affine):
    kind, shape = LAYERS[name]
    layer = filled(kind(12, eps=0.01, affine=affine)).eval()
    network: Any = batch_norm_to_group_norm(nn.Sequential(layer))
    found = network[0]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(x), F.group_norm(x, groups_of(12), layer.weight, layer.bias, 0.01))
    assert found.weight is layer.weight
    assert found.bias is layer.bias
    assert not found.training


@pytest.mark.parametrize("shape", [(4, 32), (4, 32, 1), (4, 32, 1, 1)], ids=str)
def test_images_of_one_position_are_normalised_over_all_channels(shape):
    layer = nn.BatchNorm1d(32) if len(shape) < 4 else nn.BatchNorm2d(32)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = F.layer_norm(x.flatten(1), (32,)).view(shape)
    torch.testing.assert_close(batch_norm_to_group_norm(layer)(x), expected)  # pairs would all be -1 and 1


def test_a_module_used_in_several_places_stays_one_module():
    shared = nn.BatchNorm2d(4)
    network = nn.Sequential(shared, nn.Sequential(nn.Conv2d(4, 4, 1), shared), nn.ModuleDict({"more": shared}))
    assert batch_norm_to_group_norm(network) is network
    parts: Any = network
    made = parts[0]
    assert isinstance(made, nn.GroupNorm)
    assert parts[1][1] is made
    assert parts[2]["more"] is made
    assert set(dict(network.named_parameters())) == {"0.weight", "0.bias", "1.0.weight", "1.0.bias"}


class WithActivation(nn.BatchNorm2d):
    """As timm's: normalisation, dropping and activation in one module."""

    def __init__(self, channels: int, **extra: nn.Module) -> None:
        super().__init__(channels)
        for name, module in extra.items():
            self.add_module(name, module)

    def forward(self, input):
        return self.get_submodule("act")(self.get_submodule("drop")(super().forward(input)))


def test_activation_inside_a_batch_normalisation_is_kept():
    layer = filled(WithActivation(4, act=nn.SiLU(inplace=True), drop=nn.Identity()))
    found = batch_norm_to_group_norm(layer)
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found(x), F.silu(F.group_norm(x, 2, layer.weight, layer.bias)))
    assert found.get_submodule("act") is layer.act


@pytest.mark.parametrize(
    "layer",
    [
        WithActivation(4, act=nn.ReLU(), drop=nn.Identity(), more=nn.BatchNorm2d(4)),
        WithActivation(4, drop=nn.Identity()),
        nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4), dim=0),
    ],
    ids=["something more", "no activation", "parametrised"],
)
def test_a_layer_that_computes_something_of_its_own_is_refused_and_nothing_is_changed(layer):
    network = nn.Sequential(nn.BatchNorm2d(3), layer)
    with pytest.raises(InputError, match="computes something of its own"):
        batch_norm_to_group_norm(network)
    assert type(network[0]) is nn.BatchNorm2d


def test_running_statistics_are_used_and_other_modules_stay_in_their_mode():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout())
    assert mixes_images(network[0])
    assert batch_norm_to_running_statistics(network) is network
    assert not network[0].training
    assert network[1].training
    x = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network[0](x), x / (1 + 1e-5) ** 0.5)
    with pytest.raises(InputError, match=r"^1 keeps no running statistics"):
        batch_norm_to_running_statistics(nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, track_running_stats=False)))


@pytest.mark.parametrize("treatment", BATCH_NORM_TREATMENTS)
def test_no_treatment_leaves_anything_that_mixes_images(treatment):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(72, 5), nn.BatchNorm1d(5))
    BATCH_NORM_TREATMENTS[treatment](network)
    assert not any(map(mixes_images, network.modules()))
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network(x)[:1], network(x[:1]))
