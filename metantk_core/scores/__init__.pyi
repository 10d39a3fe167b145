from .conditioning import condition_number, log_determinant, trace_ratio
from .config import LinearRegionsConfig, ScoringConfig, SwapConfig, inner_loop
from .definitions import SCORES, InnerLoop, ScoreDefinition, ScoreTable
from .episodes import regions_images, scoring_episodes
from .evidence import Draw, Evidence
from .functions import evaluated
from .record import Outcome, Score, ScoreRecord, device_kind
from .scorer import CandidateKernels, Scorer, candidate_kernels, score_candidate, score_draw, score_model
from .user_model import check_model

__all__ = [
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
    "SwapConfig",
    "candidate_kernels",
    "check_model",
    "condition_number",
    "device_kind",
    "evaluated",
    "inner_loop",
    "log_determinant",
    "regions_images",
    "score_candidate",
    "score_draw",
    "score_model",
    "scoring_episodes",
    "trace_ratio",
]
