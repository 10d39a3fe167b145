"""Several trainings of one network: their evaluations on the same episodes enter, one accuracy for them leaves."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from metantk_core.meta_training.accuracy import Accuracy, Evaluation
from metantk_core.meta_training.class_answers import pooled
from metantk_core.statistics import crossed_half_width, student_quantile


def over_trainings(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Return the accuracy of a network over its trainings, with an interval that covers training and episodes.

    How it is made is in ``statistics.crossed_half_width``. Of other classifiers and shots the accuracies of single
    episodes are not kept; their interval counts chance within an episode both among trainings and among episodes, and
    is a little too wide. Answers are pooled class by class: the accuracy of a class has an interval of the same making,
    over trainings and the episodes that held it.

    Args:
        evaluations: One a training, on the same episodes, in order. Of one alone it is that.
    """
    first = evaluations[0]
    if len(evaluations) == 1:
        return first
    answers = [evaluation.answers for evaluation in evaluations if evaluation.answers is not None]
    table = np.array([evaluation.per_episode for evaluation in evaluations], dtype=np.float64)
    return replace(
        first,
        accuracy=float(table.mean()),
        half_width=crossed_half_width(table),
        interval=f"95 % interval over {len(evaluations)} trainings with other seeds and over episodes",
        model=" ".join(evaluation.model for evaluation in evaluations),
        per_episode=tuple(table.mean(axis=0).tolist()),
        device=" and ".join(sorted({evaluation.device for evaluation in evaluations} - {""})),
        others=tuple(_over(others) for others in zip(*(found.others for found in evaluations), strict=True)),
        published="",
        answers=pooled(answers) if len(answers) == len(evaluations) else None,
        trainings=tuple(evaluation.per_episode for evaluation in evaluations),
    )


def accuracies(evaluation: Evaluation) -> Float64[np.ndarray, "n m"]:
    """Return the accuracy of every training in every episode; a row for a network that was trained once."""
    return np.array(evaluation.each_training, dtype=np.float64)


def _over(found: Sequence[Accuracy]) -> Accuracy:
    """Return an accuracy over trainings of which the single episodes are not known."""
    means = np.array([one.accuracy for one in found])
    between = student_quantile(0.975, len(found) - 1) ** 2 * float(means.var(ddof=1)) / len(found)
    within = math.fsum(one.half_width**2 for one in found) / len(found)
    return replace(found[0], accuracy=float(means.mean()), half_width=math.sqrt(between + within))
