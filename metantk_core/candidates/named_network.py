"""Networks of the literature as values: a name enters, a named network leaves, or a sentence that lists the names."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from metantk_core.seeding import digest

NAMED_SPACE = "named"
"""What records and models of a named network say instead of a search space."""

#: What each name stands for, for people.
NAMED_NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        "conv4-32": "4-CONV with 32 filters, its maps flattened (Finn et al., ICML 2017)",
        "conv4-64": "4-CONV with 64 filters, its maps flattened (Vinyals et al., NeurIPS 2016; Snell et al., 2017)",
        "resnet12": "ResNet-12 of widths 64, 160, 320, 640 (Lee et al., CVPR 2019; Tian et al., ECCV 2020)",
    }
)


@dataclass(frozen=True, order=True)
class NamedNetwork:
    """A network that the field knows by name, which has a width and a depth of its own.

    Attributes:
        name: One of ``NAMED_NETWORKS``.
    """

    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMED_NETWORKS:
            raise ValueError(f"the named networks are {', '.join(NAMED_NETWORKS)}, got {self.name!r}")

    @property
    def space(self) -> str:
        """What records say in the place of a search space."""
        return NAMED_SPACE

    @property
    def key(self) -> str:
        """The digest that tells it from others: 16 hexadecimal digits."""
        return digest([NAMED_SPACE, self.name])

    def __str__(self) -> str:
        return self.name
