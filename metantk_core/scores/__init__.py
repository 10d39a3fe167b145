"""Scores at initialisation: genotypes and episodes enter, records with explicit outcomes leave."""

from metantk_core.scores.conditioning import condition_number, rounding_floor
from metantk_core.scores.definitions import SCORES, InnerLoop, ScoreDefinition, ScoreTable
from metantk_core.scores.evaluate import (
    CandidateKernels,
    LinearRegionsConfig,
    ScoringConfig,
    candidate_kernels,
    score_candidate,
    scoring_episodes,
)
from metantk_core.scores.record import Outcome, Score, ScoreRecord

__all__ = [
    "SCORES",
    "CandidateKernels",
    "InnerLoop",
    "LinearRegionsConfig",
    "Outcome",
    "Score",
    "ScoreDefinition",
    "ScoreRecord",
    "ScoreTable",
    "ScoringConfig",
    "candidate_kernels",
    "condition_number",
    "rounding_floor",
    "score_candidate",
    "scoring_episodes",
]
