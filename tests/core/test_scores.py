"""Scores: what a record promises, what a condition number is, and that a score depends on nothing but its inputs.

Axes: n images · t tasks.
"""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from metantk_core.candidates import Genotype, parse_genotype
from metantk_core.datasets.images import LabelledImages
from metantk_core.episodes import EpisodeConfig, EpisodeSource
from metantk_core.errors import InputError
from metantk_core.kernels import (
    EPSILON,
    eigenvalues,
    meta_ntk,
    rounding,
    rounding_floor,
    split,
    tangent_and_last_layer_kernel,
)
from metantk_core.networks import NetworkConfig, build, count_macs, count_parameters, initialise
from metantk_core.scores import (
    SCORES,
    Outcome,
    Score,
    Scorer,
    ScoreRecord,
    ScoringConfig,
    candidate_kernels,
    condition_number,
    evidence,
    functions,
    score_candidate,
    score_draw,
    scorer,
    scoring_episodes,
)

EPISODE = EpisodeConfig(ways=3, shots=1, queries=1)
CONFIG = ScoringConfig(num_inits=2, tasks=2, episode=EPISODE, image_size=8, network=NetworkConfig(channels=4, cells=1))
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def source(classes: int = 6, images_per_class: int = 8, size: int = 8) -> EpisodeSource:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (classes * images_per_class, 1, size, size)).astype(np.uint8)
    labels = np.repeat(np.arange(classes), images_per_class).astype(np.int64)
    labelled = LabelledImages(images, labels, tuple(f"class {i}" for i in range(classes)), "train", "noise")
    return EpisodeSource(labelled, EPISODE, (0.5,), (0.29,), image_size=8)


def cell(text: str = CELL) -> Genotype:
    return parse_genotype("nasbench201", text)


# Condition numbers


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=8), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_condition_number_is_that_of_numpy(spectrum, seed):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    kernel = (basis * np.array(spectrum)) @ basis.T
    kernel = (kernel + kernel.T) / 2
    score = condition_number(torch.from_numpy(kernel), precision=1e-12)
    assert score.outcome is Outcome.OK
    assert score.value == pytest.approx(np.linalg.cond(kernel), rel=1e-6)


@pytest.mark.parametrize("precision", EPSILON)
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
@pytest.mark.parametrize(
    ("share", "outcome"), [(1.1, Outcome.OK), (0.9, Outcome.DEGENERATE), (0.0, Outcome.DEGENERATE)]
)
def test_kernel_is_degenerate_where_rounding_may_be_more_than_one_percent_of_an_eigenvalue(
    precision, scale, share, outcome
):
    epsilon = EPSILON[precision]
    known_from = rounding_floor(torch.eye(6, dtype=torch.float64), precision=epsilon)
    assert known_from == pytest.approx(100 * 2 * math.sqrt(6) * epsilon)
    kernel = scale * torch.diag(torch.tensor([0.5, 1.0, share * known_from, 0.7, 0.8, 0.9], dtype=torch.float64))
    assert condition_number(kernel, precision=epsilon).outcome is outcome


@pytest.mark.parametrize(
    ("kernel", "outcome", "reason"),
    [
        (torch.zeros(3, 3), Outcome.DEGENERATE, "no output depends on any weight"),
        (torch.ones(3, 3), Outcome.DEGENERATE, "singular: its smallest eigenvalue"),
        (torch.diag(torch.tensor([1.0, 2.0, -1.0])), Outcome.DEGENERATE, "singular"),
        (torch.full((2, 2), math.nan), Outcome.NON_FINITE, "not finite"),
        (torch.diag(torch.tensor([1.0, math.inf])), Outcome.NON_FINITE, "not finite"),
    ],
)
def test_kernel_without_a_condition_number_says_why(kernel, outcome, reason):
    score = condition_number(kernel.double())
    assert score.value is None
    assert score.outcome is outcome
    assert reason in score.reason


def test_differences_of_large_numbers_keep_their_rounding():
    kernel = torch.diag(torch.tensor([1.0, 2.0], dtype=torch.float64))
    assert condition_number(kernel, floor=0.5).value == 2.0
    assert condition_number(kernel, floor=1.5).outcome is Outcome.DEGENERATE


def test_score_that_float32_cannot_know_is_computed_again_in_float64_once_for_all_that_need_it(monkeypatch):
    seen = []

    def counted(network, images, **options):
        seen.append(images.dtype)
        return tangent_and_last_layer_kernel(network, images, **options)

    monkeypatch.setattr(evidence, "tangent_and_last_layer_kernel", counted)
    scores = "metantk_cond", "ntk_cond", "metantk_logdet", "metantk_trace_ratio", "ntk_trace", "params"
    config = CONFIG.model_copy(update={"scores": scores, "num_inits": 1})
    usual = {record.score: record.draws[0] for record in score_candidate(cell(), source(), config, 3)}
    assert seen == [torch.float32]
    assert {draw.precision for draw in usual.values()} == {"float32"}

    monkeypatch.setattr(rounding, "_ROUNDING", 1e5)  # nothing is known in float32 then, all is in float64
    again = {record.score: record.draws[0] for record in score_candidate(cell(), source(), config, 3)}
    assert seen == [torch.float32] * 2 + [torch.float64]
    for name in scores:
        assert again[name].precision == ("float64" if name.endswith(("cond", "logdet", "ratio")) else "float32")
        assert again[name].value == pytest.approx(usual[name].value, rel=1e-2)
    assert again["metantk_cond"].value != usual["metantk_cond"].value


@pytest.mark.parametrize("name", ["ntk_cond", "metantk_cond", "metantk_logdet", "metantk_trace_ratio"])
def test_kernel_that_is_singular_in_float64_too_fails_there_with_one_sentence(name):
    images = source(classes=3, images_per_class=2)
    images.images.images[:] = images.images.images[0]
    config = CONFIG.model_copy(update={"scores": (name,), "num_inits": 1})
    (record,) = score_candidate(cell(), images, config, 0)
    (draw,) = record.draws
    assert (draw.value, draw.outcome, draw.precision) == (None, Outcome.DEGENERATE, "float64")
    assert draw.reason.startswith("the kernel is singular: its smallest eigenvalue, ")
    assert "\n" not in draw.reason
    assert ". " not in draw.reason


def test_more_images_than_parameters_make_the_ntk_degenerate_in_float64_too():
    few_weights = "|skip_connect~0|+|skip_connect~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    network = NetworkConfig(channels=1, cells=1)
    config = CONFIG.model_copy(update={"scores": ("ntk_cond",), "num_inits": 1, "network": network, "tasks": 60})
    images = 6 * config.tasks
    assert count_parameters(build(cell(few_weights), network, in_channels=1, ways=3, variant="scoring")) < images
    (record,) = score_candidate(cell(few_weights), source(classes=12, images_per_class=60), config, 0)
    (draw,) = record.draws
    assert (draw.value, draw.outcome, draw.precision) == (None, Outcome.DEGENERATE, "float64")


class HalfFinished(torch.nn.Module):
    """A network whose forward pass only works in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 3)

    def forward(self, images):
        return self.layer(images.flatten(1)) @ torch.eye(3)


def test_network_of_a_persons_own_that_cannot_run_in_float64_keeps_the_verdict_of_float32(monkeypatch):
    config = CONFIG.model_copy(update={"scores": ("ntk_cond", "ntk_trace"), "num_inits": 1})
    monkeypatch.setattr(evidence, "even_gradients", lambda kernel: False)
    draw = Scorer(cell(), source(), config, 0).draw(cell(), 0)
    found, _ = score_draw(config.scores, replace(draw, network=HalfFinished()))
    assert {score.precision for score in found.values()} == {"float32"}
    assert found["ntk_trace"].value is not None


# Records


@pytest.mark.parametrize(
    "arguments",
    [
        (None, Outcome.OK),
        (math.nan, Outcome.OK),
        (math.inf, Outcome.OK),
        (1e5, Outcome.DEGENERATE, "singular"),
        (None, Outcome.DEGENERATE, ""),
        (1.0, Outcome.OK, "but"),
    ],
)
def test_only_a_score_that_is_ok_has_a_value_and_every_other_has_a_reason(arguments):
    with pytest.raises(ValueError, match="a score that is"):
        Score(*arguments)


SCORE = st.one_of(
    st.builds(Score, st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(
        Score,
        st.none(),
        st.sampled_from([Outcome.DEGENERATE, Outcome.NON_FINITE]),
        st.text(min_size=1).filter(lambda text: text.isprintable()),
        st.sampled_from(list(EPSILON)),
    ),
)


def test_precision_of_a_draw_comes_back_and_is_float32_in_records_that_name_none():
    record = ScoreRecord("nasbench201", CELL, "ntk_cond", (Score(3.5, precision="float64"), Score(2.5)), 0, 0.1)
    line = record.to_json()
    assert [draw["precision"] for draw in json.loads(line)["draws"]] == ["float64", "float32"]
    assert ScoreRecord.from_json(line) == record
    older = line.replace(', "precision": "float32"', "")
    assert older != line
    assert ScoreRecord.from_json(older) == record
    with pytest.raises(InputError, match="precision"):
        ScoreRecord.from_json(line.replace("float64", "float16"))


@settings(max_examples=200, deadline=None)
@given(st.lists(SCORE, min_size=1, max_size=4).map(tuple), st.integers(0, 2**63 - 1), st.floats(0, 1e9))
def test_record_is_one_line_and_comes_back_exactly(draws, seed, seconds):
    record = ScoreRecord("nasbench201", CELL, "ntk_cond", draws, seed, seconds)
    line = record.to_json()
    assert "\n" not in line
    back = ScoreRecord.from_json(line)
    assert back == record
    assert [draw.value and draw.value.hex() for draw in back.draws] == [d.value and d.value.hex() for d in record.draws]
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


GOOD = ScoreRecord("nasbench201", CELL, "ntk_cond", (Score(3.5),), 0, 0.1)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "{}",
        GOOD.to_json()[:-9],
        GOOD.to_json().replace("3.5", "NaN"),
        GOOD.to_json().replace("3.5", '"3.5"'),
        GOOD.to_json().replace("3.5", "null"),
        GOOD.to_json().replace('"ok"', '"fine"'),
        GOOD.to_json().replace('"seed": 0', '"seed": 0, "colour": 1'),
        GOOD.to_json().replace('"seed": 0, ', ""),
        '{"space": "nasbench201", "genotype": "", "score": "params", "draws": [], "seed": 0, "seconds": 1}',
    ],
)
def test_broken_line_is_one_clear_error(line):
    with pytest.raises(InputError, match="Expected a score record") as caught:
        ScoreRecord.from_json(line)
    assert "\n" not in str(caught.value)


# Definitions and configuration


def test_every_defined_score_is_computed_and_every_computed_one_defined():
    counted = {name for name, definition in SCORES.items() if definition.cost == "none"}
    assert set(functions.COUNTS) == counted
    assert set(functions.FUNCTIONS) == set(SCORES) - counted
    assert all(definition.name == name for name, definition in SCORES.items())
    assert all(definition.label and definition.meaning and definition.source for definition in SCORES.values())


@pytest.mark.parametrize("time", [math.inf, 0.0, 2.5])
def test_configuration_round_trips_through_json_without_a_number_that_json_lacks(time):
    config = ScoringConfig(time=time)
    text = config.model_dump_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert ScoringConfig.model_validate_json(text) == config
    assert ScoringConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": ("ntk_cond", "beauty")}, "unknown score beauty; the scores are metantk_cond, ntk_cond"),
        ({"scores": ("ntk_cond", "ntk_cond")}, "named twice"),
        ({"scores": ()}, "at least 1"),
        ({"time": -1.0}, "greater than or equal to 0"),
        ({"time": math.nan}, "greater than or equal to 0"),
        ({"ridge": math.inf}, "less than or equal to"),
        ({"num_init": 3}, "Extra inputs"),
    ],
)
def test_wrong_configuration_is_refused_with_what_is_allowed(change, message):
    with pytest.raises(ValidationError, match=message):
        ScoringConfig(**change)


# Scoring


def values(records: tuple[ScoreRecord, ...]) -> list[tuple]:
    return [(record.genotype, record.score, record.seed, record.draws) for record in records]


def test_candidate_gets_one_record_a_score_with_as_many_draws_as_initialisations():
    records = score_candidate(cell(), source(), CONFIG, 3)
    assert [record.score for record in records] == list(CONFIG.scores)
    assert [len(record.draws) for record in records] == [2, 2, 1, 1]
    assert all(draw.outcome is Outcome.OK for record in records for draw in record.draws)
    assert all(record.genotype == CELL and record.seconds > 0 and record.seed == 3 for record in records)
    first, second = records[0].draws
    assert first != second


@pytest.mark.parametrize("algorithm", ["maml", "anil"])
def test_scores_are_condition_numbers_of_the_kernels_of_the_same_draw(algorithm):
    config = CONFIG.model_copy(update={"algorithm": algorithm, "time": 0.7})
    images = source()
    metantk, ntk = score_candidate(cell(), images, config, 3)[:2]
    for repeat in range(config.num_inits):
        # By hand, from the public parts, in float64 throughout.
        network = build(cell(), config.network, in_channels=1, ways=3, variant="scoring")
        initialise(network, 3, "score", "init", repeat)
        episodes = scoring_episodes(images, config, 3, repeat)
        batch = torch.cat([e.query_images for e in episodes] + [e.support_images for e in episodes]).double()
        kernels = tangent_and_last_layer_kernel(network.double(), batch)
        assert kernels.nngp is not None
        blocks, last = (split(k, tasks=2, queries=3, supports=3) for k in (kernels.ntk, kernels.nngp))
        meta = meta_ntk(blocks, blocks if algorithm == "maml" else last, time=0.7, ridge=config.ridge)
        assert ntk.draws[repeat].value == pytest.approx(np.linalg.cond(kernels.ntk.numpy()), rel=1e-2)
        assert metantk.draws[repeat].value == pytest.approx(np.linalg.cond(meta.numpy()), rel=1e-2)
        shown = candidate_kernels(cell(), images, config, 3, repeat)
        spectrum = eigenvalues(shown.meta_ntk)
        assert metantk.draws[repeat].value == (spectrum[-1] / spectrum[0]).item()
        assert shown.nngp is not None
        torch.testing.assert_close(shown.nngp.full, kernels.nngp, rtol=1e-4, atol=1e-4)


def test_score_is_a_function_of_candidate_configuration_and_seed_alone():
    images = source()
    alone = score_candidate(cell(), images, CONFIG, 3)
    score_candidate(cell("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"), images, CONFIG, 8)
    torch.manual_seed(99)
    assert values(score_candidate(cell(), source(), CONFIG, 3)) == values(alone)
    assert values(score_candidate(cell(), images, CONFIG, 4))[0] != values(alone)[0]


def test_more_draws_and_fewer_scores_change_no_draw():
    images = source()
    few = score_candidate(cell(), images, CONFIG, 3)
    more = CONFIG.model_copy(update={"num_inits": 3, "scores": ("ntk_cond",)})
    (record,) = score_candidate(cell(), images, more, 3)
    assert record.draws[:2] == few[1].draws


def test_scoring_leaves_the_global_random_state_untouched():
    torch.manual_seed(5)
    before, numpy_before = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
    score_candidate(cell(), source(), CONFIG, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == numpy_before  # noqa: NPY002


def test_network_without_any_signal_is_a_degenerate_outcome_with_a_reason():
    metantk, ntk, params, _ = score_candidate(cell(NOTHING), source(), CONFIG, 3)
    for draw in (*metantk.draws, *ntk.draws):
        assert draw.outcome is Outcome.DEGENERATE
        assert "no output depends on any weight" in draw.reason
    assert params.draws[0].outcome is Outcome.OK


@pytest.mark.parametrize(
    ("scale", "reason"), [(1e38, "images are not finite"), (math.nan, "the logits of 12 of 12 images")]
)
def test_network_that_overflows_is_a_non_finite_outcome_with_a_reason(scale, reason, monkeypatch):
    def explode(network, seed, *purpose, **options):
        initialise(network, seed, *purpose, **options)
        with torch.no_grad():
            network.head.weight.mul_(scale)

    monkeypatch.setattr(scorer, "initialise", explode)
    for record in score_candidate(cell(), source(), CONFIG, 3)[:2]:
        for draw in record.draws:
            assert draw.outcome is Outcome.NON_FINITE
            assert reason in draw.reason
    assert not candidate_kernels(cell(), source(), CONFIG, 3, 0).meta_ntk.isfinite().all()


def test_counts_are_those_of_the_training_network_at_the_resolution_of_the_data():
    images, training = source(size=16), NetworkConfig(channels=8, cells=2)
    config = CONFIG.model_copy(update={"scores": ("params", "flops")})
    params, flops = score_candidate(cell(), images, config, 3, training_network=training)
    network = build(cell(), training, in_channels=1, ways=3, variant="training")
    assert params.draws[0].value == count_parameters(network)
    assert flops.draws[0].value == count_macs(network, (1, 16, 16))


def test_episodes_of_one_batch_share_no_image_where_the_data_allow_it():
    images = source(classes=4, images_per_class=8)  # 32 images, 12 of them in a batch
    config = CONFIG
    for repeat in range(20):
        episodes = scoring_episodes(images, config, 0, repeat)
        contents = [image.numpy().tobytes() for e in episodes for image in (*e.query_images, *e.support_images)]
        assert len(set(contents)) == len(contents) == 12
    first = [images.normalised(images.episode(0, "score", "episodes", repeat, 1)) for repeat in range(20)]
    again = [scoring_episodes(images, config, 0, repeat)[1] for repeat in range(20)]
    redrawn = [not torch.equal(a.query_images, b.query_images) for a, b in zip(first, again, strict=True)]
    assert any(redrawn)
    assert not all(redrawn)


def test_data_too_small_for_disjoint_episodes_are_scored_all_the_same():
    images = source(classes=3, images_per_class=2)  # 6 images: both episodes have them all
    metantk, ntk, *_ = score_candidate(cell(), images, CONFIG, 0)
    assert all(draw.outcome is Outcome.DEGENERATE for draw in ntk.draws)
    assert "singular" in ntk.draws[0].reason
    assert len(metantk.draws) == 2


def test_source_of_other_episodes_is_refused():
    with pytest.raises(ValueError, match=r"at 16 x 16 pixels.* at 8 x 8"):
        score_candidate(cell(), source(), CONFIG.model_copy(update={"image_size": 16}), 0)


def test_candidate_of_the_other_space_is_scored_too():
    genotype = parse_genotype(
        "darts_fewshot",
        "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_3x3', 0), ('avg_pool_3x3', 2), "
        "('conv_3x3', 1), ('max_pool_3x3', 3)], normal_concat=range(2, 5), reduce=[('conv_1x5_5x1', 0), "
        "('skip_connect', 1), ('sep_conv_3x3', 0), ('conv_3x3', 2), ('max_pool_3x3', 1), ('skip_connect', 3)], "
        "reduce_concat=range(2, 5))",
    )
    config = CONFIG.model_copy(update={"num_inits": 1, "network": NetworkConfig(channels=4, cells=3)})
    assert all(r.draws[0].outcome is Outcome.OK for r in score_candidate(genotype, source(), config, 3))
