"""Linear regions as published, beside a plain definition in numpy; and the patches that they are counted on."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmarks.search import source_of
from metantk_core.candidates import Genotype, space_named
from metantk_core.config import RunConfig
from metantk_core.datasets import ImageDataset, LabelledImages
from metantk_core.episodes import EpisodeSource, resize
from metantk_core.networks import build_thin, initialise, restricted
from metantk_core.recipes import RECIPES
from metantk_core.scores import LinearRegionsConfig, Scorer, ScoringConfig
from metantk_core.scores.activations import Reuse, linear_regions_of_batches
from metantk_core.scores.patches import training_patches
from metantk_core.workflow.data import score_source

DARTS = space_named("darts_fewshot")
SEED = 1
Array = np.ndarray


# The plain definition: everything written out, in float64.


class Plain:
    """The thin network of a DARTS-fewshot genotype, which notes the sign of every input of a ReLU.

    Args:
        weights: Weights by name.
    """

    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights, self.signs = weights, []

    def relu(self, x: Array) -> Array:
        self.signs.append((x > 0).reshape(len(x), -1))
        return np.maximum(x, 0)

    @staticmethod
    def norm(x: Array) -> Array:
        mean, variance = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
        return (x - mean) / np.sqrt(variance + 1e-5)

    def conv(self, x: Array, name: str, stride: int = 1, dilation: int = 1, depthwise: bool = False) -> Array:
        weight = self.weights[f"{name}.weight"]
        high, wide = weight.shape[2:]
        down, right = high // 2 * dilation, wide // 2 * dilation
        padded = np.pad(x, ((0, 0), (0, 0), (down, down), (right, right)))
        out = np.zeros((len(x), len(weight), -(-x.shape[2] // stride), -(-x.shape[3] // stride)))
        for i, j in np.ndindex(high, wide):
            rows = slice(i * dilation, i * dilation + x.shape[2], stride)
            columns = slice(j * dilation, j * dilation + x.shape[3], stride)
            taken, tap = padded[:, :, rows, columns], weight[:, :, i, j]
            out += taken * tap[:, 0, None, None] if depthwise else np.einsum("nchw,dc->ndhw", taken, tap)
        return out

    @staticmethod
    def pool(x: Array, stride: int, reduce: Callable[..., Array]) -> Array:
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
        windows = [padded[:, :, i : i + x.shape[2] : stride, j : j + x.shape[3] : stride] for i, j in np.ndindex(3, 3)]
        return reduce(np.stack(windows), axis=0)

    def halved(self, x: Array, name: str) -> Array:
        x = self.relu(x)
        shifted = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))[:, :, 1:, 1:]
        sides = self.conv(x, f"{name}.even", 2), self.conv(shifted, f"{name}.odd", 2)
        return self.norm(np.concatenate(sides, axis=1))

    def separable(self, x: Array, name: str, stride: int, dilation: int = 1) -> Array:
        x = self.conv(self.relu(x), f"{name}.depthwise", stride, dilation, depthwise=True)
        return self.norm(self.conv(x, f"{name}.pointwise"))

    def operation(self, operation: str, x: Array, name: str, stride: int) -> Array:
        match operation:
            case "skip_connect":
                return x if stride == 1 else self.halved(x, name)
            case "avg_pool_3x3":
                return self.norm(self.pool(x, stride, np.nanmean))
            case "max_pool_3x3":
                return self.norm(self.pool(x, stride, np.nanmax))
            case "conv_3x3":
                return self.separable(x, name, stride)
            case "dil_conv_3x3":
                return self.separable(x, name, stride, dilation=2)
            case "sep_conv_3x3":
                return self.separable(self.separable(x, f"{name}.first", stride), f"{name}.second", 1)
            case "conv_1x5_5x1":  # the first one has the stride of both axes
                return self.norm(self.conv(self.conv(self.relu(x), f"{name}.across", stride), f"{name}.down"))
        raise AssertionError(operation)

    def cell(self, genotype: Genotype, kind: str, before: Array, previous: Array, number: int) -> Array:
        nodes = [
            self.norm(self.conv(self.relu(x), f"body.cells.{number}.preprocess_{i}.conv"))
            for i, x in enumerate((before, previous))
        ]
        for target in (2, 3, 4):
            total: Array | float = 0.0
            for edge in (edge for edge in genotype.cell(kind) if edge.target == target):
                place = f"body.cells.{number}.nodes.edges.{edge.source}-{target}"
                stride = 2 if kind == "reduce" and edge.source < 2 else 1
                outputs = [self.operation(op, nodes[edge.source], f"{place}.{op}", stride) for op in edge.operations]
                total = total + sum(outputs) / len(outputs)
            nodes.append(np.asarray(total))
        return np.concatenate(nodes[2:], axis=1)

    def codes(self, genotype: Genotype, patches: Array) -> Array:
        self.signs = []
        inner = self.cell(genotype, "normal", patches, patches, 0)
        assert inner.shape[1:] == (3, 3, 3)
        outer = self.cell(genotype, "reduce", patches, inner, 1)
        assert outer.shape[1:] == (6, 2, 2)
        self.relu(self.norm(outer))
        return np.concatenate(self.signs, axis=1)


def count(codes: Array) -> float:
    """Return the sum over images of 1 / how many have the image's code."""
    alike = (codes[:, None, :] == codes[None, :, :]).all(axis=2).sum(axis=1)
    return float((1 / alike).sum().round(6))


GENOTYPES = {
    "supernet": DARTS.supernet(),
    **{
        name: Genotype(DARTS, tuple(replace(edge, operations=(name,)) for edge in DARTS.supernet().edges))
        for name in DARTS.operations
    },
}


@pytest.mark.parametrize("name", GENOTYPES)
def test_count_is_that_of_the_published_definition_written_out(name):
    network = build_thin(GENOTYPES[name], ways=3)
    initialise(network, SEED, "thin", scheme="torch_default")
    network = network.double()
    # Coarse grey levels, so that some patches share their code.
    patches = torch.randint(0, 3, (80, 1, 3, 3), generator=torch.Generator().manual_seed(2)).double() - 0.7
    batches = patches.split(40)
    plain = Plain({name: parameter.detach().numpy() for name, parameter in network.named_parameters()})
    expected = count(np.concatenate([plain.codes(GENOTYPES[name], batch.numpy()) for batch in batches]))
    assert linear_regions_of_batches(network, batches).value == expected
    assert 1 < expected <= 80


def images(pixels: Array, split: str = "train") -> LabelledImages:
    labels = np.arange(len(pixels), dtype=np.int64) % 6
    return LabelledImages(pixels, labels, tuple(f"{split} {n}" for n in range(6)), split, "made")  # type: ignore[arg-type]


def moments(pixels: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    scaled = pixels.astype(np.float64) / 255
    return tuple(scaled.mean(axis=(0, 2, 3)).tolist()), tuple(scaled.std(axis=(0, 2, 3)).tolist())


def made(kind: str) -> EpisodeSource:
    """Return images: letters, white noise, or smooth blobs."""
    if kind == "letters":
        return source_of(ScoringConfig())
    rng = np.random.default_rng(0)
    side = {"noise": 32, "smooth": 10}[kind]
    pixels = rng.integers(0, 256, (3000, 1, side, side)).astype(np.float32)
    large = resize(torch.from_numpy(pixels), 32).round().numpy().astype(np.uint8)
    return EpisodeSource(images(large), ScoringConfig().episode, *moments(large))


# Recomputed independently, on other draws and other smooth images: about 820, 2,150 and 2,988 of 3,000.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [pytest.param("letters", 750, 950, marks=pytest.mark.minutes), ("smooth", 1900, 2600), ("noise", 2970, 3000)],
)
def test_only_noise_saturates_the_count_of_the_supernet(kind, low, high):
    config = ScoringConfig(scores=("linear_regions",), num_inits=1)
    supernet = DARTS.supernet()
    (record,) = Scorer(supernet, made(kind), config, 0).score(supernet, range(1))
    assert record.draws[0].value is not None
    assert low <= record.draws[0].value <= high


@pytest.mark.slow
@pytest.mark.parametrize(
    ("space", "limit"),
    [
        pytest.param("darts", 10**9, marks=pytest.mark.minutes),
        ("darts_fewshot", 10**9),
        ("nasbench201", 10**9),
        ("nasbench201", 10**5),
        ("nasbench201", 0),
    ],
)
def test_part_of_a_thin_supernet_counts_what_a_thin_network_of_its_own_counts(space, limit):
    known = space_named(space)
    supernet = build_thin(known.supernet(), ways=3)
    patches = torch.randint(0, 2, (120, 1, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    patches[:, :, 1:] = 0  # 8 different ones, so that codes are shared
    batches = patches.split(40)
    reuse, counts = Reuse(limit), []
    for purpose in ("first", "second"):  # other weights, in the same tensors
        initialise(supernet, SEED, purpose)
        for genotype in (known.supernet(), *known.prunings(known.supernet())[1::70]):
            alone = build_thin(genotype, ways=3)
            initialise(alone, SEED, purpose)
            counts.append(linear_regions_of_batches(restricted(supernet, genotype), batches, reuse).value)
            assert counts[-1] == linear_regions_of_batches(alone, batches).value
    assert all(1 < count <= 24 for count in counts)


def test_other_patches_of_a_batch_change_what_a_patch_counts_for():
    # So none may be left out of a batch before its end: alone, these ten would have other codes.
    network = build_thin(DARTS.sample(np.random.default_rng(0)), ways=3)
    initialise(network, SEED)
    patches = torch.randint(0, 3, (200, 1, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    together = linear_regions_of_batches(network, [patches]).value
    assert together != linear_regions_of_batches(network, patches.split(10)).value


# Patches


class Watched(np.memmap):
    """An array on disk that notes how much is read of it at a time."""

    most = 0

    def __getitem__(self, index):
        taken = super().__getitem__(index)
        Watched.most = max(Watched.most, np.size(taken))
        return taken


def test_patches_are_cut_from_resized_images_of_a_memory_map_a_few_at_a_time(tmp_path):
    rng = np.random.default_rng(0)
    pixels = Watched(tmp_path / "images", dtype=np.uint8, mode="w+", shape=(1500, 3, 42, 50))
    pixels[:] = rng.integers(0, 256, pixels.shape)
    Watched.most = 0
    patches = training_patches(
        images(pixels), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3), number=1500, size=3, seed=0, purpose=("here",)
    )
    assert Watched.most <= 500 * 42 * 50
    # The same drawing by hand, of whole images.
    rng = np.random.default_rng(_seed_of("here"))
    rows = rng.permutation(1500)
    channels = rng.integers(3, size=1500)
    down, right = rng.integers(30, size=(2, 1500))
    for n in range(0, 1500, 97):
        whole = torch.from_numpy(np.array(pixels[rows[n], channels[n]])).double()[None, None]
        small = torch.nn.functional.interpolate(whole, (32, 32), mode="bilinear", antialias=True)
        patch = small[0, 0, down[n] : down[n] + 3, right[n] : right[n] + 3].round() / 255
        expected = (patch - (0.5, 0.4, 0.3)[channels[n]]) / (0.1, 0.2, 0.3)[channels[n]]
        torch.testing.assert_close(patches[n, 0], expected.float(), rtol=1e-5, atol=1e-5)
    assert sorted(rows.tolist()) == list(range(1500))
    assert len(set(channels.tolist())) == 3


def _seed_of(purpose: str) -> int:
    from metantk_core.seeding import derive

    return derive(0, purpose)


def test_few_images_give_as_many_patches_by_turns():
    pixels = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 40, 40), dtype=np.uint8)
    patches = training_patches(images(pixels), (0.0,), (1.0,), number=20, size=3, seed=0, purpose=("few",))
    levels = (patches * 255).round()
    assert bool((levels == levels[:, :, :1, :1]).all())  # equal surroundings give equal patches
    times = torch.bincount(levels[:, 0, 0, 0].long())
    assert sorted(times.tolist()) == [2] + 6 * [3]


def test_patches_are_normalised_by_the_moments_of_the_data_whatever_normalises_the_episodes():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (60, 3, 32, 32)).astype(np.uint8)
    mean, std = moments(pixels)
    splits = {name: images(pixels, name) for name in ("train", "val", "test")}
    dataset = ImageDataset(**splits, name="made", mean=mean, std=std, digest="")  # type: ignore[arg-type]
    config = RunConfig.from_values(
        {
            "name": "made",
            "scoring": {"scores": ["linear_regions"], "linear_regions": {"images": 50}, "num_inits": 1},
            "rank_by": "linear_regions",
        },
        "test",
    )
    found = []
    for normalisation in ("dataset", "cifar10"):
        scoring = config.scoring.model_copy(update={"normalisation": normalisation})
        source = score_source(config.model_copy(update={"scoring": scoring}), dataset)
        assert source.own_moments == (mean, std)
        assert (source.mean == mean) == (normalisation == "dataset")
        draw = Scorer(DARTS.supernet(), source, scoring, 0).draw(DARTS.supernet(), 0)
        found.append(torch.cat(draw.regions_images()))
    assert torch.equal(*found)


def test_candidates_of_a_draw_share_their_patches_and_streams_have_their_own():
    config = ScoringConfig(scores=("linear_regions",), linear_regions=LinearRegionsConfig(images=50))
    scorer = Scorer(DARTS.supernet(), made("noise"), config, 0)
    first, second = (scorer.draw(genotype, 0) for genotype in (DARTS.supernet(), GENOTYPES["conv_3x3"]))
    assert first.regions_images()[0] is second.regions_images()[0]
    others = [scorer.draw(DARTS.supernet(), 1), scorer.draw(DARTS.supernet(), 0, "mine")]
    assert not any(torch.equal(first.regions_images()[0], other.regions_images()[0]) for other in others)
    with_weights = scorer.draw(DARTS.supernet(), 0, "mine", "supernet").regions_images()[0]
    assert with_weights is others[1].regions_images()[0]


# Settings


def test_recipes_count_linear_regions_as_published():
    counting = {name: config for name, config in RECIPES.items() if "linear_regions" in config.scoring.scores}
    assert {"glyphs-prune", "paper-mini-5", "reference-tiered-8"} <= set(counting)
    for config in counting.values():
        assert config.scoring.linear_regions == LinearRegionsConfig(
            definition="published", channels=1, image_size=3, images=3000, batch=1000
        )


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"channels": 2}, "definition=noise"),
        ({"image_size": 33}, "at most"),
        ({"images": 1500}, "multiple of batch"),
    ],
)
def test_setting_that_the_published_definition_has_no_place_for_is_refused(values, what):
    with pytest.raises(ValidationError, match=what):
        LinearRegionsConfig(**values)
    LinearRegionsConfig(definition="noise", **values)
