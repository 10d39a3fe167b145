"""Published architectures by name: a name enters, the genotype's text and where it comes from leave."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from metantk_core.candidates.genotype_text import shown
from metantk_core.candidates.named_network import NAMED_NETWORKS
from metantk_core.errors import InputError


@dataclass(frozen=True)
class PublishedCandidate:
    """An architecture that somebody published.

    Attributes:
        name: What it is called here.
        space: Name of its search space.
        genotype: Its text, as published.
        cells: Number of cells of the network that was searched for and trained.
        channels: Channels after that network's stem.
        source: Where it was published.
    """

    name: str
    space: str
    genotype: str
    cells: int
    channels: int
    source: str


def named(space: str, text: str) -> str:
    """Return the genotype's text of a published architecture if ``text`` is its name, and otherwise the text itself.

    Args:
        space: Name of the search space that it has to be of.
        text: A name, or anything else.

    Raises:
        InputError: If the architecture is of another space, or the text is nearly a name.
    """
    name = text.strip()
    if name in PUBLISHED:
        candidate = PUBLISHED[name]
        if candidate.space != space:
            raise InputError(
                f"'{name}' is a candidate of {candidate.space}, but {space} is searched here: choose a recipe with "
                f"search.space: {candidate.space}, such as glyphs-darts."
            )
        return candidate.genotype
    if _NAME.fullmatch(name) and (near := difflib.get_close_matches(name, [*PUBLISHED, *NAMED_NETWORKS], n=3)):
        raise InputError(f"'{shown(name)}' is no known architecture; did you mean {' or '.join(near)}?")
    return text


_NAME = re.compile(r"[\w.-]{1,40}")


def _wang(name: str, cells: int, genotype: str) -> PublishedCandidate:
    data = "miniImageNet" if "mini" in name else "tieredImageNet"
    source = f"Wang, Wang, Sun, Li, CVPR 2022 (MetaNTK-NAS): searched on {data}, listed with the paper's code"
    return PublishedCandidate(name, "darts_fewshot", genotype, cells, 48, source)


#: Found by the paper's search, three (a, b, c) for each dataset and number of cells, in the order of its scripts.
PUBLISHED: Mapping[str, PublishedCandidate] = MappingProxyType(
    {
        candidate.name: candidate
        for candidate in (
            _wang(
                "paper-mini-5-a",
                5,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
                        [('conv_3x3', 0), ('sep_conv_3x3', 2)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('conv_1x5_5x1', 1), ('dil_conv_3x3', 2)],
                        [('dil_conv_3x3', 2), ('dil_conv_3x3', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-mini-5-b",
                5,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
                        [('conv_3x3', 2), ('sep_conv_3x3', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('sep_conv_3x3', 0), ('dil_conv_3x3', 1)],
                        [('conv_1x5_5x1', 1), ('sep_conv_3x3', 2)],
                        [('sep_conv_3x3', 1), ('conv_1x5_5x1', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-mini-5-c",
                5,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('max_pool_3x3BN', 2)],
                        [('dil_conv_3x3', 2), ('sep_conv_3x3', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('dil_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('conv_3x3', 1), ('sep_conv_3x3', 2)],
                        [('sep_conv_3x3', 2), ('sep_conv_3x3', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-mini-8-a",
                8,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('max_pool_3x3BN', 1)],
                        [('conv_1x5_5x1', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 2), ('conv_3x3', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('skip_connect', 0), ('sep_conv_3x3', 1)],
                        [('conv_3x3', 1), ('sep_conv_3x3', 2)],
                        [('dil_conv_3x3', 0), ('conv_1x5_5x1', 1)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-mini-8-b",
                8,
                """Genotype(
                    normal=[
                        [('conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('conv_1x5_5x1', 0), ('conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('dil_conv_3x3', 2)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 2)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 2)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-mini-8-c",
                8,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('conv_1x5_5x1', 1)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('conv_3x3', 0), ('sep_conv_3x3', 1)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('conv_1x5_5x1', 1), ('sep_conv_3x3', 2)],
                        [('conv_3x3', 0), ('sep_conv_3x3', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-tiered-5-a",
                5,
                """Genotype(
                    normal=[
                        [('conv_3x3', 0), ('dil_conv_3x3', 1)],
                        [('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('skip_connect', 0), ('dil_conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('conv_1x5_5x1', 2)],
                        [('max_pool_3x3BN', 2), ('conv_1x5_5x1', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-tiered-5-b",
                5,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 1), ('max_pool_3x3BN', 2)],
                        [('conv_3x3', 2), ('conv_3x3', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('dil_conv_3x3', 0), ('conv_1x5_5x1', 1)],
                        [('conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 2), ('sep_conv_3x3', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-tiered-5-c",
                5,
                """Genotype(
                    normal=[
                        [('sep_conv_3x3', 0), ('conv_1x5_5x1', 1)],
                        [('dil_conv_3x3', 0), ('sep_conv_3x3', 2)],
                        [('sep_conv_3x3', 0), ('max_pool_3x3BN', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('conv_1x5_5x1', 0), ('conv_1x5_5x1', 2)],
                        [('dil_conv_3x3', 1), ('sep_conv_3x3', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-tiered-8-a",
                8,
                """Genotype(
                    normal=[
                        [('conv_1x5_5x1', 0), ('sep_conv_3x3', 1)],
                        [('conv_1x5_5x1', 0), ('conv_1x5_5x1', 1)],
                        [('sep_conv_3x3', 0), ('conv_1x5_5x1', 2)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('skip_connect', 0), ('conv_3x3', 1)],
                        [('conv_3x3', 0), ('conv_1x5_5x1', 1)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-tiered-8-b",
                8,
                """Genotype(
                    normal=[
                        [('conv_1x5_5x1', 0), ('dil_conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('conv_3x3', 2)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
                        [('conv_3x3', 0), ('sep_conv_3x3', 1)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
            _wang(
                "paper-tiered-8-c",
                8,
                """Genotype(
                    normal=[
                        [('conv_1x5_5x1', 0), ('conv_1x5_5x1', 1)],
                        [('sep_conv_3x3', 0), ('conv_1x5_5x1', 2)],
                        [('sep_conv_3x3', 2), ('sep_conv_3x3', 3)],
                    ],
                    normal_concat=[2, 3, 4],
                    reduce=[
                        [('conv_3x3', 0), ('conv_3x3', 1)],
                        [('sep_conv_3x3', 0), ('sep_conv_3x3', 1)],
                        [('sep_conv_3x3', 1), ('conv_1x5_5x1', 3)],
                    ],
                    reduce_concat=[2, 3, 4],
                )""",
            ),
        )
    }
)
