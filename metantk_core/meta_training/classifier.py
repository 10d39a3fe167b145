"""The few-shot classifier: support images with labels and query images enter, class probabilities leave.

Axes: s support images, q query images, c channels, h height, w width, k ways.
"""

import copy

import numpy as np
import torch
from jaxtyping import Float64

from metantk_core.architectures import seeded
from metantk_core.augmentation import augmented_copies
from metantk_core.episodes import network_input
from metantk_core.errors import InputError
from metantk_core.meta_training.answering import InnerLoop, Shown, answers
from metantk_core.meta_training.evaluation import augmentation_of
from metantk_core.meta_training.model import TrainedModel
from metantk_core.seeding import numpy_generator


class FewShotClassifier:
    """A trained model in use: shown a few images of new classes, it tells further images of them apart.

    Calls do not influence each other and may come from several threads at once.

    Args:
        model: The model.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self._network = model.network()

    @property
    def ways(self) -> int | None:
        """How many classes a request must have; none for any number."""
        return self.model.ways

    def predict_proba(
        self, support_images: np.ndarray, support_labels: np.ndarray, query_images: np.ndarray
    ) -> Float64[np.ndarray, "q k"]:
        """Return the probability of each class for each query image; rows sum to 1.

        A request has classes 0 to k - 1, each with at least one support image, any number of them. Where the head of a
        network adapts to episodes, k is what it was trained for, because the head's start is learned; features tell
        any number of classes apart, from two.

        Args:
            support_images: Images of the new classes, uint8 ``[s c h w]`` of the size that the model was trained on.
            support_labels: Their classes, integers ``[s]``.
            query_images: Images to classify, uint8 ``[q c h w]``.

        Raises:
            InputError: Images or labels are not as described.
        """
        self._check_images("support_images", support_images)
        self._check_images("query_images", query_images)
        if support_labels.shape != (len(support_images),) or not np.issubdtype(support_labels.dtype, np.integer):
            raise InputError(
                f"Expected support_labels to be {len(support_images)} integers, one a support image, but got "
                f"{support_labels.dtype} of shape {list(support_labels.shape)}."
            )
        training, labels = self.model.training, np.unique(support_labels)
        ways = self.model.ways or len(labels)
        if not np.array_equal(labels, np.arange(max(ways, 2))):
            classes = f"exactly {ways} classes" if self.model.ways else "two classes or more"
            last = ways - 1 if self.model.ways else "k - 1"
            remedy = ", or train with another training.episode.ways" if self.model.ways else ""
            raise InputError(
                f"Expected support images of {classes}, labelled 0 to {last}, which this model was trained for, but "
                f"the labels are {labels.tolist()}; relabel them{remedy}."
            )
        if training.augmented_copies:
            # As it was evaluated; the same request has the same copies, and the same answer.
            random = numpy_generator(self.model.seed, "classify", "augmentation")
            pixels = augmented_copies(
                torch.from_numpy(np.ascontiguousarray(support_images)),
                training.augmented_copies,
                augmentation_of(training),
                random,
            )
            support_images = pixels.numpy()
            support_labels = np.tile(support_labels, training.augmented_copies)
        shown = Shown(
            # Normalisation layers hold an episode's moments: each call has a network of its own.
            copy.deepcopy(self._network),
            self._normalised(support_images),
            torch.from_numpy(support_labels.astype(np.int64)),
            self._normalised(query_images),
            ways,
            InnerLoop.of(training),
        )
        with seeded(self.model.architecture, self.model.seed, "classify"):
            logits = answers(shown, [training.classifier])[training.classifier]
        return logits.double().softmax(dim=1).numpy()

    def _check_images(self, name: str, images: np.ndarray) -> None:
        shape = self.model.image_shape
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape or len(images) == 0:
            raise InputError(
                f"Expected {name} to be uint8 of shape [n, {', '.join(map(str, shape))}] with at least one "
                f"image, but got {images.dtype} of shape {list(images.shape)}."
            )

    def _normalised(self, images: np.ndarray) -> torch.Tensor:
        return network_input(torch.from_numpy(np.ascontiguousarray(images)), self.model.mean, self.model.std)
