from .accuracy import Evaluation
from .checkpoint import Checkpoint
from .classifier import FewShotClassifier
from .config import Algorithm, EvaluationConfig, TrainingConfig
from .evaluation import evaluate
from .logistic_regression import LinearClassifiers, fit_logistic_regression
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
    "LinearClassifiers",
    "TrainedModel",
    "TrainingConfig",
    "Validation",
    "evaluate",
    "fit_logistic_regression",
    "load_model",
    "meta_train",
    "save_model",
    "untrained_model",
]
