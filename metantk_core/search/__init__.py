"""Searching: settings and what was found so far enter, the next candidates to score leave, and in the end a winner."""

from metantk_core.search.config import EvolveConfig, PruneConfig, RaceConfig, SearchConfig, Strategy
from metantk_core.search.constraints import ConstraintsConfig, pareto_front
from metantk_core.search.history import Choice, Removal, SearchHistory, SearchRound, tied
from metantk_core.search.sampling import candidates
from metantk_core.search.state import Allowed, Found, Job, SearchState, Setting
from metantk_core.search.strategies import advance, most_rounds, start

__all__ = [
    "Allowed",
    "Choice",
    "ConstraintsConfig",
    "EvolveConfig",
    "Found",
    "Job",
    "PruneConfig",
    "RaceConfig",
    "Removal",
    "SearchConfig",
    "SearchHistory",
    "SearchRound",
    "SearchState",
    "Setting",
    "Strategy",
    "advance",
    "candidates",
    "most_rounds",
    "pareto_front",
    "start",
    "tied",
]
