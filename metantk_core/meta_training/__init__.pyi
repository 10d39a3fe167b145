from .accuracy import Accuracy, Evaluation
from .checkpoint import FORMAT, Checkpoint
from .class_answers import LEAST_EPISODES, ClassAccuracy, ClassAnswers, Confusion, OftenWorst, worst_episodes
from .classifier import FewShotClassifier
from .config import (
    LEARNERS_SETTINGS,
    Algorithm,
    Classifier,
    EvaluationConfig,
    MamlTraining,
    ProtoNetTraining,
    RfsTraining,
    TrainingConfig,
)
from .evaluation import asked_of, evaluate
from .image_requests import Answer, Picture, classify
from .logistic_regression import LinearClassifiers, fit_logistic_regression
from .model import (
    TrainedModel,
    Validation,
    best_validated,
    load_model,
    save_model,
    untrained_model,
)
from .published import published_sentence
from .training import meta_train
from .trainings import accuracies, over_trainings

__all__ = [
    "FORMAT",
    "LEARNERS_SETTINGS",
    "LEAST_EPISODES",
    "Accuracy",
    "Algorithm",
    "Answer",
    "Checkpoint",
    "ClassAccuracy",
    "ClassAnswers",
    "Classifier",
    "Confusion",
    "Evaluation",
    "EvaluationConfig",
    "FewShotClassifier",
    "LinearClassifiers",
    "MamlTraining",
    "OftenWorst",
    "Picture",
    "ProtoNetTraining",
    "RfsTraining",
    "TrainedModel",
    "TrainingConfig",
    "Validation",
    "accuracies",
    "asked_of",
    "best_validated",
    "classify",
    "evaluate",
    "fit_logistic_regression",
    "load_model",
    "meta_train",
    "over_trainings",
    "published_sentence",
    "save_model",
    "untrained_model",
    "worst_episodes",
]
