"""How a trained network answers an episode: images and support labels enter, logits of the queries leave.

Each way is a function of one signature, in ``CLASSIFIERS``: validation, evaluation and serving choose among the same.

Axes: s support images, q query images, c channels, h height, w width, d features, k ways, b images of a batch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from metantk_core.architectures import LearnableNetwork
from metantk_core.arithmetic import exact_arithmetic
from metantk_core.meta_training.adaptation import adapted_logits, mixes_queries, remembers_moments
from metantk_core.meta_training.config import Adaptation, Classifier, MamlTraining, TrainingConfig
from metantk_core.meta_training.logistic_regression import fit_logistic_regression
from metantk_core.networks import forget_moments

FEATURE_BATCH = 64
"""Images that pass together, always: the last digit of a feature can depend on how many there are."""


@dataclass(frozen=True)
class InnerLoop:
    """How weights adapt to an episode.

    Attributes:
        algorithm: Which weights.
        learning_rate: Step size.
        steps: Number of steps.
    """

    algorithm: Adaptation
    learning_rate: float
    steps: int

    @classmethod
    def of(cls, training: TrainingConfig, steps: int | None = None) -> "InnerLoop | None":
        """Return the inner loop of a learner, or None if its weights don't adapt.

        Args:
            training: How the network was trained.
            steps: Another number of steps than in training.
        """
        if not isinstance(training, MamlTraining):
            return None
        return cls(training.algorithm, training.inner_learning_rate, training.inner_steps if steps is None else steps)


@dataclass(frozen=True, eq=False)
class Shown:
    """An episode before a network; features are computed when a classifier first asks for them, and once.

    Attributes:
        network: Left in ``eval()`` mode, and without remembered moments.
        support_images: Normalised, ``[s c h w]``.
        support_labels: 0 to ways - 1, ``[s]``.
        query_images: Normalised, ``[q c h w]``.
        ways: Number of classes.
        inner_loop: How the network's weights adapt; None if they don't.
        known_support: Features of the support images, if they are known.
        known_queries: Features of the query images, if they are known.
    """

    network: LearnableNetwork
    support_images: Float[Tensor, "s c h w"]
    support_labels: Int64[Tensor, " s"]
    query_images: Float[Tensor, "q c h w"]
    ways: int
    inner_loop: InnerLoop | None = None
    known_support: Float[Tensor, "s d"] | None = None
    known_queries: Float[Tensor, "q d"] | None = None

    @cached_property
    def features(self) -> tuple[Float[Tensor, "s d"], Float[Tensor, "q d"]]:
        """What the head would see of support and query images."""
        with torch.no_grad():
            if self.known_queries is None:
                return episode_features(self.network, self.support_images, self.query_images)
            support = self.known_support
            if support is None:
                support = features_in_batches(self.network.eval(), self.support_images)
            return support, self.known_queries

    @cached_property
    def unit_features(self) -> tuple[Float[Tensor, "s d"], Float[Tensor, "q d"]]:
        """The features, each divided by its Euclidean length."""
        support, queries = self.features
        return F.normalize(support, dim=1), F.normalize(queries, dim=1)


#: Maps an episode before a network to the logits of its queries, ``[q k]``.
Answer = Callable[[Shown], Tensor]


def gradient_steps(shown: Shown) -> Float[Tensor, "q k"]:
    """Return the logits of the head after the weights have adapted to the support images (MAML, ANIL)."""
    assert shown.inner_loop is not None, "weights that don't adapt answer by their features"
    return adapted_logits(
        shown.network,
        shown.support_images,
        shown.support_labels,
        shown.query_images,
        algorithm=shown.inner_loop.algorithm,
        learning_rate=shown.inner_loop.learning_rate,
        steps=shown.inner_loop.steps,
    )


def prototypes(shown: Shown) -> Float[Tensor, "q k"]:
    """Return minus the squared Euclidean distances to the class means (Snell et al. 2017, eq. 2)."""
    support, queries = shown.features
    return distance_logits(class_means(support, shown.support_labels, shown.ways), queries)


def nearest_centroid(shown: Shown) -> Float[Tensor, "q k"]:
    """Return minus the squared distances between features of length 1 and the class means of such features."""
    support, queries = shown.unit_features
    return distance_logits(class_means(support, shown.support_labels, shown.ways), queries)


def cosine(shown: Shown) -> Float[Tensor, "q k"]:
    """Return the cosines of the angles to the class means of features of length 1."""
    support, queries = shown.unit_features
    return queries @ F.normalize(class_means(support, shown.support_labels, shown.ways), dim=1).mT


def logistic_regression(shown: Shown) -> Float[Tensor, "q k"]:
    """Return the logits of logistic regression on features of length 1, with C = 1 (Tian et al. 2020)."""
    support, queries = shown.unit_features
    fitted = fit_logistic_regression(support[None], shown.support_labels[None], shown.ways)
    return fitted.logits(queries[None])[0]


CLASSIFIERS: Mapping[Classifier, Answer] = MappingProxyType(
    {
        "gradient_steps": gradient_steps,
        "prototypes": prototypes,
        "nearest_centroid": nearest_centroid,
        "cosine": cosine,
        "logistic_regression": logistic_regression,
    }
)


@exact_arithmetic()
def answers(shown: Shown, classifiers: Sequence[Classifier]) -> dict[Classifier, Float[Tensor, "q k"]]:
    """Return the logits that each classifier gives the queries of an episode.

    One network answers one episode at a time: its normalisation layers hold moments while this runs.

    Args:
        shown: The episode before a network.
        classifiers: Which ones answer.
    """
    return {name: CLASSIFIERS[name](shown) for name in classifiers}


def episode_features(
    network: LearnableNetwork, support_images: Float[Tensor, "s c h w"], query_images: Float[Tensor, "q c h w"]
) -> tuple[Float[Tensor, "s d"], Float[Tensor, "q d"]]:
    """Return what a trained network makes of an episode's images before the head; it is left in ``eval()`` mode.

    Support images that normalise an episode pass in ``train()`` mode, all together, and so do queries that help each
    other. All other images pass in batches of ``FEATURE_BATCH``, the last one filled up: the features of an image are
    the same to the last digit, however many others are asked for with it.
    """
    try:
        if remembers_moments(network):
            network.train()
            support = network.features(support_images)
            network.eval()
            return support, features_in_batches(network, query_images)
        network.eval()
        if mixes_queries(network):
            return network.features(support_images), network.features(query_images)
        return features_in_batches(network, support_images), features_in_batches(network, query_images)
    finally:
        forget_moments(network)


def features_in_batches(network: LearnableNetwork, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """Return the features of images, ``FEATURE_BATCH`` at a time; the last batch is filled up with zeros."""
    found = []
    for part in images.split(FEATURE_BATCH):
        missing = FEATURE_BATCH - len(part)
        filled = torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part
        found.append(network.features(filled)[: len(part)])
    return torch.cat(found)


def class_means(features: Float[Tensor, "s d"], labels: Int64[Tensor, " s"], ways: int) -> Float[Tensor, "k d"]:
    """Return the mean feature of each class, of which there is at least one image."""
    members = F.one_hot(labels, ways).to(features.dtype)
    return (members.mT @ features) / members.sum(dim=0)[:, None]


def distance_logits(means: Float[Tensor, "k d"], queries: Float[Tensor, "q d"]) -> Float[Tensor, "q k"]:
    """Return minus the squared Euclidean distance of each query to each class mean."""
    return -(queries[:, None, :] - means[None, :, :]).square().sum(dim=2)
