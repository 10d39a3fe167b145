import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_meta_training import (
    CONFIG,
    EPISODE,
    GENOTYPE,
    TRAIN,
    InterruptedWorkError,
    Memory,
    changed,
    interrupt_at,
    source,
)

from metantk_core.episodes import EpisodeConfig
from metantk_core.errors import InputError
from metantk_core.meta_training import Evaluation, EvaluationConfig, evaluate, untrained_model
from metantk_core.meta_training.adaptation import adapted_logits, correct_share
from metantk_core.statistics import mean_and_half_width

TEST = source("test")
MODEL = untrained_model(GENOTYPE, TRAIN, CONFIG, 0)
EVALUATION = EvaluationConfig(episode=EPISODE, episodes=12)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_interval_is_students(values):
    mean, half_width = mean_and_half_width(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-12)
    spread = stats.sem(values)
    if spread > 1e-12:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=spread)
        assert (mean - half_width, mean + half_width) == pytest.approx((low, high), abs=1e-9)
    else:
        assert half_width == pytest.approx(0, abs=1e-9)


def test_accuracies_are_those_of_adapting_afresh_to_each_episode():
    found = evaluate(MODEL, TEST, EVALUATION, 3)
    for index in (11, 0, 5):
        episode = TEST.normalised(TEST.episode(3, "evaluate", "test", index))
        logits = adapted_logits(
            MODEL.network(),
            episode.support_images,
            episode.support_labels,
            episode.query_images,
            algorithm="maml",
            learning_rate=CONFIG.inner_learning_rate,
            steps=CONFIG.inner_steps,
        )
        assert found.per_episode[index] == correct_share(logits, episode.query_labels)
    assert found.accuracy == pytest.approx(np.mean(found.per_episode))
    assert len(set(found.per_episode)) > 1


@pytest.mark.parametrize("stop", [1, 7, 12])
def test_interrupted_evaluation_continues_with_the_same_numbers(stop, monkeypatch):
    monkeypatch.setattr("metantk_core.meta_training.evaluation.CHECKPOINT_SECONDS", 0.0)
    memory, told = Memory(), []
    with pytest.raises(InterruptedWorkError):
        evaluate(MODEL, TEST, EVALUATION, 0, checkpoint=memory, progress=interrupt_at(stop))
    found = evaluate(
        MODEL, TEST, EVALUATION, 0, checkpoint=memory, progress=lambda done, total, detail="": told.append(done)
    )
    assert told == list(range(stop, 13))
    assert found == evaluate(MODEL, TEST, EVALUATION, 0)


def test_more_episodes_start_with_the_same_ones():
    few = evaluate(MODEL, TEST, EVALUATION, 0)
    more = evaluate(MODEL, TEST, EVALUATION.model_copy(update={"episodes": 15}), 0)
    assert more.per_episode[:12] == few.per_episode


def test_checkpoint_of_another_evaluation_is_refused():
    memory = Memory()
    evaluate(MODEL, TEST, EVALUATION, 0, checkpoint=memory)
    with pytest.raises(InputError, match="other work"):
        evaluate(MODEL, TEST, EVALUATION, 1, checkpoint=memory)
    with pytest.raises(InputError, match="other work"):
        evaluate(untrained_model(GENOTYPE, TRAIN, CONFIG, 1), TEST, EVALUATION, 0, checkpoint=memory)
    memory.data = b"nonsense"
    with pytest.raises(InputError, match="can't be read"):
        evaluate(MODEL, TEST, EVALUATION, 0, checkpoint=memory)


def test_evaluation_states_its_protocol_and_round_trips():
    found = evaluate(MODEL, TEST, EVALUATION.model_copy(update={"inner_steps": 1}), 5)
    assert Evaluation.from_json(found.to_json()) == found
    stated = {
        "ways": 3, "shots": 1, "queries": 3, "episodes": 12, "inner_steps": 1, "seed": 5, "split": "test",
        "dataset": "patterns", "algorithm": "maml", "norm": "batch_support", "transductive": False,
    }  # fmt: skip
    assert stated.items() <= found.protocol.items()
    assert "accuracy" not in found.protocol
    assert found.device == "cpu"
    for words in ("3-way 1-shot", "12 episodes", "not transductive", "Student's t", "computed on cpu"):
        assert words in found.summary()
    with pytest.raises(InputError):
        Evaluation.from_json('{"accuracy": 1}')


def test_evaluation_of_before_devices_were_noted_is_read_and_says_nothing_of_one():
    found = evaluate(MODEL, TEST, EVALUATION.model_copy(update={"episodes": 2}), 5)
    values = json.loads(found.to_json())
    del values["device"]
    old = Evaluation.from_json(json.dumps(values))
    assert old == replace(found, device="")
    assert "computed on" not in old.summary()


def test_transductive_normalisation_is_stated():
    model = untrained_model(GENOTYPE, TRAIN, changed(norm="batch_transductive"), 0)
    assert evaluate(model, TEST, EVALUATION, 0).transductive


def test_episodes_with_other_ways_are_refused():
    pairs = EpisodeConfig(ways=2, shots=1, queries=3)
    with pytest.raises(InputError, match="3 classes"):
        evaluate(MODEL, source("test", pairs), EvaluationConfig(episode=pairs, episodes=2), 0)
    with pytest.raises(InputError, match="source of episodes"):
        evaluate(MODEL, source("test", pairs), EVALUATION, 0)


def test_an_answer_that_is_not_finite_is_wrong():
    logits = torch.tensor([[2.0, 1.0], [float("nan"), 0.0], [0.0, float("inf")], [0.0, 1.0]])
    assert correct_share(logits, torch.tensor([0, 0, 1, 1])) == 0.5
