"""How single test classes fared in an evaluation: counts episode by episode enter, accuracies and confusions leave.

Nothing here needs torch.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Int64

from metantk_core.statistics import crossed_half_width, telling_half_width, wilson_lower_bound

#: Of fewer episodes no interval is given: Student's of shares would miss too often, for want of spread.
LEAST_EPISODES = 5


@dataclass(frozen=True)
class ClassAccuracy:
    """The accuracy of the queries of one class.

    Attributes:
        name: The class.
        accuracy: Mean accuracy of its queries over the episodes that held it, and over trainings, 0 to 1.
        half_width: Half width of the mean's 95 % interval: over episodes, and over trainings where there are several.
            None where there is too little to make one of: fewer than ``LEAST_EPISODES`` episodes, no spread, or an
            interval that would be wider than from 0 to 1.
        episodes: How many episodes held it.
        queries: How many answers that were: each of several trainings answers each query.
    """

    name: str
    accuracy: float
    half_width: float | None
    episodes: int
    queries: int


@dataclass(frozen=True)
class Confusion:
    """Queries of one class that were taken for another one.

    Attributes:
        name: The class.
        taken_for: The class that they were taken for.
        count: How many they were, in all trainings together.
        share: Their share of the queries of ``name`` in the episodes that held both, 0 to 1.
        episodes: How many episodes held both.
    """

    name: str
    taken_for: str
    count: int
    share: float
    episodes: int


@dataclass(frozen=True)
class OftenWorst:
    """A class that the worst episodes held.

    Attributes:
        name: The class.
        held: How many of the worst episodes held it; of several trainings, of the worst ones of each.
        expected: How many would, if it were in them as often as in all.
        episodes: How many different episodes these are, which may be the worst of several trainings.
    """

    name: str
    held: int
    expected: float
    episodes: int


@dataclass(frozen=True)
class ClassAnswers:
    """How the queries of each test class were answered, as counts.

    What answered is the classifier of the accuracy, on its episodes.

    Attributes:
        names: The classes of the split.
        queries: Query images of a class in an episode that holds it.
        held: Of each episode the classes that it held, as positions in ``names``.
        right: How many queries of these were answered right, by several trainings together.
        mistaken: Class, class that it was taken for, and how many of its queries were, in rising order. Queries whose
            logits were not finite are neither right nor taken for any class.
        trainings: What ``right`` is of each of several trainings of a network; empty for one.
    """

    names: tuple[str, ...]
    queries: int
    held: tuple[tuple[int, ...], ...]
    right: tuple[tuple[int, ...], ...]
    mistaken: tuple[tuple[int, int, int], ...]
    trainings: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @property
    def answered(self) -> int:
        """How often the queries of a class in an episode that holds it were answered, by all trainings together."""
        return self.queries * max(1, len(self.trainings))

    def classes(self) -> tuple[ClassAccuracy, ...]:
        """Return the accuracies of the classes that some episode held, in the order of the split."""
        counts: dict[int, list[tuple[int, ...]]] = {}
        each = self.trainings or (self.right,)
        for held, *rows in zip(self.held, *each, strict=True):
            for label, *right in zip(held, *rows, strict=True):
                counts.setdefault(label, []).append(tuple(right))
        return tuple(
            _class_accuracy(self.names[label], np.array(counts[label], dtype=np.int64).T, self.queries)
            for label in sorted(counts)
        )

    def confusions(self) -> tuple[Confusion, ...]:
        """Return all pairs of classes of which one was taken for the other, the most confused first.

        They are in the order of how high their share is at least, by Wilson's 95 % interval of as many trials as
        episodes held both: most of what a pair is asked in one episode is asked of the same support images, and a pair
        that met once is not ahead of one that is confused time and again.
        """
        met = self._met()
        found = []
        for label, other, count in self.mistaken:
            episodes = met[label, other]
            share = count / (episodes * self.answered)
            found.append(Confusion(self.names[label], self.names[other], count, share, episodes))
        return tuple(
            sorted(
                found,
                key=lambda pair: (-wilson_lower_bound(pair.share, pair.episodes), pair.name, pair.taken_for),
            )
        )

    def matrix(self, names: Sequence[str]) -> list[list[float | None]]:
        """Return the confusion matrix of some classes: a row a class, a column a class that its queries were taken for.

        Args:
            names: The classes, each held by some episode.

        Returns:
            Accuracies on the diagonal, beside it shares as those of ``confusions``; None for classes that never met.
        """
        met = self._met()
        mistaken = {(label, other): count for label, other, count in self.mistaken}
        accuracies = {one.name: one.accuracy for one in self.classes()}
        labels = [self.names.index(name) for name in names]

        def share(label: int, other: int) -> float | None:
            if label == other:
                return accuracies[self.names[label]]
            together = met.get((label, other), 0) * self.answered
            return mistaken.get((label, other), 0) / together if together else None

        return [[share(label, other) for other in labels] for label in labels]

    def in_worst(self, per_episode: Sequence[Sequence[float]]) -> tuple[OftenWorst, ...]:
        """Return the classes of the worst episodes, those first that were in them most above what is expected.

        Args:
            per_episode: Accuracy of each episode in order, a row a training; the worst ones are those of each.
        """
        worst = [index for accuracies in per_episode for index in worst_episodes(accuracies)]
        everywhere = Counter(label for held in self.held for label in held)
        there = Counter(label for index in worst for label in self.held[index])
        different = Counter(label for index in set(worst) for label in self.held[index])
        share = len(worst) / len(self.held)
        found = [
            OftenWorst(self.names[label], times, share * everywhere[label], different[label])
            for label, times in there.items()
        ]
        return tuple(sorted(found, key=lambda one: (one.expected - one.held, one.name)))

    def _met(self) -> Mapping[tuple[int, int], int]:
        """Return how many episodes held both classes of a pair, of all pairs that some episode held."""
        held = np.array(self.held, dtype=np.int64)
        codes = held[:, :, None] * len(self.names) + held[:, None, :]
        pairs, counts = np.unique(codes, return_counts=True)
        first, second = np.divmod(pairs, len(self.names))
        return dict(zip(zip(first.tolist(), second.tolist(), strict=True), counts.tolist(), strict=True))

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> "ClassAnswers":
        """Return the value of plain lists, as JSON gives them.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is no list.
            ValueError: The parts do not belong together.
        """
        held, right = (tuple(tuple(row) for row in values[name]) for name in ("held", "right"))
        if [len(row) for row in held] != [len(row) for row in right]:
            raise ValueError("classes and right answers of episodes are not as many")
        mistaken = tuple((label, other, count) for label, other, count in values["mistaken"])
        trainings = tuple(tuple(tuple(row) for row in rows) for rows in values.get("trainings", ()))
        if any([len(row) for row in held] != [len(row) for row in rows] for rows in trainings):
            raise ValueError("classes and right answers of trainings are not as many")
        return cls(tuple(values["names"]), values["queries"], held, right, mistaken, trainings)


def pooled(found: Sequence[ClassAnswers]) -> ClassAnswers:
    """Return how the queries of each class were answered by several trainings of a network together.

    Args:
        found: One a training, on the same episodes.

    Raises:
        ValueError: The episodes are not the same.
    """
    first = found[0]
    if any((one.names, one.queries, one.held) != (first.names, first.queries, first.held) for one in found):
        raise ValueError("trainings were not evaluated on the same episodes")
    mistaken: Counter[tuple[int, int]] = Counter()
    for one in found:
        mistaken.update({(label, other): count for label, other, count in one.mistaken})
    return replace(
        first,
        right=tuple(
            tuple(map(sum, zip(*rows, strict=True))) for rows in zip(*(one.right for one in found), strict=True)
        ),
        mistaken=tuple((label, other, count) for (label, other), count in sorted(mistaken.items())),
        trainings=tuple(one.right for one in found),
    )


@dataclass
class Tally:
    """Counts the answers of an evaluation while it runs.

    Attributes:
        held: Of each episode its classes, as positions in the split.
        right: How many queries of these were answered right.
        mistaken: How many queries of a class were taken for another one.
    """

    held: list[tuple[int, ...]] = field(default_factory=list)
    right: list[tuple[int, ...]] = field(default_factory=list)
    mistaken: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, classes: Sequence[int], labels: Iterable[int], answered: Iterable[int]) -> None:
        """Count the answers of one more episode.

        Args:
            classes: Its classes, as positions in the split.
            labels: The label of each query, 0 to ways - 1.
            answered: The label that each was given, or -1 for none.
        """
        right = [0] * len(classes)
        for label, answer in zip(labels, answered, strict=True):
            if label == answer:
                right[label] += 1
            elif answer >= 0:
                self.mistaken[classes[label], classes[answer]] += 1
        self.held.append(tuple(classes))
        self.right.append(tuple(right))

    def as_values(self) -> dict[str, Any]:
        """Return plain values for JSON, which ``of`` reads back."""
        mistaken = [[label, other, count] for (label, other), count in sorted(self.mistaken.items())]
        return {"held": self.held, "right": self.right, "mistaken": mistaken}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Tally":
        """Return the counts that ``as_values`` gave."""
        return cls(
            [tuple(row) for row in values["held"]],
            [tuple(row) for row in values["right"]],
            Counter({(label, other): count for label, other, count in values["mistaken"]}),
        )


def worst_episodes(per_episode: Sequence[float]) -> list[int]:
    """Return the positions of the worst tenth of episodes, at least one, the worst first; of equals the earlier ones.

    Args:
        per_episode: Accuracy of each episode, in order.
    """
    number = -(-len(per_episode) // 10)
    return sorted(range(len(per_episode)), key=lambda index: per_episode[index])[:number]


def _class_accuracy(name: str, right: Int64[np.ndarray, "n k"], queries: int) -> ClassAccuracy:
    """Return the accuracy of a class.

    Args:
        name: The class.
        right: How many of its queries were answered right by each of n trainings in the k episodes that held it.
        queries: How many there are in an episode.
    """
    shares, episodes = right / queries, right.shape[1]
    half_width = telling_half_width(crossed_half_width(shares)) if episodes >= LEAST_EPISODES else None
    return ClassAccuracy(name, float(shares.mean()), half_width, episodes, right.size * queries)
