"""Scores at initialisation: genotypes and episodes enter, records with explicit outcomes leave."""

from metantk_core.scores.conditioning import condition_number, log_determinant, trace_ratio
from metantk_core.scores.config import LinearRegionsConfig, ScoringConfig, inner_loop
from metantk_core.scores.definitions import SCORES, InnerLoop, ScoreDefinition, ScoreTable
from metantk_core.scores.episodes import regions_images, scoring_episodes
from metantk_core.scores.evidence import Draw, Evidence
from metantk_core.scores.functions import evaluated
from metantk_core.scores.record import Outcome, Score, ScoreRecord, device_kind
from metantk_core.scores.scorer import CandidateKernels, Scorer, candidate_kernels, score_candidate, score_draw
from metantk_core.scores.user_model import MODEL_SPACE, check_model, load_factory, score_model

__all__ = [
    "MODEL_SPACE",
    "SCORES",
    "CandidateKernels",
    "Draw",
    "Evidence",
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
    "evaluated",
    "inner_loop",
    "load_factory",
    "log_determinant",
    "regions_images",
    "score_candidate",
    "score_draw",
    "score_model",
    "scoring_episodes",
    "trace_ratio",
]
