"""All implementations of the tangent kernel against each other, on search spaces and on odd modules.

Axes: n images · k logits · p all chosen parameters.
"""

import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from metantk_core.candidates import SPACES, space_named
from metantk_core.kernels import (
    IMPLEMENTATIONS,
    Kernels,
    Outputs,
    ParameterChoice,
    outputs_with_relus,
    parameter_names,
    tangent_and_last_layer_kernel,
)
from metantk_core.kernels import engine as engine_module
from metantk_core.kernels.layer_grams import (
    Convolution,
    convolution,
    convolution_gram,
    input_gradient,
    without_unseen_pixels,
)
from metantk_core.kernels.parameters import head_names
from metantk_core.networks import NetworkConfig, build, initialise

DOUBLE = torch.float64


def by_loop(network, x, *, parameters: ParameterChoice = "weights", outputs: Outputs = "sum") -> Kernels:
    """The definition: gradients by one backward pass for each image (and logit), and their inner products."""
    names = parameter_names(network, parameters)
    values = {name: value.detach() for name, value in network.named_parameters()}
    leaves = {name: values[name].requires_grad_() for name in names}
    head = head_names(network)
    rows: list[list[torch.Tensor]] = []
    for image in x:
        logits = functional_call(network, values, (image[None].clone(),)).flatten()
        wanted = [logits.sum()] if outputs == "sum" else list(logits)
        rows.append([])
        for value in wanted:
            found = torch.autograd.grad(value, list(leaves.values()), retain_graph=True, materialize_grads=True)
            rows[-1].append(torch.cat([gradient.flatten() for gradient in found]))
    jacobian = torch.stack([torch.stack(row) for row in rows]).double()  # n k p
    of_head = torch.cat(
        [torch.full((value.numel(),), float(bool(head) and name in head)) for name, value in leaves.items()]
    ).double()
    ntk = torch.einsum("akp,bkp->ab", jacobian, jacobian)
    nngp = torch.einsum("akp,bkp,p->ab", jacobian, jacobian, of_head)
    with torch.no_grad():
        return Kernels(ntk, None if head is None else nngp, network(x.clone()).flatten(1).sum(1).double())


EVERY = {**IMPLEMENTATIONS, "loop": by_loop}


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE).to(dtype)


def refill(network: nn.Module, dtype: torch.dtype = DOUBLE) -> nn.Module:
    network = network.to(dtype)
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(0.4 * draw(*parameter.shape, seed=number + 1) + 0.1)
    return network


def assert_same(found: Kernels, expected: Kernels, tolerance: float) -> None:
    for left, right in ((found.ntk, expected.ntk), (found.nngp, expected.nngp), (found.outputs, expected.outputs)):
        assert (left is None) == (right is None)
        if left is not None and right is not None:
            assert left.dtype == DOUBLE
            torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance * right.abs().max().item())


GENOTYPES = {
    f"{space}-{name}": genotype
    for space in SPACES
    for name, genotype in (
        ("supernet", space_named(space).supernet()),
        ("one", space_named(space).sample(np.random.default_rng(1))),
    )
}


@pytest.mark.parametrize("name", GENOTYPES)
@pytest.mark.parametrize("parameters", ["weights", "weights+biases"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(DOUBLE, 1e-9), (torch.float32, 1e-5)], ids=["double", "single"])
def test_all_implementations_agree_on_candidates(name, parameters, dtype, tolerance):
    cells = 1 if name.startswith("nasbench201") else 3
    network = build(GENOTYPES[name], NetworkConfig(channels=4, cells=cells), in_channels=2, ways=3, variant="scoring")
    initialise(network, 0, "test")
    x = draw(4, 2, 9, 9, dtype=dtype)
    kernels = {key: make(network.to(dtype), x, parameters=parameters) for key, make in EVERY.items()}
    for key in IMPLEMENTATIONS:
        assert_same(kernels[key], kernels["loop"], tolerance)


@pytest.mark.parametrize("space", SPACES)
def test_all_implementations_agree_on_the_trace(space):
    network = build(
        space_named(space).sample(np.random.default_rng(4)),
        NetworkConfig(channels=4, cells=2),
        in_channels=2,
        ways=3,
        variant="scoring",
    )
    initialise(network, 0, "test")
    x = draw(3, 2, 8, 8)
    kernels = {key: make(network.double(), x, outputs="trace") for key, make in EVERY.items()}
    for key in IMPLEMENTATIONS:
        assert_same(kernels[key], kernels["loop"], 1e-9)
    # The head's part does not depend on which of the two it is: each logit has a row of its own in its weight.
    summed = tangent_and_last_layer_kernel(network, x)
    assert summed.nngp is not None
    assert kernels["engine"].nngp is not None
    torch.testing.assert_close(kernels["engine"].nngp, summed.nngp)
    assert not torch.allclose(kernels["engine"].ntk, summed.ntk)


def test_sum_and_trace_are_the_same_for_one_logit():
    network = build(
        space_named("nasbench201").sample(np.random.default_rng(0)),
        NetworkConfig(channels=4, cells=1),
        in_channels=2,
        ways=1,
        variant="scoring",
    )
    x = draw(3, 2, 8, 8, dtype=torch.float32)
    kernels = [tangent_and_last_layer_kernel(network, x, outputs=outputs) for outputs in ("sum", "trace")]
    assert torch.equal(kernels[0].ntk, kernels[1].ntk)


@st.composite
def convolutions(pick):
    groups = pick(st.sampled_from([1, 1, 2, 4]))
    depthwise = pick(st.booleans())
    channels = groups if depthwise else groups * pick(st.integers(1, 3))
    rows = groups * (1 if depthwise else pick(st.integers(1, 3)))
    kernel = pick(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    stride, dilation = (pick(st.tuples(st.integers(1, 3), st.integers(1, 3))) for _ in range(2))
    padding = pick(st.tuples(st.integers(0, 4), st.integers(0, 4)))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [low + pick(st.sampled_from([0, 1, 3, 19])) for low in least]
    return (kernel, stride, padding, dilation, groups), channels, rows, size


@settings(max_examples=100)
@given(convolutions())
def test_gradients_of_any_convolution_are_those_of_autograd(drawn):
    settings_of_it, channels, rows, size = drawn
    conv = Convolution(*settings_of_it)
    x = draw(3, channels, *size).requires_grad_()
    weight = draw(rows, channels // conv.groups, *conv.kernel, seed=1).requires_grad_()
    y = F.conv2d(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    g = draw(*y.shape, seed=2)
    gradients = torch.stack(
        [torch.autograd.grad(y[n], weight, g[n], retain_graph=True)[0].flatten() for n in range(len(x))]
    )
    (towards,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(
        convolution_gram(x.detach(), g, conv), gradients @ gradients.mT, rtol=1e-9, atol=1e-9 * gradients.numel()
    )
    torch.testing.assert_close(input_gradient(x.detach(), weight.detach(), g, conv), towards, rtol=1e-9, atol=1e-9)


@settings(max_examples=100)
@given(convolutions())
def test_convolution_is_the_same_on_the_pixels_that_it_looks_at(drawn):
    settings_of_it, channels, rows, size = drawn
    conv = Convolution(*settings_of_it)
    x, weight = draw(3, channels, *size), draw(rows, channels // conv.groups, *conv.kernel, seed=1)
    bias = draw(rows, seed=2)
    expected = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    torch.testing.assert_close(convolution(x, weight, bias, conv), expected, rtol=1e-9, atol=1e-9)
    seen = without_unseen_pixels(tuple(size), conv)
    if seen is not None:
        pixels, smaller = seen
        few = x[(..., *pixels)]
        assert few.numel() < x.numel()
        torch.testing.assert_close(convolution(few, weight, bias, smaller), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "settings_of_it", "pixels"),
    [
        ((9, 8), ((1, 1), (2, 2), (0, 0), (1, 1), 1), (slice(0, None, 2), slice(0, None, 2))),
        ((9, 8), ((3, 3), (2, 2), (2, 2), (2, 2), 4), (slice(0, None, 2), slice(0, None, 2))),
        ((9, 8), ((3, 1), (4, 3), (3, 0), (2, 1), 1), (slice(1, None, 2), slice(0, None, 3))),
        ((9, 8), ((3, 3), (2, 2), (1, 1), (1, 1), 1), None),
    ],
)
def test_pixels_that_a_convolution_never_looks_at_are_left_out(size, settings_of_it, pixels):
    seen = without_unseen_pixels(size, Convolution(*settings_of_it))
    assert (None if seen is None else seen[0]) == pixels


# Modules of other people


class Odd(nn.Module):
    """A module of one function of images; its parameters are what ``make`` returns."""

    def __init__(self, make, forward) -> None:
        super().__init__()
        for name, module in make().items():
            setattr(self, name, module)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


def tokens(x):  # n c h w -> n (h w) c
    return x.flatten(2).mT


ODD = {
    "layer used twice": Odd(
        lambda: {"conv": nn.Conv2d(2, 2, 3, padding=1), "head": nn.Linear(2, 3)},
        lambda m, x: m.head(m.conv(m.conv(x).tanh()).mean((2, 3))),
    ),
    "weight used in another way too": Odd(
        lambda: {"conv": nn.Conv2d(2, 2, 3, padding=1), "head": nn.Linear(2, 3)},
        lambda m, x: m.head(m.conv(x).mean((2, 3))) + m.conv.weight.square().sum() * x.mean((1, 2, 3))[:, None],
    ),
    "weight made from a parameter": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(F.conv2d(x, m.conv.weight * 2 - 1, m.conv.bias).mean((2, 3))),
    ),
    "parametrised weight": Odd(
        lambda: {"conv": nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3)), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.conv(x).tanh().mean((2, 3))),
    ),
    "parameter of its own": Odd(
        lambda: {"kernel": nn.Parameter(torch.zeros(4, 2, 3, 3)), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(F.conv2d(x, m.kernel, padding="same").tanh().mean((2, 3))),
    ),
    "one axis": Odd(
        lambda: {"conv": nn.Conv1d(2, 4, 3, padding=1, stride=2, padding_mode="reflect"), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.conv(x.flatten(2)).relu().mean(2)),
    ),
    "three axes": Odd(
        lambda: {"conv": nn.Conv3d(1, 4, (2, 3, 3), groups=1), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.conv(x[:, None]).tanh().mean((2, 3, 4))),
    ),
    "transposed": Odd(
        lambda: {"up": nn.ConvTranspose2d(2, 3, 3, stride=2), "head": nn.Linear(3, 3)},
        lambda m, x: m.head(m.up(x).tanh().mean((2, 3))),
    ),
    "strided and dilated, twice from one input": Odd(
        lambda: {
            "conv": nn.Conv2d(2, 4, 3, padding=1),
            "dilated": nn.Conv2d(4, 4, 3, stride=2, dilation=2, padding=2, groups=4),
            "even": nn.Conv2d(4, 4, 1, stride=2, bias=False),
            "odd": nn.Conv2d(4, 4, 1, stride=2),
            "head": nn.Linear(4, 3),
        },
        lambda m, x: (lambda y: m.head((m.dilated(y).tanh() * m.even(y) + m.odd(y)).mean((2, 3))))(m.conv(x).tanh()),
    ),
    "padding by name": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, (2, 4), padding="same", dilation=(1, 3)), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.conv(x).tanh().mean((2, 3))),
    ),
    "linear on positions": Odd(
        lambda: {"mix": nn.Linear(2, 4), "deep": nn.Linear(4, 4, bias=False), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.deep(m.mix(tokens(x)).tanh()).tanh().mean(1)),
    ),
    "attention, images second": Odd(
        lambda: {"embed": nn.Linear(2, 4), "attention": nn.MultiheadAttention(4, 2), "head": nn.Linear(4, 3)},
        lambda m, x: (lambda t: m.head(m.attention(t, t, t)[0].mean(0)))(m.embed(tokens(x)).transpose(0, 1)),
    ),
    "as many positions as images, before them": Odd(
        lambda: {"mix": nn.Linear(2, 4), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.mix(tokens(x)[:, :4].transpose(0, 1)).tanh().mean(0)),
    ),
    "in place": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "relu": nn.ReLU(inplace=True), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.relu(m.conv(x)).mean((2, 3))),
    ),
    "in place after a pointwise convolution and a linear map of positions": Odd(
        lambda: {
            "conv": nn.Conv2d(2, 4, 1),
            "deep": nn.Conv2d(4, 4, 1, bias=False),
            "mix": nn.Linear(4, 4),
            "silu": nn.SiLU(inplace=True),
            "head": nn.Linear(4, 3),
        },
        lambda m, x: m.head(m.mix(tokens(m.silu(m.deep(m.conv(x).relu_())))).tanh_().mean(1)),
    ),
    "added in place to what layers return": Odd(
        lambda: {
            "conv": nn.Conv2d(2, 4, 1),
            "deep": nn.Conv2d(4, 4, 3, padding=1),
            "mix": nn.Linear(4, 4),
            "head": nn.Linear(4, 3),
        },
        lambda m, x: (lambda y: m.head(m.mix(tokens(m.deep(y.tanh()).add_(y))).mul_(2).mean(1)).add_(1))(m.conv(x)),
    ),
    "overwrites one of two results of pooling": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
        lambda m, x: (
            lambda y: (lambda a, b: m.head((a.mul_(2) * b).mean((2, 3))))(F.avg_pool2d(y, 2), F.avg_pool2d(y, 2))
        )(m.conv(x)),
    ),
    "overwrites its images": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "shared": nn.Linear(4, 4), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.shared(m.shared(m.conv(x.mul_(2).sub_(0.5)).tanh().mean((2, 3))))),
    ),
    "long short-term memory": Odd(
        lambda: {"rnn": nn.LSTM(2, 4, 2, batch_first=True, bidirectional=True, proj_size=2), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.rnn(tokens(x))[0][:, -1]),
    ),
    "gated recurrent units over rows, images second": Odd(
        lambda: {"rnn": nn.GRU(12, 4), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.rnn(x.movedim(2, 0).flatten(2))[0].mean(0)),
    ),
    "recurrent cell": Odd(
        lambda: {"cell": nn.RNNCell(2, 4), "head": nn.Linear(4, 3)},
        lambda m, x: (lambda t: m.head(m.cell(t[:, 1], m.cell(t[:, 0]))))(tokens(x)),
    ),
    "table of positions": Odd(
        lambda: {"embed": nn.Linear(2, 4), "table": nn.Embedding(30, 4), "head": nn.Linear(4, 3)},
        lambda m, x: m.head((m.embed(tokens(x)) + m.table(torch.arange(30))).tanh_().mean(1)),
    ),
    "checkpointed": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "deep": nn.Conv2d(4, 4, 1), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(checkpoint(lambda y: m.deep(m.conv(y).tanh()), x, use_reentrant=False).tanh().mean((2, 3))),
    ),
    "older weight normalisation": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.conv(x).tanh().mean((2, 3))),
    ),
    "detached": Odd(
        lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
        lambda m, x: m.head(m.conv(x).detach().mean((2, 3))),
    ),
    "recurrent head": Odd(
        lambda: {"first": nn.Linear(2, 4), "second": nn.Bilinear(4, 4, 3)},
        lambda m, x: (lambda t: m.second(t, t))(m.first(tokens(x)).tanh().mean(1)),
    ),
    "one number an image": Odd(lambda: {"head": nn.Linear(2, 1)}, lambda m, x: m.head(x.mean((2, 3))).tanh()),
    "nothing counts": Odd(lambda: {"norm": nn.GroupNorm(1, 2)}, lambda m, x: m.norm(x).square().mean((2, 3))),
}


with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)
    torch.nn.utils.weight_norm(ODD["older weight normalisation"].get_submodule("conv"))


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(("parameters", "outputs"), [("weights", "sum"), ("weights+biases", "trace")])
def test_kernel_of_any_module_is_exact(name, parameters, outputs):
    network, x = refill(ODD[name]), draw(4, 2, 5, 6)
    expected = by_loop(network, x, parameters=parameters, outputs=outputs) if name != "nothing counts" else None
    found = tangent_and_last_layer_kernel(network, x, parameters=parameters, outputs=outputs)
    assert torch.equal(x, draw(4, 2, 5, 6))
    if expected is None:
        assert torch.equal(found.ntk, torch.zeros(4, 4, dtype=DOUBLE))
    else:
        assert_same(found, expected, 1e-9)


LAYERS_WITH_WEIGHTS = {
    "recurrent layer": (nn.LSTM(3, 4, proj_size=2), "weight_ih_l0 weight_hh_l0 weight_hr_l0", "bias_ih_l0 bias_hh_l0"),
    "recurrent layer of one unit": (nn.RNN(1, 1), "weight_ih_l0 weight_hh_l0", "bias_ih_l0 bias_hh_l0"),
    "recurrent cell": (nn.GRUCell(3, 4), "weight_ih weight_hh", "bias_ih bias_hh"),
    "attention": (nn.MultiheadAttention(4, 2), "in_proj_weight out_proj.weight", "in_proj_bias out_proj.bias"),
    "attention of three": (
        nn.MultiheadAttention(4, 2, kdim=3, vdim=1, add_bias_kv=True),
        "q_proj_weight k_proj_weight v_proj_weight out_proj.weight",
        "in_proj_bias out_proj.bias",
    ),
    "linear layer of one number": (nn.Linear(1, 1), "weight", "bias"),
    "bilinear layer": (nn.Bilinear(2, 3, 1), "weight", "bias"),
    "transposed convolution": (nn.ConvTranspose1d(1, 1, 3), "weight", "bias"),
    "table": (nn.Embedding(5, 3), "weight", ""),
    "normalisation of whole maps": (nn.LayerNorm([4, 4]), "", ""),
    "group normalisation": (nn.GroupNorm(2, 4), "", ""),
    "slopes": (nn.PReLU(4), "", ""),
    "parametrised": (
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "parametrizations.weight.original1", "bias"
    ),
    "own": (Odd(lambda: {"token": nn.Parameter(torch.ones(1, 1, 4)), "map": nn.Parameter(torch.ones(2, 1, 3))}, None),
            "map", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS_WITH_WEIGHTS)
def test_parameters_that_count_follow_from_their_shape_and_from_torchs_layers(name):
    module, weights, biases = LAYERS_WITH_WEIGHTS[name]
    assert set(parameter_names(module, "weights")) == set(weights.split())
    assert set(parameter_names(module, "weights+biases")) == set(weights.split()) | set(biases.split())


def test_running_statistics_before_tokens_are_differentiated_right():
    # Torch gets the gradient of a single image wrong here; a factor is what the layer computes.
    norm, mix = nn.BatchNorm2d(4).eval(), draw(4, 3)
    kernels = []
    for layer in (norm, lambda y: y * (1 + norm.eps) ** -0.5):
        network = Odd(
            lambda: {"first": nn.Parameter(torch.zeros(4, 2))},
            lambda m, x, layer=layer: (
                (tokens(layer((m.first @ x.flatten(2)).unflatten(2, (5, 6)))) @ mix).square().mean(1)
            ),
        )
        refill(network)
        if layer is norm:
            network.add_module("norm", norm.double())
        kernels.append(tangent_and_last_layer_kernel(network, draw(4, 2, 5, 6)))
    assert_same(kernels[0], kernels[1], 1e-9)


def test_network_that_keeps_no_gradients_has_a_kernel_of_zeros():
    network = refill(
        Odd(
            lambda: {"rnn": nn.GRU(2, 4, batch_first=True), "head": nn.Linear(4, 3)},
            lambda m, x: torch.no_grad()(lambda: m.head(m.rnn(tokens(x))[0][:, -1]))(),
        )
    )
    found = tangent_and_last_layer_kernel(network, draw(4, 2, 5, 6))
    assert torch.equal(found.ntk, torch.zeros(4, 4, dtype=DOUBLE))


def test_sparse_gradients_count_like_dense_ones():
    networks = [
        refill(
            Odd(
                lambda sparse=sparse: {"table": nn.Embedding(9, 4, sparse=sparse), "head": nn.Linear(4, 3)},
                lambda m, x: m.head(m.table(x.flatten(1).abs().mul(3).long().clamp_max(8)).mean(1)),
            )
        )
        for sparse in (False, True)
    ]
    dense, sparse = (tangent_and_last_layer_kernel(network, draw(4, 2, 5, 6)) for network in networks)
    assert torch.equal(dense.ntk, sparse.ntk)


def test_network_without_a_head_has_no_last_layer_kernel():
    network, x = refill(ODD["recurrent head"]), draw(3, 2, 5, 6)
    for make in IMPLEMENTATIONS.values():
        assert make(network, x).nngp is None


def test_only_what_cannot_be_taken_over_is_differentiated_image_by_image(monkeypatch):
    seen = []
    original = engine_module._image_by_image

    def spy(network, leaves, *others):
        seen.append(set(leaves))
        return original(network, leaves, *others)

    monkeypatch.setattr(engine_module, "_image_by_image", spy)
    x = draw(4, 2, 5, 6)
    for name in ("layer used twice", "attention, images second", "linear on positions", "one axis"):
        tangent_and_last_layer_kernel(refill(ODD[name]), x)
    assert seen == [
        {"conv.weight"},
        {"attention.in_proj_weight", "attention.out_proj.weight"},
        set(),
        set(),
    ]
    for space in SPACES:
        network = build(
            space_named(space).supernet(), NetworkConfig(channels=4, cells=2), in_channels=2, ways=3, variant="scoring"
        )
        tangent_and_last_layer_kernel(network, draw(2, 2, 8, 8, dtype=torch.float32))
        assert seen[-1] == set()


@pytest.mark.parametrize("space", SPACES)
def test_promise_that_images_come_first_is_true(space):
    network = build(
        space_named(space).supernet(), NetworkConfig(channels=4, cells=2), in_channels=2, ways=3, variant="scoring"
    )
    x = draw(3, 2, 8, 8, dtype=torch.float32)
    network, x = network.double(), x.double()
    promised = tangent_and_last_layer_kernel(network, x)
    network.images_first = False
    assert_same(tangent_and_last_layer_kernel(network, x), promised, 1e-12)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, 1, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.AvgPool2d((2, 3), divisor_override=5),
        nn.MaxPool2d(3, 1, 1),
        nn.MaxPool2d(3, 2, 1, dilation=2),
        nn.MaxPool2d((2, 3), ceil_mode=True),
        nn.ReLU(),
    ],
    ids=str,
)
def test_layers_without_parameters_keep_their_gradients_when_made_cheap(pool):
    network = refill(
        Odd(
            lambda: {"conv": nn.Conv2d(2, 4, 3), "pool": pool, "more": nn.Conv2d(4, 4, 1), "head": nn.Linear(4, 3)},
            lambda m, x: (lambda y: m.head((m.pool(m.more(m.pool(y))) + m.pool(m.pool(y))).mean((2, 3))))(m.conv(x)),
        ),
        torch.float32,
    )
    x = draw(4, 2, 17, 18, dtype=torch.float32)
    exact = by_loop(network.double(), x.double())
    assert_same(tangent_and_last_layer_kernel(network.float(), x), exact, 1e-5)


def test_result_that_was_overwritten_is_not_used_again():
    network = refill(
        Odd(
            lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
            lambda m, x: (lambda y: m.head((F.avg_pool2d(y, 3).mul_(2) + F.avg_pool2d(y, 3)).mean((2, 3))))(m.conv(x)),
        ),
        torch.float32,
    )
    x = draw(4, 2, 9, 9, dtype=torch.float32)
    exact = by_loop(network.double(), x.double())
    assert_same(tangent_and_last_layer_kernel(network.float(), x), exact, 1e-5)


def test_engine_leaves_the_network_as_it_was():
    network = refill(ODD["layer used twice"])
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tangent_and_last_layer_kernel(network, draw(3, 2, 5, 6))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in network.parameters())
    with torch.no_grad():
        tangent_and_last_layer_kernel(network, draw(3, 2, 5, 6))


def test_frozen_parameters_count_and_stay_frozen_whatever_happens():
    network = refill(ODD["layer used twice"])
    x = draw(3, 2, 5, 6)
    free = tangent_and_last_layer_kernel(network, x)
    network.requires_grad_(False)
    network.get_parameter("head.bias").requires_grad_()
    assert torch.equal(tangent_and_last_layer_kernel(network, x).ntk, free.ntk)
    with pytest.raises(RuntimeError):
        tangent_and_last_layer_kernel(network, x[:, :1])  # a channel too few
    assert [name for name, value in network.named_parameters() if value.requires_grad] == ["head.bias"]


def test_products_are_exact_also_where_the_process_has_chosen_fast_ones():
    network = build(
        space_named("nasbench201").supernet(),
        NetworkConfig(channels=16, cells=1),
        in_channels=2,
        ways=3,
        variant="scoring",
    )
    x = draw(4, 2, 16, 16, dtype=torch.float32)
    exact = tangent_and_last_layer_kernel(network, x)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products, where the processor has them
    try:
        assert torch.equal(tangent_and_last_layer_kernel(network, x).ntk, exact.ntk)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_numbers_that_overflow_are_seen():
    network = refill(ODD["in place"], torch.float32)
    x = draw(3, 2, 5, 6, dtype=torch.float32)
    x[1] = 3e38
    kernels = tangent_and_last_layer_kernel(network, x)
    assert kernels.outputs.isfinite().tolist() == [True, False, True]
    assert not kernels.ntk[1, 1].isfinite()
    assert kernels.ntk[0, 2].isfinite()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_every_relu_of_the_pass_is_seen_also_where_several_share_a_result(implementation):
    network = refill(
        Odd(
            lambda: {"conv": nn.Conv2d(2, 4, 3), "relu": nn.ReLU(), "head": nn.Linear(4, 3)},
            lambda m, x: (lambda y: m.head((m.relu(y) + torch.relu(y) * F.relu_(m.relu(y) - 1)).mean((2, 3))))(
                m.conv(x)
            ),
        )
    )
    x, seen, alone = draw(3, 2, 5, 6), [], []
    plain = network.get_submodule("conv")(x).relu()
    tangent_and_last_layer_kernel(network, x, implementation=implementation, on_relu=lambda y: seen.append(y.clone()))
    outputs = outputs_with_relus(network, x, lambda y: alone.append(y.clone()))
    torch.testing.assert_close(outputs, network(x))
    for outputs_of_relus in (seen, alone):
        assert len(outputs_of_relus) == 4
        for found, expected in zip(outputs_of_relus, [plain, plain, plain, (plain - 1).relu()], strict=True):
            torch.testing.assert_close(found, expected)


def test_pass_leaves_nothing_on_the_images():
    network = refill(
        Odd(
            lambda: {"conv": nn.Conv2d(2, 4, 3), "head": nn.Linear(4, 3)},
            lambda m, x: m.head(m.conv(F.relu(x)).mean((2, 3))),
        )
    )
    x = draw(3, 2, 5, 6)
    tangent_and_last_layer_kernel(network, x)
    assert not vars(x)


def test_unknown_implementation_is_refused():
    with pytest.raises(ValueError, match="expected one of engine, vmap"):
        tangent_and_last_layer_kernel(refill(ODD["in place"]), draw(2, 2, 5, 6), implementation="magic")
