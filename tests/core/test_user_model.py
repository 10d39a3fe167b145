"""Scoring somebody's own module: same numbers as the kernels say, and one clear sentence for what can't be scored."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from metantk_core.architectures import own_module, own_modules
from metantk_core.command_line import app
from metantk_core.datasets import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.kernels import batch, parameter_names, tangent_and_last_layer_kernel
from metantk_core.scores import (
    SCORES,
    Scorer,
    ScoringConfig,
    check_model,
    condition_number,
    evidence,
    functions,
    score_model,
    scorer,
    scoring_episodes,
)
from metantk_core.seeding import derive

EPISODE = EpisodeConfig(ways=3, shots=1, queries=1)
CONFIG = ScoringConfig(num_inits=2, tasks=2, episode=EPISODE, image_size=8)
GOOD = """
import torch
from torch import nn

NUMBER = 3

def small(in_channels, ways):
    body = nn.Conv2d(in_channels, 6, 3), nn.GroupNorm(2, 6), nn.Tanh(), nn.Flatten()
    return nn.Sequential(*body, nn.Linear(6 * 36, ways))

class Headed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 12, 3), nn.Linear(12, 3)

    def forward(self, x):
        return self.head(self.body(x).tanh().mean((2, 3)))

def batch_norm(in_channels, ways):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, ways))

def batch_norm_put_to_rest(in_channels, ways):
    return batch_norm(in_channels, ways).eval()

def random(in_channels, ways):
    return nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, ways))

class Mixing(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 3)

    def forward(self, x):
        return self.head((x - x.mean(0)).flatten(1))

def maps(in_channels, ways):
    return nn.Conv2d(in_channels, ways, 3)

def too_large(in_channels, ways):
    return nn.Sequential(nn.Flatten(), nn.Linear(100, ways))

def nothing(in_channels, ways):
    return None

def parameterless(in_channels, ways):
    return nn.Sequential(nn.AdaptiveAvgPool2d((1, 3)), nn.Flatten())

def greedy(a, b, c):
    return None

def lazy(in_channels, ways):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(ways))

def raising(in_channels, ways):
    return {}["absent"]

def leaving(in_channels, ways):
    raise SystemExit(0)

def many_lines(in_channels, ways):
    raise ValueError("first\\nsecond" + "!" * 5000)

class Failing(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.head, self.error = nn.Linear(64, 3), error

    def forward(self, x):
        raise self.error

def attribute(in_channels, ways):
    return Failing(AttributeError("here"))

def assertion(in_channels, ways):
    return Failing(AssertionError())

def index(in_channels, ways):
    return Failing(IndexError("here"))

def interrupting(in_channels, ways):
    raise KeyboardInterrupt

class Asked(nn.Linear):
    def named_parameters(self, *args, **kwargs):
        raise ZeroDivisionError("asked")

def asked(in_channels, ways):
    return Asked(64, ways)

class Returning(nn.Module):
    def __init__(self, change):
        super().__init__()
        self.head, self.change = nn.Linear(64, 3), change

    def forward(self, x):
        return self.change(x, self.head(x.flatten(1)))

def whole_numbers(in_channels, ways):
    return Returning(lambda x, logits: logits.long())

def overwriting_what_was_kept(in_channels, ways):
    return Returning(lambda x, logits: logits + x.mul_(2).mean((1, 2, 3))[:, None])

def overwriting_images(in_channels, ways):
    network = small(in_channels, ways)
    network.register_forward_pre_hook(lambda module, given: (given[0].div_(2),))
    return network

class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.kept = nn.Linear(64, 3), None

    def forward(self, x):
        if self.kept is None:
            self.kept = self.head.weight.exp()
        return x.flatten(1) @ self.kept.mT

class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        raise KeyError("backwards")

def failing_backwards(in_channels, ways):
    return Returning(lambda x, logits: Backwards.apply(logits))

class Changed(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()

def changed_batch_norm(in_channels, ways):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), Changed(4), nn.Flatten(), nn.Linear(4 * 36, ways))

def batch_norm_without_statistics(in_channels, ways):
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), norm, nn.Flatten(), nn.Linear(4 * 36, ways))

def group_norm(in_channels, ways):
    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(4 * 36, ways))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.rnn(x[:, 0])[0][:, -1])

class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.calls = nn.Linear(64, 3), 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 6:
            raise LookupError("once too often")
        return self.head(x.flatten(1))
"""


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    images = LabelledImages(
        rng.integers(0, 256, (40, 1, 8, 8), dtype=np.uint8),
        np.repeat(np.arange(4), 10).astype(np.int64),
        ("a", "b", "c", "d"),
        "train",
        "noise",
    )
    return EpisodeSource(images, EPISODE, (0.5,), (0.3,))


@pytest.fixture
def own(tmp_path, monkeypatch):
    name = f"own_{derive(0, str(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    return name


def test_records_are_the_condition_numbers_of_the_model_at_its_own_initialisation(own, source):
    state = torch.random.get_rng_state()
    records = {record.score: record for record in score_model(f"{own}:small", source, CONFIG, 5)}
    assert torch.equal(torch.random.get_rng_state(), state)
    assert set(records) == {"metantk_cond", "ntk_cond", "params", "flops"}
    module = __import__(own)
    for repeat, drawn in enumerate(records["ntk_cond"].draws):
        with torch.random.fork_rng():
            torch.manual_seed(derive(5, "score", "init", repeat))
            network = module.small(1, 3)
        episodes = scoring_episodes(source, CONFIG, 5, repeat)
        x = batch([e.query_images for e in episodes], [e.support_images for e in episodes])
        expected = condition_number(tangent_and_last_layer_kernel(network, x, implementation="vmap").ntk)
        assert drawn.value is not None
        assert expected.value is not None
        assert drawn.value == pytest.approx(expected.value, rel=1e-3)
    assert records["params"].draws[0].value == 6 * 10 + 12 + 6 * 36 * 3 + 3
    assert records["flops"].draws[0].value == 36 * 9 * 6 + 6 * 36 * 3
    assert all(record.genotype == f"{own}:small" and record.space == "model" for record in records.values())
    again = score_model(f"{own}:small", source, CONFIG, 5)
    assert [dataclasses.replace(r, seconds=0.0) for r in again] == [
        dataclasses.replace(r, seconds=0.0) for r in records.values()
    ]


@pytest.mark.parametrize("factory", ["Headed", "batch_norm_put_to_rest"])
def test_class_without_arguments_and_model_put_to_rest_are_scored(factory, own, source):
    config = CONFIG.model_copy(update={"scores": ("ntk_cond",), "num_inits": 1})
    (record,) = score_model(f"{own}:{factory}", source, config, 0)
    assert record.draws[0].value is not None
    assert math.isfinite(record.draws[0].value)


PANEL = """
from torch import nn

def layers(overwriting):
    first = nn.Conv2d(1, 6, 3), nn.ReLU(overwriting), nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(overwriting)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(6 * 16, 3))

def plain():
    return layers(False)

def overwriting():
    return layers(True)
"""


def test_every_score_but_those_of_a_space_is_had_for_any_network_and_overwriting_changes_none(
    tmp_path, monkeypatch, source
):
    monkeypatch.chdir(tmp_path)
    name = f"panel_{derive(0, str(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(PANEL)
    scores = tuple(score for score in SCORES if not SCORES[score].spaces_alone and score != "metantk_cond_anil")
    config = ScoringConfig.model_validate(CONFIG.model_dump() | {"scores": scores, "swap": {"centre": 1, "width": 1e3}})
    found = [
        {
            record.score: [draw.value for draw in record.draws]
            for record in score_model(f"{name}:{factory}", source, config, 0, batch_norm="group")
        }
        for factory in ("plain", "overwriting")
    ]
    assert set(found[0]) == set(scores) == set(SCORES) - {"linear_regions"}
    # Its image is larger than the last layer of this network allows.
    assert found[0].pop("meco") == found[1]["meco"] == [None, None]
    assert all(value is not None for values in found[0].values() for value in values)
    for score in found[0]:
        assert found[1][score] == pytest.approx(found[0][score], rel=1e-5, abs=1e-6), score


def test_score_of_a_space_is_refused_with_why():
    config = CONFIG.model_copy(update={"scores": ("linear_regions",)})
    with pytest.raises(InputError, match="own: it is counted on thin cells of a search space; leave it out"):
        check_model("torch.nn:Identity", config)


ONE = CONFIG.model_copy(update={"scores": ("ntk_cond",), "num_inits": 1})


def test_batch_normalisation_gives_way_to_group_normalisation_or_its_running_statistics(own, source):
    def value(factory, **options):
        return score_model(f"{own}:{factory}", source, ONE, 0, **options)[0].draws[0].value

    assert value("batch_norm", batch_norm="group") == value("group_norm")
    assert value("batch_norm_put_to_rest", batch_norm="group") == value("group_norm")
    assert value("batch_norm", batch_norm="eval") == value("batch_norm_put_to_rest")
    assert value("group_norm", batch_norm="group") == value("group_norm")


@pytest.mark.parametrize(
    ("factory", "treatment", "words"),
    [
        ("changed_batch_norm", "group", "Changed is a batch normalisation that computes something of its own"),
        ("batch_norm_without_statistics", "eval", "1 keeps no running statistics"),
    ],
)
def test_batch_normalisation_that_allows_no_such_treatment_is_refused(factory, treatment, words, own, source):
    with pytest.raises(InputError, match=words):
        score_model(f"{own}:{factory}", source, ONE, 0, batch_norm=treatment)


def test_a_caller_learns_which_parameters_count(own, source):
    seen = []
    (record,) = score_model(f"{own}:Recurrent", source, ONE, 0, on_network=seen.append)
    assert record.draws[0].value is not None
    (network,) = seen
    assert parameter_names(network, "weights") == ("rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight")


def test_network_that_overwrites_its_images_is_scored_as_one_that_copies_them(own, source):
    (record,) = score_model(f"{own}:overwriting_images", source, ONE, 0)
    assert record.draws[0].value is not None


TORCHVISION = """
from torch import nn

def make(in_channels, ways):
    from torchvision.ops import Conv2dNormActivation

    layer = Conv2dNormActivation(in_channels, 4, 1, norm_layer=None, inplace=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(4 * 64, ways))
"""


def test_a_persons_module_may_import_torchvision(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    name = f"vision_{derive(0, str(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(TORCHVISION)
    (record,) = score_model(f"{name}:make", source, ONE, 0)
    assert record.draws[0].value is not None


def test_anil_asks_for_a_head(own, source):
    config = CONFIG.model_copy(update={"scores": ("metantk_cond",), "num_inits": 1, "algorithm": "anil"})
    assert len(score_model(f"{own}:Headed", source, config, 0)) == 1
    with pytest.raises(InputError, match="'head'"):
        score_model(f"{own}:small", source, config, 0)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("missing", "to be a function or a class, got nothing of that name"),
        ("NUMBER", "to be a function or a class, got a int"),
        ("greedy", r"to take \(in_channels, ways\) or no argument"),
        ("nothing", "to return a torch.nn.Module, got NoneType"),
        ("maps", r"logits of shape \(12, 3\), got \(12, 3, 6, 6\)"),
        ("too_large", r"fails on images of shape \(12, 1, 8, 8\)"),
        ("lazy", r"whose size is not known yet \(1\.weight, 1\.bias\)"),
        ("batch_norm", "--batch-norm group to score .* or --batch-norm eval"),
        ("whole_numbers", "floating-point numbers, got torch.int64"),
        ("Keeping", "fails in the backward pass: RuntimeError: Trying to backward through the graph a second time"),
        ("overwriting_what_was_kept", "fails in the backward pass: RuntimeError: one of the variables needed"),
        ("random", "gives other logits each time"),
        ("Mixing", "mixes the images of a batch"),
        ("parameterless", "has no convolution"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_the_reason(factory, words, own, source):
    with pytest.raises(InputError, match=words):
        score_model(f"{own}:{factory}", source, CONFIG, 0)


@pytest.mark.parametrize(
    ("address", "words"),
    [("small", "as package.module:factory, got 'small'"), ("no_such_package.there:small", "No module named")],
)
def test_address_that_leads_nowhere_is_refused(address, words, own, source):
    with pytest.raises(InputError, match=words):
        score_model(address, source, CONFIG, 0)


@pytest.mark.parametrize(
    ("factory", "sentence", "line"),
    [
        ("raising", "fails when it is called: KeyError: 'absent'", 'return {}["absent"]'),
        ("leaving", r"it ends the program \(sys.exit\(0\)\)", "raise SystemExit(0)"),
        ("many_lines", "ValueError: first second!", "raise ValueError("),
        ("attribute", "AttributeError: here", "raise self.error"),
        ("assertion", "AssertionError", "raise self.error"),
        ("index", "IndexError: here", "raise self.error"),
        ("asked", "fails when it is asked for its modules or parameters: ZeroDivisionError", "raise ZeroDivisionError"),
        ("failing_backwards", "fails in the backward pass: KeyError: 'backwards'", 'raise KeyError("backwards")'),
        ("InPlace", "LookupError: once too often", "once too often"),
    ],
)
def test_an_error_in_a_persons_own_code_is_one_sentence_and_their_own_lines(factory, sentence, line, own, source):
    with pytest.raises(InputError, match=sentence) as caught:
        score_model(f"{own}:{factory}", source, CONFIG, 0)
    first, *lines = str(caught.value).splitlines()
    assert len(first) < 500
    assert any(line in text for text in lines)
    assert all(f"{own}.py" in text for text in lines if text.startswith("  File"))


def test_an_interrupt_in_a_persons_own_code_stays_one(own, source):
    with pytest.raises(KeyboardInterrupt):
        score_model(f"{own}:interrupting", source, CONFIG, 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"def make(:\n", "SyntaxError"),
        (b"raise RuntimeError('on import')\n", "RuntimeError: on import"),
        (b"import sys\nsys.exit(0)\n", "ends the program"),
        (b"import no_such_thing\n", "No module named 'no_such_thing'"),
        (b"from torch import no_such_name\n", "ImportError"),
        (b"x = 1\0\n", "null bytes"),
        (b"x = '\xe9'\n", "utf-8"),
        (b"def __getattr__(name):\n    raise LookupError(name)\n", "LookupError: make"),
        (b"def f():\n    f()\nf()\n", "RecursionError"),
    ],
)
def test_a_module_that_fails_when_it_is_imported_is_explained(content, words, tmp_path, monkeypatch):
    name = f"broken_{derive(0, str(tmp_path))}"
    (tmp_path / f"{name}.py").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=f"the module {name} fails when it is .*{words}") as caught:
        check_model(f"{name}:make", CONFIG)
    assert "importlib" not in str(caught.value)
    assert "own_modules.py" not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [".mm:f", "./mm:f", "mm", "mm:", ":f", "mm.py", "a/b:f", "mm:f:g", "mm:f()", "", "mm:\0", "builtins:int",
     "os.path:join", "json:__class__", "json:__doc__", "json:decoder"],
)  # fmt: skip
def test_an_address_of_no_factory_is_refused_in_one_sentence(address, own, source):
    with pytest.raises(InputError) as caught:
        score_model(address, source, CONFIG, 0)
    assert "\n" not in str(caught.value).split("\n  File")[0]


def test_each_score_of_a_persons_network_has_the_seconds_that_it_took_itself(own, source, monkeypatch):
    config = CONFIG.model_copy(update={"scores": ("ntk_cond", "l2_norm", "params"), "num_inits": 2})
    usual, clock = functions.FUNCTIONS["l2_norm"], [0.0]

    def slowly(evidence, loop):
        clock[0] += 10
        return usual.compute(evidence, loop)

    slow = dataclasses.replace(usual, compute=slowly)
    monkeypatch.setattr(functions, "FUNCTIONS", {**functions.FUNCTIONS, "l2_norm": slow})
    monkeypatch.setattr(scorer, "perf_counter", lambda: clock[0])
    kernel, norm, params = score_model(f"{own}:small", source, config, 0)
    assert [record.seconds for record in (kernel, norm, params)] == [0, 20, 0]
    (alone,) = score_model(f"{own}:small", source, config.model_copy(update={"scores": ("params",)}), 0)
    assert alone.draws == params.draws
    assert len(alone.draws) == 1


def test_images_of_a_draw_are_put_together_once_and_a_network_that_overwrites_them_leaves_them_alone(
    own, source, monkeypatch
):
    together = []
    monkeypatch.setattr(evidence, "batch", lambda *images: together.append(1) or batch(*images))
    model = own_module(f"{own}:overwriting_images")
    draw = Scorer(model, source, ONE, 0).draw(model, 0)
    before = draw.images
    draw.network(draw.images)
    assert torch.equal(draw.images, before)
    assert together == [1]


def test_a_draw_of_a_persons_module_depends_on_its_number_stream_and_weights_alone(own, source):
    model = own_module(f"{own}:small")
    drawn = Scorer(model, source, ONE, 5).draw
    state = torch.random.get_rng_state()
    draws = [drawn(model, 0), drawn(model, 1), drawn(model, 0, "mine"), drawn(model, 0, "mine", "apart")]
    draws.append(drawn(model, 0))
    assert torch.equal(torch.random.get_rng_state(), state)
    weights = [next(draw.network.parameters()) for draw in draws]
    assert torch.equal(weights[0], weights[4])
    assert weights[0] is not weights[4]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(weights[:4], 2))
    assert torch.equal(draws[2].images, draws[3].images)
    assert not torch.equal(draws[0].images, draws[2].images)


RANKED = """
from torch import nn

print("imported")

def net(width, activation):
    print("built")
    body = nn.Conv2d(1, width, 3), activation, nn.Conv2d(width, width, 3), nn.GroupNorm(2, width), nn.Tanh()
    network = nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5))
    network.register_forward_hook(lambda *_: print("passed"))
    return network

def narrow():
    return net(2, nn.ReLU())

def wide():
    return net(16, nn.ReLU())

def smooth():
    return net(4, nn.GELU())
"""


@pytest.mark.slow
def test_several_networks_are_ranked_in_one_table_whatever_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"ranked_{derive(0, str(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(RANKED)
    addresses = [f"{name}:{factory}" for factory in ("narrow", "wide", "smooth")]
    settings = [
        "--recipe", "smoke", "--set", "data.images_per_class=6", "--set", "scoring.image_size=8",
        "--set", "scoring.scores=[ntk_cond, naswot, params]", "--set", "rank_by=params", "--json",
    ]  # fmt: skip
    boards, loaded, load = [], [], own_modules._factory
    monkeypatch.setattr(own_modules, "_factory", lambda address: loaded.append(address) or load(address))
    for order in (addresses, addresses[::-1]):
        loaded.clear()
        done = CliRunner().invoke(app, ["rank", *order, *settings])
        assert done.exit_code == 0, done.output
        boards.append(json.loads(done.stdout))
        assert loaded == order
        assert {"built", "passed"} <= set(done.stderr.split())
    assert boards[0] == boards[1]
    standings = {standing["genotype"].partition(":")[2]: standing for standing in boards[0]["standings"]}
    assert list(standings) == ["wide", "smooth", "narrow"]
    values = {factory: dict(standing["others"]) for factory, standing in standings.items()}
    assert values["smooth"]["naswot"] is None  # it has no ReLU
    (reason,) = boards[0]["failures"][f"{name}:smooth"].values()
    assert list(boards[0]["failures"]) == [f"{name}:smooth"]
    assert reason.startswith("degenerate: ")
    assert reason.endswith("the network has no ReLU")
    table = CliRunner().invoke(app, ["rank", *addresses, *settings[:-1]], env={"COLUMNS": "200"})
    assert f"{name}:smooth: no NASWOT ({reason})" in table.stdout
    assert not {"built", "passed"} & set(table.stdout.split())
    assert values["wide"]["naswot"] > values["narrow"]["naswot"]
    for few in (addresses[:1], addresses[:1] * 2):
        with pytest.raises(InputError, match="two or more different networks"):
            CliRunner().invoke(app, ["rank", *few, *settings], catch_exceptions=False)


@pytest.mark.slow
def test_all_networks_are_tried_before_the_first_is_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"tried_{derive(0, str(tmp_path))}"
    broken = """
class Broken(torch.nn.Module):
    def forward(self, x): raise RuntimeError("not today")
def broken(channels, ways): return Broken()
"""
    (tmp_path / f"{name}.py").write_text(f"import torch\n{RANKED}{broken}")
    settings = ["--recipe", "smoke", "--set", "data.images_per_class=6", "--set", "scoring.image_size=8"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["rank", f"{name}:narrow", f"{name}:broken", *settings])
    assert isinstance(done.exception, InputError)
    assert "not today" in str(done.exception)
    assert "scored" not in done.stderr
