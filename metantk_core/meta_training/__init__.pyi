from .accuracy import Evaluation
from .checkpoint import Checkpoint
from .classifier import FewShotClassifier
from .config import Algorithm, EvaluationConfig, TrainingConfig
from .evaluation import evaluate
from .model import (
    TrainedModel,
    Validation,
    load_model,
    save_model,
    untrained_model,
)
from .training import meta_train

__all__ = [
    "Algorithm",
    "Checkpoint",
    "Evaluation",
    "EvaluationConfig",
    "FewShotClassifier",
    "TrainedModel",
    "TrainingConfig",
    "Validation",
    "evaluate",
    "load_model",
    "meta_train",
    "save_model",
    "untrained_model",
]
