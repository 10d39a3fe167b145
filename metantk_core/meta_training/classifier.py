"""The few-shot classifier: support images with labels and query images enter, class probabilities leave.

Axes: s support images, q query images, c channels, h height, w width, k ways.
"""

import copy

import numpy as np
import torch
from jaxtyping import Float64

from metantk_core.episodes import network_input
from metantk_core.errors import InputError
from metantk_core.meta_training.adaptation import adapted_logits
from metantk_core.meta_training.model import TrainedModel


class FewShotClassifier:
    """A meta-trained model in use: shown a few images of new classes, it tells further images of them apart.

    Calls do not influence each other and may come from several threads at once.

    Args:
        model: The model.
    """

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self._network = model.network()

    def predict_proba(
        self, support_images: np.ndarray, support_labels: np.ndarray, query_images: np.ndarray
    ) -> Float64[np.ndarray, "q k"]:
        """Return the probability of each class for each query image; rows sum to 1.

        The head has as many outputs as training episodes had classes, and its start is learned: a request must have
        exactly that many classes, 0 to k - 1, each with at least one support image, any number of them.

        Args:
            support_images: Images of the new classes, uint8 ``[s c h w]`` of the size that the model was trained on.
            support_labels: Their classes, integers ``[s]``.
            query_images: Images to classify, uint8 ``[q c h w]``.

        Raises:
            InputError: Images or labels are not as described.
        """
        ways = self.model.ways
        self._check_images("support_images", support_images)
        self._check_images("query_images", query_images)
        if support_labels.shape != (len(support_images),) or not np.issubdtype(support_labels.dtype, np.integer):
            raise InputError(
                f"Expected support_labels to be {len(support_images)} integers, one a support image, but got "
                f"{support_labels.dtype} of shape {list(support_labels.shape)}."
            )
        if not np.array_equal(np.unique(support_labels), np.arange(ways)):
            raise InputError(
                f"Expected support images of exactly {ways} classes, labelled 0 to {ways - 1}, which this model was "
                f"meta-trained for, but the labels are {np.unique(support_labels).tolist()}; relabel them, or train "
                "with another training.episode.ways."
            )
        training = self.model.training
        # Normalisation layers hold an episode's moments: each call has a network of its own.
        logits = adapted_logits(
            copy.deepcopy(self._network),
            self._normalised(support_images),
            torch.from_numpy(support_labels.astype(np.int64)),
            self._normalised(query_images),
            algorithm=training.algorithm,
            learning_rate=training.inner_learning_rate,
            steps=training.inner_steps,
        )
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
