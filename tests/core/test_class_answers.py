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

from metantk_core.meta_training import (
    ClassAnswers,
    Evaluation,
    EvaluationConfig,
    evaluate,
    over_trainings,
    untrained_model,
)
from metantk_core.meta_training.adaptation import adapted_logits, chosen_classes
from metantk_core.meta_training.class_answers import LEAST_EPISODES, Tally, pooled, worst_episodes
from metantk_core.statistics import crossed_half_width, wilson_lower_bound
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
        assert (one.episodes, one.queries) == (len(asked), sum(map(len, asked.values())))
        assert one.accuracy == pytest.approx(np.mean(shares), abs=1e-12)
        if len(shares) < LEAST_EPISODES or np.ptp(shares) == 0:
            assert one.half_width is None
            continue
        low, high = stats.t.interval(0.95, len(shares) - 1, loc=np.mean(shares), scale=stats.sem(shares))
        assert one.half_width == pytest.approx((high - low) / 2, abs=1e-9)
    assert sum(one.half_width is not None for one in accuracies.values()) > 3
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
    in_worst = {one.name: one for one in found.answers.in_worst([found.per_episode])}
    assert {name: one.held for name, one in in_worst.items()} == Counter(n for i in ordered for n in held[int(i)])
    for name, one in in_worst.items():
        assert one.expected == pytest.approx(3 / 25 * sum(name in classes for classes in held.values()))
        assert one.episodes == one.held


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
    assert [(one.name, one.accuracy) for one in found.classes()] == [("c", 0.25), ("d", 1.0), ("e", 0.5)]
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


def counted(rows, queries=4):
    """Return counts of episodes of classes 0 and 1: how many queries of each were right; the others were mistaken."""
    tally = Tally()
    for right in rows:
        answers = [*[0] * right[0], *[1] * (queries - right[0]), *[1] * right[1], *[0] * (queries - right[1])]
        tally.add([0, 1], [0] * queries + [1] * queries, answers)
    return ClassAnswers.from_values({"names": ["a", "b"], "queries": queries, **tally.as_values()})


def test_answers_of_several_trainings_are_pooled_class_by_class():
    episodes, trainings = 25, 3
    asked = EvaluationConfig(episode=EPISODE, episodes=episodes)
    models = [untrained_model(GENOTYPE, TRAIN, CONFIG, seed) for seed in range(trainings)]
    single = [evaluate(model, TEST, asked, 3) for model in models]
    joined = over_trainings(single)
    answers = [one.answers for one in single]
    assert joined.answers is not None
    shares = defaultdict(lambda: defaultdict(dict))  # class → episode → training
    mistaken = Counter()
    for number, one in enumerate(answers):
        assert one is not None
        for index, (held, right) in enumerate(zip(one.held, one.right, strict=True)):
            for label, count in zip(held, right, strict=True):
                shares[one.names[label]][index][number] = count / EPISODE.queries
        mistaken.update({(one.names[i], one.names[j]): count for i, j, count in one.mistaken})
    classes = {one.name: one for one in joined.answers.classes()}
    assert classes.keys() == shares.keys()
    for name, found in shares.items():
        table = np.array([[found[index][number] for index in found] for number in range(trainings)])
        one = classes[name]
        assert one.accuracy == pytest.approx(table.mean(), rel=1e-12)
        assert (one.episodes, one.queries) == (len(found), trainings * len(found) * EPISODE.queries)
        if one.half_width is not None:
            assert one.half_width == pytest.approx(crossed_half_width(table), rel=1e-9)
    assert sum(one.half_width is not None for one in classes.values()) > 3
    assert {(pair.name, pair.taken_for): pair.count for pair in joined.answers.confusions()} == mistaken
    first = single[0].answers
    assert first is not None
    met = {(pair.name, pair.taken_for): pair.episodes for pair in first.confusions()}
    for pair in joined.answers.confusions():
        if (pair.name, pair.taken_for) in met:
            assert pair.episodes == met[pair.name, pair.taken_for]  # they are the same episodes for all trainings
        assert pair.share == pytest.approx(pair.count / (pair.episodes * EPISODE.queries * trainings))
    names = [one.name for one in joined.answers.classes()]
    diagonal = [row[place] for place, row in enumerate(joined.answers.matrix(names))]
    assert diagonal == pytest.approx([classes[name].accuracy for name in names])
    # The whole is made of the parts, and is kept and read back.
    assert sum(mistaken.values()) == pytest.approx((1 - joined.accuracy) * trainings * episodes * 3 * EPISODE.queries)
    assert Evaluation.from_json(joined.to_json()) == joined
    assert joined.worst_decile == pytest.approx(np.mean([np.sort(one.per_episode)[:3] for one in single]))
    worst = [index for one in single for index in np.argsort(one.per_episode, kind="stable")[:3]]
    held = Counter(joined.answers.names[label] for index in worst for label in joined.answers.held[index])
    alike = Counter(joined.answers.names[label] for index in set(worst) for label in joined.answers.held[index])
    for one in joined.answers.in_worst(joined.trainings):
        assert (one.held, one.episodes) == (held[one.name], alike[one.name])
        assert one.expected == pytest.approx(
            9 / 25 * sum(one.name in map(first.names.__getitem__, h) for h in first.held)
        )


def test_counts_of_other_episodes_are_not_pooled_and_counts_that_do_not_fit_are_refused():
    first = counted([(4, 3)] * 6)
    with pytest.raises(ValueError, match="same episodes"):
        pooled([first, counted([(4, 3)] * 5)])
    with pytest.raises(ValueError, match="trainings"):
        ClassAnswers.from_values({**dataclasses.asdict(first), "trainings": [[[1, 2], [1]]]})
    old = dataclasses.replace(evaluate(MODEL, TEST, EvaluationConfig(episode=EPISODE, episodes=4), 0), answers=None)
    assert over_trainings([old, old]).answers is None


@pytest.mark.parametrize(
    ("trainings", "known"),
    [
        ([[4, 2, 3, 1]], False),  # four episodes
        ([[4, 2, 3, 1, 4]], True),
        ([[4, 4, 4, 4, 4, 4, 4]], False),  # no spread: it is not known to a point
        ([[3, 3, 3, 3, 3, 3, 3], [3, 3, 3, 3, 3, 3, 3]], False),
        ([[4, 4, 4, 3, 4, 4], [0, 1, 0, 1, 0, 0]], False),  # two trainings, worlds apart: beyond 0 to 100 %
        ([[4, 3, 2, 3, 4, 1], [3, 4, 2, 3, 3, 2]], True),
    ],
)
def test_an_interval_that_would_say_nothing_is_not_given(trainings, known):
    answers = [counted([(right, right) for right in row]) for row in trainings]
    found = (pooled(answers) if len(answers) > 1 else answers[0]).classes()
    assert [one.half_width is not None for one in found] == [known, known]
    assert found[0].accuracy == pytest.approx(np.mean(trainings) / 4)
    assert all(one.half_width is None or one.half_width <= 0.5 for one in found)


def test_over_trainings_the_interval_of_a_class_covers_another_training_and_other_episodes():
    # Logits: of the class, of a training, of an episode, of both; then 15 queries. Truth is their mean without end.
    draw, count, trainings, episodes = np.random.default_rng(0), 1500, 3, 20

    def shares(number, of_trainings, held):
        logits = 1.0 + draw.normal(0, 0.3, (number, of_trainings, 1)) + draw.normal(0, 0.8, (number, 1, held))
        return 1 / (1 + np.exp(-logits - draw.normal(0, 0.3, (number, of_trainings, held))))

    truth = shares(400_000, 1, 1).mean()
    right = draw.binomial(15, shares(count, trainings, episodes))
    covered = episodes_alone = 0
    for table in right:
        answers = [ClassAnswers(("a",), 15, ((0,),) * episodes, tuple((int(k),) for k in row), ()) for row in table]
        (joined,) = pooled(answers).classes()
        assert joined.half_width is not None
        covered += abs(joined.accuracy - truth) <= joined.half_width
        low, high = stats.t.interval(0.95, episodes - 1, table.mean() / 15, stats.sem(table.mean(axis=0) / 15))
        episodes_alone += low <= truth <= high
    assert 0.93 < covered / count < 0.985
    assert episodes_alone / count < 0.90
