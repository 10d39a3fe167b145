"""What an evaluation says of single classes is what counting query after query gives."""

import dataclasses
import json
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_meta_training import CONFIG, EPISODE, GENOTYPE, TRAIN, source

from metantk_core.meta_training import ClassAnswers, Evaluation, EvaluationConfig, evaluate, untrained_model
from metantk_core.meta_training.adaptation import adapted_logits, chosen_classes
from metantk_core.meta_training.class_answers import Tally, worst_episodes
from metantk_core.statistics import wilson_lower_bound
from metantk_core.workflow.tracked import class_columns, confusion_columns

TEST = source("test")
MODEL = untrained_model(GENOTYPE, TRAIN, CONFIG, 0)


def asked_one_by_one(episodes, seed):
    """Give for each query its episode, the classes of that, the query's class, and the class that it is taken for."""
    for index in range(episodes):
        drawn = TEST.episode(seed, "evaluate", "test", index)
        shown = TEST.normalised(drawn)
        logits = adapted_logits(
            MODEL.network(),
            shown.support_images,
            shown.support_labels,
            shown.query_images,
            algorithm="maml",
            learning_rate=CONFIG.inner_learning_rate,
            steps=CONFIG.inner_steps,
        )
        names = [TEST.images.class_names[TEST.images.labels[row]] for row in drawn.query_rows]
        for name, best in zip(names, logits.argmax(dim=1), strict=True):
            yield index, drawn.class_names, name, drawn.class_names[best]


def test_classes_confusions_and_worst_episodes_are_those_of_counting_query_after_query():
    episodes = 25
    found = evaluate(MODEL, TEST, EvaluationConfig(episode=EPISODE, episodes=episodes), 3)
    assert found.answers is not None
    by_class, mistaken, held = defaultdict(lambda: defaultdict(list)), Counter(), {}
    for index, classes, name, answer in asked_one_by_one(episodes, 3):
        by_class[name][index].append(name == answer)
        held[index] = classes
        if name != answer:
            mistaken[name, answer] += 1
    accuracies = {one.name: one for one in found.answers.classes()}
    assert accuracies.keys() == by_class.keys()
    for name, asked in by_class.items():
        shares = [np.mean(right) for right in asked.values()]
        one = accuracies[name]
        assert one.half_width is not None
        assert (one.episodes, one.queries) == (len(asked), sum(map(len, asked.values())))
        assert one.accuracy == pytest.approx(np.mean(shares), abs=1e-12)
        interval = stats.t.interval(0.95, len(shares) - 1, loc=np.mean(shares), scale=stats.sem(shares))
        assert (one.accuracy - one.half_width, one.accuracy + one.half_width) == pytest.approx(interval, abs=1e-9)
    confusions = found.answers.confusions()
    assert {(pair.name, pair.taken_for): pair.count for pair in confusions} == mistaken
    assert len(mistaken) > 3
    for pair in confusions:
        together = sum({pair.name, pair.taken_for} <= set(classes) for classes in held.values())
        assert pair.episodes == together
        assert pair.share == pytest.approx(pair.count / (together * EPISODE.queries))
    # The parts make up the whole.
    total = episodes * EPISODE.ways * EPISODE.queries
    assert sum(mistaken.values()) == pytest.approx((1 - found.accuracy) * total)
    ordered = np.argsort(found.per_episode, kind="stable")[:3]  # a tenth of 25, rounded up
    assert found.worst_decile == pytest.approx(np.mean(np.sort(found.per_episode)[:3]))
    in_worst = {one.name: one for one in found.answers.in_worst(found.per_episode)}
    assert {name: one.held for name, one in in_worst.items()} == Counter(n for i in ordered for n in held[int(i)])
    for name, one in in_worst.items():
        assert one.expected == pytest.approx(3 / 25 * sum(name in classes for classes in held.values()))


def test_only_the_classifier_and_the_shots_of_the_accuracy_are_counted():
    plain = EvaluationConfig(episode=EPISODE, episodes=4)
    more = plain.model_copy(update={"beside": ("cosine",), "further_shots": (2, 1, 2)})
    with_others = evaluate(MODEL, TEST, more, 0)
    assert with_others.answers == evaluate(MODEL, TEST, plain, 0).answers
    # The shots of the episodes themselves, and shots named twice, are not asked again.
    assert [(other.shots, other.classifier) for other in with_others.others] == [
        (1, "cosine"),
        (2, "gradient_steps"),
        (2, "cosine"),
    ]


def test_queries_without_finite_logits_are_neither_right_nor_taken_for_a_class():
    tally = Tally()
    tally.add([4, 2], [0, 0, 1, 1], [0, -1, 0, 0])
    tally = Tally.of(json.loads(json.dumps(tally.as_values())))
    tally.add([2, 3], [0, 0, 1, 1], [1, 0, 1, 1])
    found = ClassAnswers.from_values({"names": list("abcde"), "queries": 2, **tally.as_values()})
    assert [(one.name, one.accuracy, one.half_width is None) for one in found.classes()] == [
        ("c", 0.25, False),
        ("d", 1.0, True),
        ("e", 0.5, True),
    ]
    assert [(pair.name, pair.taken_for, pair.share) for pair in found.confusions()] == [
        ("c", "e", 1.0),
        ("c", "d", 0.5),
    ]
    assert chosen_classes(torch.tensor([[1.0, float("nan")], [0.0, 1.0]])).tolist() == [-1, 1]


def test_a_pair_that_is_confused_time_and_again_comes_before_one_that_met_once():
    tally = Tally()
    tally.add([0, 1], [0, 0, 1, 1], [1, 1, 1, 1])  # once, altogether
    for _ in range(20):
        tally.add([2, 3], [0, 0, 1, 1], [1, 0, 1, 1])  # twenty times, half
    found = ClassAnswers.from_values({"names": list("abcd"), "queries": 2, **tally.as_values()}).confusions()
    assert [(pair.name, pair.taken_for) for pair in found] == [("c", "d"), ("a", "b")]


@given(st.integers(1, 200), st.data())
def test_lower_bound_of_a_share_is_wilsons(number, data):
    successes = data.draw(st.integers(0, number))
    interval = stats.binomtest(successes, number).proportion_ci(0.95, method="wilson")
    assert wilson_lower_bound(successes / number, number) == pytest.approx(interval.low, abs=1e-12)


@pytest.mark.parametrize(("episodes", "worst"), [(2, 1), (10, 1), (11, 2), (600, 60)])
def test_the_worst_tenth_is_rounded_up(episodes, worst):
    assert len(worst_episodes([0.5] * episodes)) == worst
    assert worst_episodes([0.5, 0.1, 0.1]) == [1]


def test_evaluations_of_before_classes_were_counted_are_read_and_say_what_they_can():
    found = evaluate(MODEL, TEST, EvaluationConfig(episode=EPISODE, episodes=4), 0)
    values = json.loads(found.to_json())
    del values["answers"]
    old = Evaluation.from_json(json.dumps(values))
    assert old == dataclasses.replace(found, answers=None)
    assert old.as_values()["worst_decile"] == {"accuracy": min(found.per_episode), "episodes": 1}
    assert "classes" not in old.as_values()


def test_tables_of_the_tracker_begin_with_the_hardest_class_and_the_most_confused_pair():
    answers = evaluate(MODEL, TEST, EvaluationConfig(episode=EPISODE, episodes=12), 0).answers
    assert answers is not None
    classes, pairs = class_columns(answers), confusion_columns(answers)
    accuracy = [float(share) for share in classes["accuracy"] if share is not None]
    assert accuracy == sorted(accuracy)
    assert accuracy[0] < accuracy[-1]
    assert pairs["queries"][0] == answers.confusions()[0].count
    assert {len(column) for column in classes.values()} == {len(answers.classes())}
    assert (
        sum(int(number) for number in classes["queries"] if number is not None) == 12 * EPISODE.ways * EPISODE.queries
    )
