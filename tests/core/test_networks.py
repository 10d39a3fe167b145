import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap

from metantk_core.candidates import SPACES, Edge, Genotype, parse_genotype, space_named
from metantk_core.candidates.nasbench201 import NASBENCH201
from metantk_core.kernels import IMPLEMENTATIONS
from metantk_core.meta_training.learn2learn_import import load_maml
from metantk_core.networks import (
    FewShotNetwork,
    NetworkConfig,
    Normalisation,
    Variant,
    batch_normalised,
    build,
    count_macs,
    count_parameters,
    forget_moments,
    initialise,
)
from metantk_core.networks.cells import DartsBody, NASBench201Body, Nodes
from metantk_core.networks.normalisation import NORMALISATIONS, BatchMoments, groups_of
from metantk_core.networks.operations import OPERATIONS, FactorisedReduction

# Nothing is timed: a busy machine is no failure.
some = settings(max_examples=12, deadline=None)
SMALL = NetworkConfig(channels=4, cells=3)
EVERY_OPERATION = [(space, name) for space in OPERATIONS for name in OPERATIONS[space]]
group = NORMALISATIONS["group"]


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform_cell(operation: str) -> Genotype:
    o = operation
    return parse_genotype("nasbench201", f"|{o}~0|+|{o}~0|{o}~1|+|{o}~0|{o}~1|{o}~2|")


def uniform_fewshot(operation: str) -> Genotype:
    edges = [Edge(cell, n, node, (operation,)) for cell in ("normal", "reduce") for node in (2, 3, 4) for n in (0, 1)]
    return Genotype(SPACES["darts_fewshot"], tuple(edges))


def network(
    genotype: Genotype,
    config: NetworkConfig = SMALL,
    *,
    variant: Variant = "scoring",
    norm: Normalisation = "group",
    seed=0,
) -> FewShotNetwork:
    made = build(genotype, config, in_channels=3, ways=5, variant=variant, norm=norm)
    initialise(made, seed, "test")
    return made


# Operations


def test_every_space_has_a_module_for_each_of_its_operations():
    assert {space: tuple(made) for space, made in OPERATIONS.items()} == {
        name: space.operations for name, space in SPACES.items()
    }


@pytest.mark.parametrize(("space", "name"), EVERY_OPERATION)
@pytest.mark.parametrize("norm", NORMALISATIONS)
def test_operation_keeps_channels_and_divides_the_size_by_the_stride(space, name, norm):
    for stride in (1, 2):
        if space == "nasbench201" and stride == 2:
            continue
        for height, width in ((8, 6), (7, 5)):
            operation = OPERATIONS[space][name](6, stride, NORMALISATIONS[norm])
            x = images(2, 6, height, width).requires_grad_()
            y = operation(x)
            assert y.shape == (2, 6, -(-height // stride), -(-width // stride))
            (y * images(*y.shape, seed=1)).sum().backward()
            assert x.grad is not None
            assert (x.grad == 0).all() == (name == "none")
            assert all(p.grad is not None and p.grad.isfinite().all() for p in operation.parameters())


C = 6
SEPARABLE = 9 * C + C * C + 2 * C


@pytest.mark.parametrize(
    ("space", "name", "stride", "expected"),
    [
        ("nasbench201", "none", 1, 0),
        ("nasbench201", "skip_connect", 1, 0),
        ("nasbench201", "nor_conv_1x1", 1, C * C + 2 * C),
        ("nasbench201", "nor_conv_3x3", 1, 9 * C * C + 2 * C),
        ("nasbench201", "avg_pool_3x3", 1, 0),
        ("darts_fewshot", "skip_connect", 1, 0),
        ("darts_fewshot", "skip_connect", 2, C * C + 2 * C),
        ("darts_fewshot", "sep_conv_3x3", 1, 2 * SEPARABLE),
        ("darts_fewshot", "dil_conv_3x3", 1, SEPARABLE),
        ("darts_fewshot", "conv_3x3", 2, SEPARABLE),
        ("darts_fewshot", "avg_pool_3x3", 1, 2 * C),
        ("darts_fewshot", "max_pool_3x3", 2, 2 * C),
        ("darts_fewshot", "conv_1x5_5x1", 1, 2 * 5 * C * C + 2 * C),
        ("darts", "skip_connect", 2, C * C + 2 * C),
        ("darts", "sep_conv_3x3", 2, 2 * SEPARABLE),
        ("darts", "sep_conv_5x5", 1, 2 * (SEPARABLE + 16 * C)),
        ("darts", "dil_conv_3x3", 2, SEPARABLE),
        ("darts", "dil_conv_5x5", 1, SEPARABLE + 16 * C),
        ("darts", "avg_pool_3x3", 2, 2 * C),
        ("darts", "max_pool_3x3", 1, 2 * C),
    ],
)
def test_operation_has_the_parameters_that_counting_by_hand_gives(space, name, stride, expected):
    assert count_parameters(OPERATIONS[space][name](C, stride, group)) == expected


def test_dilated_convolution_sees_five_pixels_and_plain_one_three():
    def reach(name: str, space: str = "darts_fewshot") -> int:
        operation = OPERATIONS[space][name](2, 1, lambda channels: nn.Identity())
        for parameter in operation.parameters():
            # Positive weights: no ReLU hides a pixel.
            nn.init.ones_(parameter)
        x = torch.ones(1, 2, 11, 11, requires_grad=True)
        operation(x)[0, 0, 5, 5].backward()
        assert x.grad is not None
        rows = (x.grad[0, 0] != 0).any(dim=1).nonzero()
        return int(rows.max() - rows.min()) + 1

    assert {name: reach(name) for name in ("dil_conv_3x3", "conv_3x3", "sep_conv_3x3", "conv_1x5_5x1")} == {
        "dil_conv_3x3": 5,
        "conv_3x3": 3,
        "sep_conv_3x3": 5,
        "conv_1x5_5x1": 5,
    }
    # Two convolutions of 5 pixels see 9, and one of 5 pixels with a gap between any two sees 9 as well.
    names = ("sep_conv_3x3", "dil_conv_3x3", "sep_conv_5x5", "dil_conv_5x5")
    assert [reach(name, "darts") for name in names] == [5, 5, 9, 9]


def test_the_first_of_the_two_flat_convolutions_halves_both_axes():
    operation = OPERATIONS["darts_fewshot"]["conv_1x5_5x1"](2, 2, group)
    steps = {
        tuple(module.kernel_size): module.stride for module in operation.modules() if isinstance(module, nn.Conv2d)
    }
    assert steps == {(1, 5): (2, 2), (5, 1): (1, 1)}
    assert operation(torch.zeros(1, 2, 7, 6)).shape == (1, 2, 4, 3)


def test_average_pool_ignores_what_lies_outside_of_the_image():
    pool = OPERATIONS["nasbench201"]["avg_pool_3x3"](2, 1, group)
    assert torch.equal(pool(torch.ones(1, 2, 4, 4)), torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize(("height", "width"), [(6, 8), (5, 7), (1, 1)])
def test_factorised_reduction_takes_even_pixels_on_one_half_and_odd_ones_on_the_other(height, width):
    reduction = FactorisedReduction(2, 4, lambda channels: nn.Identity())
    with torch.no_grad():
        for conv in (reduction.even, reduction.odd):
            conv.weight.copy_(torch.eye(2)[:, :, None, None])
    x = images(3, 2, height, width).abs()
    padded = F.pad(x, (0, 2, 0, 2))
    rows, columns = -(-height // 2), -(-width // 2)
    even = padded[:, :, ::2, ::2][:, :, :rows, :columns]
    odd = padded[:, :, 1::2, 1::2][:, :, :rows, :columns]
    assert torch.equal(reduction(x), torch.cat([even, odd], dim=1))


# Cells


def test_node_is_the_sum_over_its_edges():
    cell = Nodes(
        uniform_cell("skip_connect").edges,
        inputs=1,
        channels=2,
        stride=1,
        operations=OPERATIONS["nasbench201"],
        norm=group,
    )
    x = images(1, 2, 3, 3)
    # Node 1 = x, node 2 = x + x, node 3 = x + x + 2x.
    assert [torch.allclose(node, factor * x) for node, factor in zip(cell(x), (1, 1, 2, 4), strict=True)] == [True] * 4


def test_edge_with_several_operations_is_their_mean():
    edges = tuple(Edge(e.cell, e.source, e.target, ("none", "skip_connect")) for e in NASBENCH201.supernet().edges)
    cell = Nodes(edges, inputs=1, channels=2, stride=1, operations=OPERATIONS["nasbench201"], norm=group)
    x = images(1, 2, 3, 3)
    # Node 1 = x/2, node 2 = (x + x/2)/2, node 3 = (x + x/2 + 3x/4)/2.
    assert [torch.allclose(n, f * x) for n, f in zip(cell(x), (1, 0.5, 0.75, 1.125), strict=True)] == [True] * 4


def test_cell_with_a_node_that_no_edge_enters_is_refused():
    edges = [Edge("cell", 0, 1, ("none",)), Edge("cell", 0, 3, ("none",))]
    with pytest.raises(ValueError, match="no edge enters node 2"):
        Nodes(edges, inputs=1, channels=2, stride=1, operations=OPERATIONS["nasbench201"], norm=group)


@pytest.mark.parametrize(
    ("cells", "widths"),
    [
        (1, [2]),
        (2, [2, 4]),
        (3, [1, 2, 4]),
        (5, [1, 2, 2, 4, 4]),
        (8, [1, 1, 2, 2, 2, 4, 4, 4]),
    ],
)
def test_darts_cells_at_one_third_and_two_thirds_reduce(cells, widths):
    made = network(uniform_fewshot("skip_connect"), NetworkConfig(channels=4, cells=cells))
    shapes = []
    assert isinstance(made.body, DartsBody)
    for cell in made.body.cells:
        cell.register_forward_hook(lambda module, given, output: shapes.append(tuple(output.shape)))
    assert made(images(2, 3, 16, 16)).shape == (2, 5)
    size = [16 // width for width in widths]
    assert shapes == [(2, 3 * 4 * width, s, s) for width, s in zip(widths, size, strict=True)]


def test_nasbench201_has_three_stages():
    made = network(uniform_cell("skip_connect"), NetworkConfig(channels=4, cells=2))
    shapes = []
    assert isinstance(made.body, NASBench201Body)
    for cell in made.body.cells:
        cell.register_forward_hook(lambda module, given, output: shapes.append(tuple(output[-1].shape[1:])))
    made(images(1, 3, 16, 16))
    assert shapes == [(4, 16, 16)] * 2 + [(8, 8, 8)] * 2 + [(16, 4, 4)] * 2


# Whole networks


@some
@given(space=st.sampled_from(sorted(SPACES)), seed=st.integers(0, 10**6), size=st.integers(5, 12))
def test_every_candidate_builds_and_learns_at_any_image_size(space, seed, size):
    genotype = space_named(space).sample(np.random.default_rng(seed))
    for variant in ("scoring", "training"):
        made = network(genotype, NetworkConfig(channels=4, cells=2), variant=variant, norm="batch_support")
        logits = made(images(3, 3, size, size))
        assert logits.shape == (3, 5)
        assert logits.isfinite().all()
        F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("space", SPACES)
def test_scoring_variant_keeps_samples_apart(space):
    made = network(space_named(space).supernet()).double()
    x = images(4, 3, 8, 8).double()
    other = x.clone()
    other[2] += 1
    before, after = made(x), made(other)
    kept = [0, 1, 3]
    assert torch.allclose(before[kept], after[kept], rtol=0, atol=1e-12)
    assert not torch.allclose(before[2], after[2], atol=1e-3)


@pytest.mark.parametrize("space", SPACES)
def test_gradients_of_all_samples_at_once_are_the_gradients_one_by_one(space):
    made = network(space_named(space).supernet()).double()
    parameters = {name: parameter.detach() for name, parameter in made.named_parameters()}

    def total(values, image):
        return functional_call(made, values, (image[None],)).sum()

    x = images(3, 3, 8, 8).double()
    together = vmap(grad(total), in_dims=(None, 0))(parameters, x)
    for number, image in enumerate(x):
        made.zero_grad()
        made(image[None]).sum().backward()
        for name, parameter in made.named_parameters():
            assert parameter.grad is not None
            assert torch.allclose(together[name][number], parameter.grad, rtol=1e-8, atol=1e-10), name


@pytest.mark.parametrize("variant", ["scoring", "training"])
def test_network_without_a_path_gives_zero_features_and_finite_gradients(variant):
    made = network(uniform_cell("none"), variant=variant, norm="batch_support")
    x = images(4, 3, 8, 8)
    assert torch.equal(made.features(x), torch.zeros(4, 16))
    made(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


def test_only_the_scoring_variant_of_the_darts_family_ends_in_norm_and_relu():
    genotype = uniform_fewshot("conv_3x3")
    x = images(4, 3, 8, 8)
    scoring = network(genotype).body(x)
    training = network(genotype, variant="training", norm="group").body(x)
    assert (scoring >= 0).all()
    assert (training < 0).any()


@pytest.mark.parametrize("norm", NORMALISATIONS)
def test_scoring_variant_normalises_per_sample_whatever_training_does(norm: Normalisation):
    made = network(uniform_cell("nor_conv_3x3"), norm=norm)
    assert not any(isinstance(module, BatchMoments) for module in made.modules())


def test_only_the_head_has_a_bias_beside_the_norms():
    made = network(space_named("darts_fewshot").supernet())
    convolutions = [module for module in made.modules() if isinstance(module, nn.Conv2d)]
    assert all(module.bias is None for module in convolutions)
    assert made.head.bias is not None


CONVOLUTIONS = ("nor_conv_1x1", "nor_conv_3x3")


def convolutions(genotype: Genotype) -> list[tuple[str, str]]:
    return [
        (f"edges.{edge.source}-{edge.target}.", name) for edge, name in genotype.operations() if name in CONVOLUTIONS
    ]


def equal_by_renaming(one: Genotype, other: Genotype, x: torch.Tensor) -> bool:
    """Whether some assignment of one network's convolutions to the other's makes both compute the same."""
    first, second = (network(genotype).double() for genotype in (one, other))
    given, wanted = convolutions(one), convolutions(other)
    weights = first.state_dict()
    for order in itertools.permutations([*given, *[None] * len(wanted)], len(wanted)):
        if any(source and source[1] != name for source, (_, name) in zip(order, wanted, strict=True)):
            continue
        renamed = {name: value for name, value in weights.items() if ".edges." not in name}
        for source, (place, _) in zip(order, wanted, strict=True):
            for name in second.state_dict():
                if place in name:  # what is assigned to nothing keeps weights of its own
                    renamed[name] = (
                        weights[name.replace(place, source[0])] if source else images(*second.state_dict()[name].shape)
                    )
        second.load_state_dict(renamed)
        if torch.allclose(first(x), second(x), rtol=1e-9, atol=1e-9):
            return True
    return False


def test_networks_of_one_class_compute_the_same_with_renamed_weights_and_others_do_not():
    rng = np.random.default_rng(0)
    classes: dict[str, list[Genotype]] = {}
    for cell in NASBENCH201:
        if 1 <= len(convolutions(cell)) <= 2:
            classes.setdefault(NASBENCH201.canonical(cell, "function"), []).append(cell)
    several = [members for members in classes.values() if len(members) > 1]
    x = images(2, 3, 6, 6).double()
    for number in rng.permutation(len(several))[:8]:
        one, other = (several[number][index] for index in rng.permutation(len(several[number]))[:2])
        assert equal_by_renaming(one, other, x), f"{one} and {other}"
    some_classes = rng.permutation(list(classes))[:8]
    for one, other in zip(some_classes[:4], some_classes[4:], strict=True):
        assert not equal_by_renaming(classes[one][0], classes[other][0], x)
    # Of one class to the benchmark, but here one convolution's output is used twice, there two are added.
    shared = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|skip_connect~2|"
    apart = "|none~0|+|nor_conv_1x1~0|none~1|+|nor_conv_1x1~0|none~1|skip_connect~2|"
    assert not equal_by_renaming(parse_genotype("nasbench201", apart), parse_genotype("nasbench201", shared), x)


# Counts


@pytest.mark.parametrize(
    ("operation", "ways", "size", "parameters", "mflops"),
    [
        # Smallest and largest values of the published table (NAS-Bench-201-v1_1-096897, "params" and "flop"):
        # CIFAR-10, CIFAR-100 and ImageNet16-120.
        ("none", 10, 32, 0.073306, 7.78305),
        ("nor_conv_3x3", 10, 32, 1.531546, 220.11969),
        ("none", 100, 32, 0.079156, 7.7889),
        ("nor_conv_3x3", 100, 32, 1.537396, 220.12554),
        ("none", 120, 16, 0.080456, 1.9534),
        ("nor_conv_3x3", 120, 16, 1.538696, 55.03756),
    ],
)
def test_nasbench201_networks_are_as_large_as_published(operation, ways, size, parameters, mflops):
    made = build(
        uniform_cell(operation), NetworkConfig(channels=16, cells=5), in_channels=3, ways=ways, variant="training"
    )
    assert count_parameters(made) == round(parameters * 1e6)
    # The table counts the head's biases as well.
    assert count_macs(made, (3, size, size)) == round(mflops * 1e6) - ways


def test_nasbench201_residual_cell_is_as_large_as_published():
    # Entry 9930 of the published table, as its interface prints it: FLOP=184.73 M, Params=1.289 MB on CIFAR-10.
    c = "nor_conv_3x3"
    genotype = parse_genotype("nasbench201", f"|{c}~0|+|{c}~0|{c}~1|+|skip_connect~0|{c}~1|{c}~2|")
    made = build(genotype, NetworkConfig(channels=16, cells=5), in_channels=3, ways=10, variant="training")
    assert round(count_parameters(made) / 1e6, 3) == 1.289
    assert round(count_macs(made, (3, 32, 32)) / 1e6, 2) == 184.73


DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], normal_concat=[2, 3, 4, 5], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)
PDARTS = (
    "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], normal_concat=range(2, 6), "
    "reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), "
    "('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)], reduce_concat=range(2, 6))"
)


@pytest.mark.parametrize(
    ("text", "published"),
    # "param size = 3.349342MB" of the published CIFAR-10 network, and github.com/chenxin061/pdarts/issues/7.
    [(DARTS_V2, 3_349_342), (PDARTS, 3_433_798)],
    ids=["DARTS_V2", "PDARTS"],
)
def test_published_darts_networks_are_as_large_as_published_but_for_stem_and_norms_of_pools(text, published):
    genotype = parse_genotype("darts", text)
    made = build(genotype, NetworkConfig(channels=36, cells=20), in_channels=3, ways=10, variant="training")
    c = 36
    # Theirs has 3c channels after the stem, which the first two cells' preprocessing of 1x1 convolutions sees, and
    # pools without normalisation (all of them are in the two reduction cells here, of 2c and 4c channels).
    wider_stem = 2 * c * (3 * 9 + 2) + 3 * (2 * c * c)
    pools = sum("pool" in edge.operations[0] for edge in genotype.cell("reduce"))
    assert not any("pool" in edge.operations[0] for edge in genotype.cell("normal"))
    assert count_parameters(made) + wider_stem - pools * 2 * (2 * c + 4 * c) == published


@pytest.mark.parametrize("text", [DARTS_V2, PDARTS], ids=["DARTS_V2", "PDARTS"])
def test_kernel_of_a_published_darts_network_is_the_same_by_all_implementations(text):
    made = network(parse_genotype("darts", text), NetworkConfig(channels=2, cells=3)).double()
    x = images(4, 3, 9, 8).double()
    kernels = {name: implementation(made, x) for name, implementation in IMPLEMENTATIONS.items()}
    expected = kernels["vmap"].ntk
    assert set(kernels) >= {"vmap", "engine"}
    for name, kernel in kernels.items():
        torch.testing.assert_close(kernel.ntk, expected, rtol=1e-9, atol=1e-9 * expected.abs().max().item(), msg=name)


def test_darts_network_is_as_large_as_counting_by_hand_gives():
    made = build(
        uniform_fewshot("skip_connect"), NetworkConfig(channels=4, cells=1), in_channels=3, ways=5, variant="training"
    )
    c, pixels = 8, 16 * 16
    stem, preprocessing, edges, head = 9 * 3 * 4, 2 * 4 * c, 6 * c * c, 3 * c * 5
    norms = 2 * (4 + 2 * c + 6 * c)
    assert count_parameters(made) == stem + preprocessing + edges + norms + head + 5
    assert count_macs(made, (3, 16, 16)) == (stem + preprocessing) * pixels + edges * pixels // 4 + head


def test_counting_leaves_the_network_as_it_was():
    made = network(uniform_cell("nor_conv_1x1"), variant="training", norm="batch_support").eval()
    before = {name: value.clone() for name, value in made.state_dict().items()}
    count_macs(made, (3, 8, 8))
    assert not made.training
    assert all(module.moments is None for module in made.modules() if isinstance(module, BatchMoments))
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())


# Initial weights


@some
@given(
    space=st.sampled_from(sorted(SPACES)),
    first=st.integers(0, 99),
    second=st.integers(100, 199),
    seed=st.integers(0, 99),
)
def test_candidates_share_the_weights_of_what_they_have_in_common(space, first, second, seed):
    one, two = (network(space_named(space).sample(np.random.default_rng(s)), seed=seed) for s in (first, second))
    supernet = network(space_named(space).supernet(), seed=seed).state_dict()
    mine, yours = one.state_dict(), two.state_dict()
    common = set(mine) & set(yours)
    assert {"body.stem.0.weight", "head.weight"} <= common
    assert all(torch.equal(mine[name], yours[name]) for name in common)
    assert all(torch.equal(value, supernet[name]) for name, value in mine.items())


def test_names_of_parameters_say_edge_and_operation():
    made = network(uniform_fewshot("sep_conv_3x3"))
    assert "body.cells.0.nodes.edges.0-2.sep_conv_3x3.first.depthwise.weight" in dict(made.named_parameters())


def test_weights_depend_on_seed_and_purpose_and_on_nothing_else():
    made = network(uniform_fewshot("conv_3x3"))
    state = torch.random.get_rng_state()
    weights = {}
    for key in [(0, "a"), (0, "b"), (1, "a")]:
        initialise(made, *key)
        weights[key] = made.get_parameter("head.weight").detach().clone()
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(7)
    initialise(made, 0, "a")
    assert torch.equal(made.get_parameter("head.weight"), weights[0, "a"])
    assert not torch.equal(weights[0, "b"], weights[0, "a"])
    assert not torch.equal(weights[1, "a"], weights[0, "a"])


def test_weights_are_the_same_numbers_in_double_precision():
    single, double = network(uniform_cell("nor_conv_3x3")), network(uniform_cell("nor_conv_3x3")).double()
    initialise(double, 0, "test")
    for left, right in zip(single.parameters(), double.parameters(), strict=True):
        assert torch.equal(left, right.float())


def test_weights_are_kaiming_normal_and_norms_and_biases_neutral():
    made = network(space_named("darts_fewshot").supernet(), NetworkConfig(channels=32, cells=3))
    for name, parameter in made.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, 0.0 if name.endswith("bias") else 1.0)), name
        elif parameter.numel() > 10_000:
            fan_in = parameter[0].numel()
            assert parameter.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05), name
            assert abs(parameter.mean().item()) < 5 * (2 / fan_in / parameter.numel()) ** 0.5, name
    depthwise = [p for n, p in made.named_parameters() if n.endswith("depthwise.weight")]
    assert torch.cat([p.flatten() for p in depthwise]).std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)


# Normalisation


@given(channels=st.integers(1, 600))
@settings(deadline=None)
def test_groups_divide_the_channels_and_hold_two_at_least(channels):
    groups = groups_of(channels)
    assert channels % groups == 0
    assert groups <= 16
    assert groups == 1 or channels // groups >= 2


def test_groups_of_the_published_search_are_sixteen():
    assert [groups_of(channels) for channels in (48, 96, 192, 576)] == [16, 16, 16, 16]


def batch_norm(x, mean, variance, weight, bias):
    standard = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return standard * weight[:, None, None] + bias[:, None, None]


def test_batch_moments_normalise_queries_by_the_support():
    norm = BatchMoments(3, remember=True).double()
    support, query = images(5, 3, 4, 4).double() * 3 + 1, images(7, 3, 4, 4, seed=1).double()
    mean, variance = support.mean(dim=(0, 2, 3)), support.var(dim=(0, 2, 3), correction=0)
    parameters = torch.tensor([2.0, 3.0, 4.0]).double(), torch.tensor([0.5, 0.0, -1.0]).double()
    with torch.no_grad():
        norm.weight.copy_(parameters[0])
        norm.bias.copy_(parameters[1])
    assert torch.allclose(norm.train()(support), batch_norm(support, mean, variance, *parameters))
    assert torch.allclose(norm.eval()(query), batch_norm(query, mean, variance, *parameters))


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive", "group"])
def test_prediction_of_a_query_depends_on_the_other_queries_only_if_transductive(space, norm):
    genotype = space_named(space).sample(np.random.default_rng(1))
    made = network(genotype, variant="training", norm=norm).double()
    support, query = images(5, 3, 8, 8).double(), images(6, 3, 8, 8, seed=1).double()
    made.train()(support)
    made.eval()
    together, alone = made(query), torch.cat([made(image[None]) for image in query])
    assert torch.allclose(together, alone, rtol=0, atol=1e-10) == (norm != "batch_transductive")


def test_predictions_depend_on_the_support_images_through_the_moments():
    made = network(uniform_cell("nor_conv_3x3"), variant="training", norm="batch_support")
    query = images(2, 3, 8, 8)
    answers = []
    for seed in (1, 2):
        made.train()(images(5, 3, 8, 8, seed=seed))
        answers.append(made.eval()(query))
    assert not torch.allclose(*answers)


def test_query_without_support_is_refused():
    made = network(uniform_cell("nor_conv_3x3"), variant="training", norm="batch_support")
    x = images(2, 3, 8, 8)
    made.train()(x)
    forget_moments(made)
    with pytest.raises(RuntimeError, match="pass the support images in train"):
        made.eval()(x)


def test_moments_carry_the_exact_gradient():
    norm = BatchMoments(2, remember=True).double()

    def adapted(support, query, weight, bias):
        values = {"weight": weight, "bias": bias}
        normalised = functional_call(norm.train(), values, (support,))
        return normalised, functional_call(norm.eval(), values, (query,))

    given = [images(3, 2, 2, 2), images(2, 2, 2, 2, seed=1), images(2, seed=2), images(2, seed=3)]
    given = [value.double().requires_grad_() for value in given]
    # Finite differences in float64, first and second order.
    assert torch.autograd.gradcheck(adapted, given)
    assert torch.autograd.gradgradcheck(adapted, given)


def test_moments_are_left_behind_by_copies_and_state_dicts():
    made = network(uniform_cell("nor_conv_1x1"), variant="training", norm="batch_support")
    names = set(made.state_dict())
    made.train()(images(5, 3, 8, 8))
    assert set(made.state_dict()) == names
    twin = copy.deepcopy(made)
    assert any(module.moments is not None for module in made.modules() if isinstance(module, BatchMoments))
    assert all(module.moments is None for module in twin.modules() if isinstance(module, BatchMoments))


@pytest.mark.parametrize("norm", ["batch_support", "batch_transductive", "group"])
@pytest.mark.parametrize("space", SPACES)
def test_meta_gradient_through_learn2learn_is_the_one_of_plain_torch(space, norm):
    genotype = space_named(space).sample(np.random.default_rng(3))
    made = network(genotype, NetworkConfig(channels=2, cells=2), variant="training", norm=norm).double()
    support, query = images(5, 3, 8, 8).double(), images(5, 3, 8, 8, seed=1).double()
    labels, rate = torch.arange(5), 0.1

    learner = load_maml()(made, lr=rate).clone()
    learner.train()
    learner.adapt(F.cross_entropy(learner(support), labels))
    learner(support)
    learner.eval()
    F.cross_entropy(learner(query), labels).backward()
    found = {name: parameter.grad.clone() for name, parameter in made.named_parameters() if parameter.grad is not None}
    # The moments stayed with the clone.
    assert all(module.moments is None for module in made.modules() if isinstance(module, BatchMoments))

    values: dict[str, torch.Tensor] = dict(made.named_parameters())
    loss = F.cross_entropy(functional_call(made.train(), values, (support,)), labels)
    gradients = torch.autograd.grad(loss, list(values.values()), create_graph=True)
    moved = {name: value - rate * step for (name, value), step in zip(values.items(), gradients, strict=True)}
    functional_call(made, moved, (support,))
    loss = F.cross_entropy(functional_call(made.eval(), moved, (query,)), labels)
    expected = torch.autograd.grad(loss, list(values.values()))
    assert set(found) == set(values)
    for name, gradient in zip(values, expected, strict=True):
        assert torch.allclose(found[name], gradient, rtol=1e-8, atol=1e-11), name


# Batch normalisation in the place of group normalisation, for scores that are defined on it


@pytest.mark.parametrize(
    "genotype", [uniform_cell("nor_conv_3x3"), uniform_fewshot("sep_conv_3x3")], ids=lambda g: g.space
)
def test_batch_normalised_copy_computes_what_a_network_built_with_moments_of_the_batch_computes(genotype):
    scored = network(genotype)
    reference = network(genotype, variant="training", norm="batch_transductive")
    if genotype.space != "nasbench201":  # the scoring variant of the DARTS family ends in a normalisation of its own
        reference = build(genotype, SMALL, in_channels=3, ways=5, variant="scoring")
        for parent in list(reference.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(parent, name, BatchMoments(child.num_channels, remember=False))
    reference.load_state_dict(scored.state_dict())
    seen = images(4, 3, 8, 8)
    copied = batch_normalised(scored)
    assert torch.equal(copied(seen), reference(seen))
    assert torch.equal(copied.eval()(seen), reference(seen)), "the moments of the batch count in both modes"
    assert not torch.allclose(copied(seen[:2]), copied(seen)[:2])
    for (name, own), (_, other) in zip(copied.named_parameters(), scored.named_parameters(), strict=True):
        assert torch.equal(own, other), name
        assert own is not other, name
    assert any(isinstance(module, nn.GroupNorm) for module in scored.modules()), "the network is left as it is"


def test_batch_normalised_copy_keeps_sharing_and_remembers_no_moments():
    shared = nn.GroupNorm(2, 4).double()
    with torch.no_grad():
        shared.weight.fill_(3.0)
    remembering = nn.BatchNorm2d(4).double().eval()
    original = nn.Sequential(shared, nn.Dropout(0.5).eval(), remembering, nn.Sequential(shared))
    copied = batch_normalised(original)
    layer = copied.get_submodule("0")
    assert layer is copied.get_submodule("3.0")
    assert isinstance(layer, nn.BatchNorm2d)
    seen = images(3, 4, 5, 5).double()
    first = copied(seen)
    assert torch.equal(first, copied(seen)), "neither moments nor dropout move it"
    expected = (seen - seen.mean((0, 2, 3), keepdim=True)) / (
        seen.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    assert torch.allclose(layer(seen), 3 * expected)
    assert remembering.running_mean is not None
    assert not remembering.running_mean.any()
