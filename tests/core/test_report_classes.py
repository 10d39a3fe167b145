"""What report and terminal say of test classes is what their counts say."""

import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console
from test_report import NASTY, Reader, evaluation, render, report_data

from metantk_core.meta_training import LEAST_EPISODES, ClassAnswers, over_trainings
from metantk_core.meta_training.class_answers import Tally
from metantk_core.report.class_table import class_table
from metantk_core.report.findings import Difference, class_sentences, comparison_sentence
from metantk_core.report.formatting import percent_with_interval, points_with_interval
from metantk_core.terminal import print_evaluations

QUERIES = 4


def counted(names, episodes=60, seed=0):
    """Return an evaluation of classes of which later ones are easier, and the first is taken for the second one."""
    rng = np.random.default_rng(seed)
    tally, accuracies = Tally(), []
    for _ in range(episodes):
        classes = rng.choice(len(names), size=min(5, len(names)), replace=False).tolist()
        labels = np.repeat(np.arange(len(classes)), QUERIES)
        skill = 0.3 + 0.7 * np.array(classes)[labels] / len(names)
        answers = np.where(rng.random(len(labels)) < skill, labels, rng.integers(len(classes), size=len(labels)))
        if {0, 1} <= set(classes):
            answers[labels == classes.index(0)] = classes.index(1)
        tally.add(classes, labels.tolist(), answers.tolist())
        accuracies.append(float(np.mean(answers == labels)))
    answers = ClassAnswers.from_values({"names": names, "queries": QUERIES, **tally.as_values()})
    found = evaluation(0.6, episodes=episodes)
    accuracy = float(np.mean(accuracies))
    return dataclasses.replace(found, per_episode=tuple(accuracies), accuracy=accuracy, answers=answers)


def page_of(found):
    data = report_data()
    return render(dataclasses.replace(data, trained=(dataclasses.replace(data.trained[0], evaluation=found),)))


@pytest.mark.parametrize("number", [8, 160])
def test_page_shows_each_class_once_and_a_matrix_of_at_most_twenty(number):
    names = [f"class {index:03}" for index in range(number)]
    found = counted(names)
    assert found.answers is not None
    page = page_of(found)
    reader = Reader(page)
    assert reader.open == []
    assert "test-classes" in reader.ids
    (section,) = re.findall(r'<section id="test-classes">(.*?)</section>', page, re.DOTALL)
    held = {names[label] for classes in found.answers.held for label in classes}
    rows = re.findall(r"<tr><td>(class \d+)</td>", section.replace("<wbr>", ""))
    assert sorted(rows) == sorted(held)
    matrix = re.findall(r"<td[^>]* title=", section)
    assert len(matrix) in ([number**2] if number <= 20 else [size**2 for size in range(2, 21)])
    assert section.count('class="own"') ** 2 == len(matrix)


def test_cells_of_the_matrix_are_shares_of_the_queries_where_both_classes_were():
    found = counted([f"c{index}" for index in range(6)])
    table = class_table("best", found)
    assert found.answers is not None
    assert table is not None
    assert table.whole
    for row, name in zip(table.matrix, table.names, strict=True):
        for cell, other in zip(row, table.names, strict=True):
            first, second = int(name[1:]), int(other[1:])
            if first == second:
                (own,) = [one for one in found.answers.classes() if one.name == name]
                assert cell.text == f"{100 * own.accuracy:.0f}"
                continue
            together = sum({first, second} <= set(held) for held in found.answers.held)
            mistaken = sum(count for i, j, count in found.answers.mistaken if (i, j) == (first, second))
            assert cell.text == f"{100 * mistaken / together / QUERIES:.0f}"
    assert table.matrix[0][1].text == "100"


def test_classes_that_never_met_have_an_empty_cell():
    tally = Tally()
    tally.add([0, 1], [0, 1], [1, 1])
    tally.add([1, 2], [0, 1], [0, 0])
    answers = ClassAnswers.from_values({"names": list("abc"), "queries": 1, **tally.as_values()})
    assert answers.matrix(list("abc")) == [[0.0, 1.0, None], [0.0, 1.0, 0.0], [None, 1.0, 0.0]]


def test_names_of_classes_are_escaped_and_an_evaluation_without_counts_has_no_section():
    found = counted([NASTY, "a & b", "c", "d", "e"])
    page = page_of(found)
    assert NASTY not in page
    assert Reader(page).open == []
    assert "test-classes" not in Reader(page_of(dataclasses.replace(found, answers=None))).ids


def test_terminal_names_worst_episodes_hardest_classes_and_most_confused_pairs_in_three_lines():
    found = counted([f"[bold]c{index}" for index in range(12)])
    console = Console(file=io.StringIO(), width=100)
    print_evaluations({"best": found}, console=console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert f"{found.worst_decile:.2%}" in lines[1]
    worst, hardest, confused = lines[-3:]
    assert worst.startswith(f"Worst 10 % of episodes: {100 * found.worst_decile:.1f} % on average; they held")
    assert hardest.startswith("Hardest classes: [bold]c0 ")
    assert re.search(r"easiest: \[bold\]c\d+ [\d.]+ ± [\d.]+ % \(\d+ episodes\)\.$", hardest)
    assert confused.startswith("Most confused: [bold]c0 taken for [bold]c1 (100.0 % of its queries in ")
    assert class_sentences(dataclasses.replace(found, answers=None)) == [worst.partition(";")[0] + "."]


def test_of_many_classes_those_are_named_that_are_known_from_more_than_a_few_episodes():
    names = [f"c{index}" for index in range(40)]
    rare = counted(names, episodes=32)
    assert rare.answers is not None
    classes = rare.answers.classes()
    few = {one.name for one in classes if one.episodes < LEAST_EPISODES}
    assert {min(classes, key=lambda one: one.accuracy).name, max(classes, key=lambda one: one.accuracy).name} & few
    hardest = next(sentence for sentence in class_sentences(rare) if sentence.startswith("Hardest"))
    named = re.findall(r"(c\d+) [\d.]", hardest)
    assert len(named) == 4
    assert not few & set(named)


def test_of_two_episodes_no_interval_is_printed_anywhere():
    found = dataclasses.replace(counted([f"c{index}" for index in range(5)], episodes=2), half_width=6.353)
    console = Console(file=io.StringIO(), width=300)
    print_evaluations({"best": found}, console=console)
    assert "±" not in console.file.getvalue()  # type: ignore[attr-defined]
    assert "no interval of so few episodes, or equal ones" in found.summary()
    (section,) = re.findall(r'<section id="test-classes">(.*?)<h3', page_of(found), re.DOTALL)
    assert "±" in section  # which says when there is none
    (rows,) = re.findall(r"<tbody>(.*?)</tbody>", page_of(found).partition('id="test-classes"')[2], re.DOTALL)[:1]
    assert "±" not in rows
    assert percent_with_interval(0.9, 0.4) == "90.0 ± 40.0 %"
    assert percent_with_interval(0.9, 0.6) == "90.0 %"
    assert percent_with_interval(1.0, 0.0) == "100.0 %"


def test_no_difference_of_accuracies_reaches_beyond_a_hundred_points():
    wide = Difference(0.1, 1.4, 0.6)
    assert "95 % interval −100.0 to +100.0, same" in comparison_sentence("best", "worst", wide)
    assert points_with_interval(wide.mean, wide.half_width) == "+10.0"
    assert points_with_interval(0.1, 0.3) == "+10.0 ± 30.0"


def test_of_several_trainings_the_report_says_so_and_counts_all_of_them():
    names = [f"c{index}" for index in range(8)]
    one = counted(names)
    joined = over_trainings([one, one, one])
    assert joined.answers is not None
    table = class_table("best", joined)
    alone = class_table("best", one)
    assert table is not None
    assert alone is not None
    assert [(row.name, row.episodes) for row in table.hardest] == [(row.name, row.episodes) for row in alone.hardest]
    assert table.matrix == alone.matrix  # shares, not counts
    assert "all 3 trainings together" in page_of(joined)
    assert "trainings together" not in page_of(one)
    # The worst episodes are the same three times: that is no habit of theirs.
    once = dataclasses.replace(one, per_episode=(0.0, *[1.0] * 9), answers=first_ten(one.answers))
    assert "they held" not in class_sentences(over_trainings([once, once, once]))[0]


def first_ten(answers):
    return dataclasses.replace(answers, held=answers.held[:10], right=answers.right[:10], mistaken=())
