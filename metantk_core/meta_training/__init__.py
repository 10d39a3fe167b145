"""Meta-training and evaluation: a genotype and episodes enter, a few-shot classifier and its accuracy leave.

Importing this package does not import learn2learn; ``meta_train`` does, when it is called.
"""

from metantk_core.meta_training.checkpoint import Checkpoint
from metantk_core.meta_training.classifier import FewShotClassifier
from metantk_core.meta_training.evaluation import Evaluation, EvaluationConfig, evaluate
from metantk_core.meta_training.model import (
    Algorithm,
    TrainedModel,
    TrainingConfig,
    Validation,
    load_model,
    save_model,
    untrained_model,
)
from metantk_core.meta_training.training import meta_train

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
