"""The few-shot classifier as MLflow serves it: MLflow runs this file, copied into the model, where a model is loaded.

In: support images, their labels, query images. Out: one row of class probabilities a query image.

Axes: s support images, q query images, c channels, h height, w width, k ways.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from metantk_core.meta_training import FewShotClassifier, load_model

MODEL = "model"
"""Name of the artifact: the folder that ``meta_training.save_model`` wrote."""


class FewShotModel(PythonModel):
    """Answers requests of named arrays; keeps nothing from one to the next."""

    def load_context(self, context: Any) -> None:
        """Read the network, once."""
        self._classifier = FewShotClassifier(load_model(Path(context.artifacts[MODEL])))

    # Without type hints: MLflow would take them for the schema of a table. The signature says what arrays are expected.
    def predict(self, context, model_input, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the probability of each class for each query image.

        Args:
            context: MLflow's; not used.
            model_input: By name: ``support_images`` uint8 ``[s c h w]``, ``support_labels`` int64 ``[s]``, every class
                of 0 to k - 1 among them, and ``query_images`` uint8 ``[q c h w]``.
            params: MLflow's; there are none.

        Returns:
            float32 ``[q k]``; rows sum to 1.

        Raises:
            InputError: Images or labels don't fit the model.
        """
        arrays = [np.asarray(model_input[name]) for name in ("support_images", "support_labels", "query_images")]
        return self._classifier.predict_proba(*arrays).astype(np.float32)


set_model(FewShotModel())
