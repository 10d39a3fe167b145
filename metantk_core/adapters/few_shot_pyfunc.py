"""The few-shot classifier as MLflow serves it: MLflow runs this file, copied into the model, where a model is loaded.

In: a table with a row an image file, those of known classes with a label. Out: for each row without one its class.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel

from metantk_core.errors import InputError
from metantk_core.meta_training import FewShotClassifier, load_model
from metantk_core.meta_training.image_requests import Picture, classify

MODEL = "model"
"""Name of the artifact: the folder that ``meta_training.save_model`` wrote."""


class RefusedError(MlflowException):
    """A request that can't be answered: status 400, and a sentence.

    MLflow's server would put all of the request, images included, before the sentence.
    """

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The sentence."""
        return self._sentence

    @message.setter
    def message(self, with_request: str) -> None:
        del with_request


class FewShotModel(PythonModel):
    """Answers tables of image files; keeps nothing from one to the next."""

    def load_context(self, context: Any) -> None:
        """Read the network, once."""
        self._classifier = FewShotClassifier(load_model(Path(context.artifacts[MODEL])))

    # Without type hints: MLflow would take them for the schema. The signature says what columns are expected.
    def predict(self, context, model_input, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the class of each image without a label.

        Args:
            context: MLflow's; not used.
            model_input: A table. ``image``: the bytes of an image file (over HTTP as base64). ``label``: the class of
                a support image; missing, null or NaN for images that are to be classified.
            params: MLflow's; there are none.

        Returns:
            For each row without a label, in their order, ``label``, ``probability`` and ``probabilities`` by label.

        Raises:
            RefusedError: Images or labels don't fit the model.
        """
        table = pd.DataFrame(model_input)
        labels = table["label"] if "label" in table else [None] * len(table)
        pictures = [
            Picture(f"row {number}", _file(image), None if label is None or label != label else str(label))
            for number, (image, label) in enumerate(zip(table["image"], labels, strict=True))
        ]
        try:
            answers = classify(self._classifier, pictures)
        except InputError as error:
            raise RefusedError(str(error)) from None
        return [
            {"label": answer.label, "probability": answer.probability, "probabilities": answer.probabilities}
            for answer in answers
        ]


def _file(image: object) -> bytes:
    """Return the bytes of an image file: MLflow decodes base64 in some of the forms that it takes and not in others."""
    if not isinstance(image, bytes | str):
        return b""  # nothing that anybody could read
    content = image.encode() if isinstance(image, str) else image
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return content  # which holds for all image files: they begin with other characters


set_model(FewShotModel())
