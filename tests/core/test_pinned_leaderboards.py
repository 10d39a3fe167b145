"""Leaderboards of one small search a strategy stay what they are, in all scores: values to 1e-4, and the order.

Last bits differ between processors, so nothing is compared by bytes; zico, which divides by deviations that may be
next to nothing, and grasp, of second derivatives, are compared to 2e-3. Where a change is meant (a line in CHANGELOG.md
under "Numbers that moved" then says so), PIN_LEADERBOARDS=1 writes the file anew.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from quiet import noise, quiet_ports, searched, tiny

from metantk_core.scores import SCORES

PINNED = Path(__file__).parents[1] / "data" / "leaderboards.json"
ALL = (*SCORES,)
SEARCHES: dict[str, list[str]] = {
    "sample": ["search.num_candidates=6", f"scoring.scores=[{', '.join(ALL)}]"],
    "race": ["search.num_candidates=6", "scoring.scores=[ntk_cond, naswot, synflow]", "rank_by=ntk_cond"],
    "evolve": [
        "search.space=darts_fewshot",
        "search.evolve={population: 4, tournament: 2}",
        "search.num_candidates=8",
        "scoring.network={channels: 2, cells: 3}",
        "training.network={channels: 2, cells: 3}",
        "scoring.scores=[metantk_cond, zico, params]",
    ],
    "prune": [
        "search.num_candidates=3",
        "scoring.num_inits=1",
        "scoring.scores=[metantk_cond, spectral_entropy]",
        "rank_by=metantk_cond + spectral_entropy",
    ],
}


def standings(name: str, root: Path) -> list[dict[str, Any]]:
    swap = "scoring.swap={centre: 1000, width: 1e6}"
    found = searched(tiny(f"search.strategy={name}", swap, *SEARCHES[name]), noise(), quiet_ports(root), 1)
    return json.loads(found.leaderboard.to_json())["standings"]


def rounded(value: Any) -> Any:
    """Return values as they are compared."""
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list) and value and value[0] in ("zico", "grasp"):
        return [value[0], pytest.approx(value[1], rel=2e-3)]
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return pytest.approx(value, rel=1e-4, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.parametrize("name", SEARCHES)
def test_leaderboard_is_the_pinned_one(name: str, tmp_path: Path):
    found = standings(name, tmp_path)
    pinned = json.loads(PINNED.read_text(encoding="utf-8")) if PINNED.exists() else {}
    if os.environ.get("PIN_LEADERBOARDS"):
        PINNED.write_text(json.dumps({**pinned, name: found}, indent=1) + "\n", encoding="utf-8")
        return
    assert len(found) > 1
    assert [standing["genotype"] for standing in found] == [standing["genotype"] for standing in pinned[name]]
    assert found == rounded(pinned[name])


def test_every_score_is_pinned():
    first = json.loads(PINNED.read_text(encoding="utf-8"))["sample"][0]
    assert {"metantk_cond", *(name for name, _ in first["others"])} == set(ALL)
