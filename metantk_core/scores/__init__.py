"""Scores at initialisation: genotypes and episodes enter, records with explicit outcomes leave."""

from metantk_core.scores.conditioning import condition_number, log_determinant, trace_ratio
from metantk_core.scores.definitions import SCORES, InnerLoop, ScoreDefinition, ScoreTable
from metantk_core.scores.evaluate import (
    CandidateKernels,
    LinearRegionsConfig,
    Scorer,
    ScoringConfig,
    candidate_kernels,
    inner_loop,
    score_candidate,
    scoring_episodes,
)
from metantk_core.scores.record import Outcome, Score, ScoreRecord, device_kind
from metantk_core.scores.user_model import MODEL_SPACE, check_model, load_factory, score_model

__all__ = [
    "MODEL_SPACE",
    "SCORES",
    "CandidateKernels",
    "InnerLoop",
    "LinearRegionsConfig",
    "Outcome",
    "Score",
    "ScoreDefinition",
    "ScoreRecord",
    "ScoreTable",
    "Scorer",
    "ScoringConfig",
    "candidate_kernels",
    "check_model",
    "condition_number",
    "device_kind",
    "inner_loop",
    "load_factory",
    "log_determinant",
    "score_candidate",
    "score_model",
    "scoring_episodes",
    "trace_ratio",
]
