"""Data sets that the field knows by name: what lies there enters, which of them it was taken for leaves."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from metantk_core.datasets.images import SPLITS, Split
from metantk_core.datasets.sources import Recognition, SplitSource


@dataclass(frozen=True)
class Known:
    """A data set of the field.

    Attributes:
        title: Its name as papers write it.
        classes: How many train, val and test have; none if that is anybody's choice.
        photographs: Whether it holds photographs, which are redder than blue on the average.
    """

    title: str
    classes: tuple[int, int, int] | None = None
    photographs: bool = False


KNOWN: dict[str, Known] = {
    "miniimagenet": Known("miniImageNet", (64, 16, 20), photographs=True),
    "tieredimagenet": Known("tieredImageNet", (351, 97, 160), photographs=True),
    "cifar-fs": Known("CIFAR-FS", (64, 16, 20), photographs=True),
    "fc100": Known("FC100", (60, 20, 20), photographs=True),
    "omniglot": Known("Omniglot"),
    "mnist": Known("MNIST"),
    "fashion-mnist": Known("Fashion-MNIST"),
    "kmnist": Known("KMNIST"),
}
"""By the names that ``data.name`` takes; it takes others too."""
_ELSE = "If it is another, data.name can say so."


def taken_for(
    likely: tuple[str, ...], said: str | None, *assumptions: str, otherwise: str = ""
) -> Callable[[Mapping[Split, SplitSource]], Recognition]:
    """Return what says of splits which data set they are.

    Args:
        likely: Names of `KNOWN` that the files speak for.
        said: What a person calls it; none for nothing.
        assumptions: What else was assumed.
        otherwise: What it is if it is none of the likely ones, whose files then tell nothing; empty if they do tell.
    """

    def recognise(splits: Mapping[Split, SplitSource]) -> Recognition:
        train, val, test = (len(splits[split].class_names) for split in SPLITS)
        kind, assumed = _decided(likely, said, (train, val, test), otherwise)
        photographs = kind in KNOWN and KNOWN[kind].photographs
        return Recognition(kind, (*assumed, *assumptions), photographs)

    return recognise


def _decided(
    likely: tuple[str, ...], said: str | None, counts: tuple[int, int, int], otherwise: str
) -> tuple[str, tuple[str, ...]]:
    """Return what it is, and sentences on why."""
    if said is not None:
        known = KNOWN.get(said)
        if known is None or known.classes in (None, counts):
            return said, ()
        return said, (f"By data.name it is {_with_classes(said)}; there are {_words(counts)}.",)
    matching = [name for name in likely if _known(name).classes == counts]
    if len(likely) == 1 and not otherwise:
        (name,) = likely
        if matching or _known(name).classes is None:
            return name, ()
        return name, (f"Taken for {_with_classes(name)}, by its files; there are {_words(counts)}. {_ELSE}",)
    if len(matching) == 1:
        (name,) = matching
        others = " and ".join(_with_classes(other) for other in likely if other != name)
        return name, (f"Taken for {_with_classes(name)}{f', unlike {others}' if others else ''}. {_ELSE}",)
    if otherwise:
        return otherwise, ()
    all_of_them = " or ".join(_with_classes(name) for name in likely)
    return "-or-".join(likely), (f"It may be {all_of_them}, but there are {_words(counts)}. data.name can say which.",)


def _known(name: str) -> Known:
    return KNOWN.get(name, Known(name))


def _with_classes(name: str) -> str:
    known = _known(name)
    return known.title if known.classes is None else f"{known.title} ({_words(known.classes)})"


def _words(counts: tuple[int, int, int]) -> str:
    train, val, test = counts
    return f"{train}, {val} and {test} classes"
