"""Networks of other people: the engine's kernel is the Gram matrix of the gradients that autograd.grad gives.

``benchmarks/own_networks.py`` has the table of all; here are those that are quick.
"""

import pytest
import torch

from benchmarks.own_networks import CASES, engine, error, images_of, loop, network_of

QUICK = ("Transformer, images first", "LSTM over rows", "Convolutions and GRU cell", "U-Net", "Shared residual block",
         "Bilinear pooling", "GRU over rows, both ways")  # fmt: skip
SLOW = ("SqueezeNet 1.1", "MobileNet v3 small", "Swin, small", "LCNet 0.5", "ViT tiny")  # their libraries take seconds


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_kernel_of_other_peoples_networks_is_that_of_a_loop_over_images(name):
    network, images = network_of(name), images_of(torch.float32)[:4]
    single = engine(network, images)
    network, images = network.double(), images.double()
    exact = loop(network, images)
    assert error(engine(network, images), exact) < 1e-12
    assert error(single, exact) < 1e-5


@pytest.mark.minutes
@pytest.mark.parametrize("batch_norm", ["group", "eval"])
@pytest.mark.parametrize("name", CASES)
def test_kernel_of_every_network_of_the_table_is_exact(name, batch_norm):
    network, images = network_of(name, batch_norm).double(), images_of(torch.float64)[:3]
    assert error(engine(network, images), loop(network, images)) < 1e-12
