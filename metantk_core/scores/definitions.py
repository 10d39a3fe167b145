"""Which scores there are: a name enters, what the score means and which direction is better leave."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

Direction = Literal["higher", "lower"]
Scale = Literal["linear", "log10"]


@dataclass(frozen=True)
class ScoreDefinition:
    """What people and rankings need to know about a score.

    Attributes:
        name: Key in ``SCORES``, in configurations and in records.
        direction: Which values are better.
        scale: Scale on which draws are averaged and compared: heavy-tailed scores are averaged over their logarithms.
            Records hold raw values.
        label: Name for people.
        source: Where the definition comes from.
        cost: ``"pass"``: comes from the one per-image-gradient pass of each initialisation, so several such scores cost
            no more than one; ``"none"``: counted, does not depend on weights or images.
    """

    name: str
    direction: Direction
    scale: Scale
    label: str
    source: str
    cost: Literal["pass", "none"]

    @property
    def scaled_label(self) -> str:
        """The label of an average, which says on which scale it was taken."""
        return self.label if self.scale == "linear" else f"{self.scale} {self.label}"


SCORES: Mapping[str, ScoreDefinition] = MappingProxyType(
    {
        definition.name: definition
        for definition in (
            ScoreDefinition(
                "metantk_cond",
                "lower",
                "log10",
                "MetaNTK condition number",
                "Wang, Wang, Sun, Li, CVPR 2022, Theorem 1 and Section 4",
                "pass",
            ),
            ScoreDefinition(
                "ntk_cond",
                "lower",
                "log10",
                "NTK condition number",
                "Chen, Gong, Wang, ICLR 2021 (TE-NAS)",
                "pass",
            ),
            ScoreDefinition(
                "params", "higher", "linear", "parameters", "the baseline that every score must beat", "none"
            ),
            ScoreDefinition(
                "flops", "higher", "linear", "multiply-accumulates", "the baseline that every score must beat", "none"
            ),
        )
    }
)
"""Every score by name. Counts are reported beside a score; as in the literature, larger is the better guess."""
