"""Test classes in the report: an evaluation enters, rows of classes and a confusion matrix leave."""

from dataclasses import dataclass

from metantk_core.meta_training import ClassAccuracy, ClassAnswers, Evaluation
from metantk_core.report.findings import class_sentences
from metantk_core.report.formatting import fixed, percent, percent_with_interval

_MOST_OPEN, _MOST_ROWS, _MOST_IN_MATRIX = 10, 500, 20


@dataclass(frozen=True)
class ClassRow:
    """One test class as it is shown.

    Attributes:
        name: The class.
        accuracy: With its interval.
        width: Length of its bar, in per cent of the longest possible.
        episodes: How many episodes held it.
        taken_for: What its queries were most often taken for, with the share; empty if there is no such class.
    """

    name: str
    accuracy: str
    width: float
    episodes: int
    taken_for: str


@dataclass(frozen=True)
class Cell:
    """One cell of the confusion matrix.

    Attributes:
        text: The share in per cent; empty for classes that never met.
        shade: How strong its colour is, in per cent.
        own: Whether it is on the diagonal.
        meaning: The same in words.
    """

    text: str
    shade: int
    own: bool
    meaning: str


@dataclass(frozen=True)
class ClassTable:
    """What the report shows of the test classes of one evaluation.

    Attributes:
        role: Of the network.
        trainings: How many trainings of it were counted together.
        sentences: What is most remarkable.
        chance: Accuracy of guessing, in per cent.
        hardest: Rows of the hardest classes.
        others: Rows of the others, in the same order.
        left_out: How many more there are.
        names: Classes of the matrix.
        matrix: Its rows.
        whole: Whether these are all classes.
    """

    role: str
    trainings: int
    sentences: list[str]
    chance: float
    hardest: list[ClassRow]
    others: list[ClassRow]
    left_out: int
    names: list[str]
    matrix: list[list[Cell]]
    whole: bool


def class_table(role: str, evaluation: Evaluation) -> ClassTable | None:
    """Return what is shown of the test classes, or None if they were not counted.

    Args:
        role: What the network is called.
        evaluation: Its accuracy.
    """
    answers = evaluation.answers
    if answers is None:
        return None
    classes = sorted(answers.classes(), key=lambda one: (one.accuracy, one.name))
    mostly: dict[str, str] = {}
    for pair in sorted(answers.confusions(), key=lambda pair: (-pair.count, pair.taken_for)):
        mostly.setdefault(pair.name, f"{pair.taken_for} ({percent(pair.share)} where both were)")
    rows = [_row(one, mostly.get(one.name, "")) for one in classes]
    # Of one that would be left alone, nothing is hidden.
    opened = len(rows) if len(rows) <= _MOST_OPEN + 1 else _MOST_OPEN
    names = _in_matrix(answers, [one.name for one in answers.classes()])
    return ClassTable(
        role,
        len(evaluation.each_training),
        class_sentences(evaluation),
        100 / evaluation.ways,
        rows[:opened],
        rows[opened:_MOST_ROWS],
        max(0, len(rows) - _MOST_ROWS),
        names,
        [
            [_cell(name, other, share) for other, share in zip(names, shares, strict=True)]
            for name, shares in zip(names, answers.matrix(names), strict=True)
        ],
        len(names) == len(classes),
    )


def _in_matrix(answers: ClassAnswers, names: list[str]) -> list[str]:
    """Return all classes if they are few, otherwise those of the most confused pairs, in the order of the split."""
    if len(names) <= _MOST_IN_MATRIX:
        return names
    chosen: set[str] = set()
    for pair in answers.confusions():
        if len(chosen | {pair.name, pair.taken_for}) > _MOST_IN_MATRIX:
            break
        chosen |= {pair.name, pair.taken_for}
    return [name for name in names if name in chosen]


def _row(one: ClassAccuracy, taken_for: str) -> ClassRow:
    accuracy = percent_with_interval(one.accuracy, one.half_width)
    return ClassRow(one.name, accuracy, round(100 * one.accuracy, 1), one.episodes, taken_for)


def _cell(name: str, other: str, share: float | None) -> Cell:
    own = name == other
    if share is None:
        return Cell("", 0, own, f"{name} and {other} never met in an episode")
    meaning = f"{name}: {percent(share)} right" if own else f"{name} taken for {other}: {percent(share)}"
    return Cell(fixed(100 * share, 0), round(80 * share), own, meaning)
