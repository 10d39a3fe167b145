from .config import EvolveConfig, PruneConfig, RaceConfig, SearchConfig, Strategy
from .constraints import ConstraintsConfig, pareto_front
from .history import Choice, Removal, SearchHistory, SearchRound, tied
from .sampling import candidates
from .state import Allowed, Found, Job, SearchState, Setting
from .strategies import advance, most_rounds, start

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
