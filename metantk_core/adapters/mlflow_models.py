"""Model registry on MLflow: a folder with a meta-trained network enters, a version that any process can load leaves."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from mlflow import pyfunc
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, Schema, TensorSpec

import metantk_core
from metantk_core.adapters.mlflow_client import MlflowError, found_or_created
from metantk_core.adapters.mlflow_store import Connection
from metantk_core.errors import InputError
from metantk_core.meta_training import load_model
from metantk_core.ports import RegisteredModel

DIGEST = "metantk.model_digest"
"""Tag of models and versions that holds the digest of what the predictions depend on."""
SERVING_PACKAGES = ("mlflow", "torch", "numpy", "scipy", "pydantic", "jaxtyping", "safetensors", "pillow")
"""What a process needs to answer requests, besides the copy of metantk_core in the model."""
_ARTIFACT = "model"


class MlflowModels:
    """A ``ModelRegistry`` on MLflow.

    A model is a folder that holds the weights, a copy of ``metantk_core`` and the script that MLflow runs to load it:
    no pickle, and nothing to install but the pinned requirements.

    Args:
        connection: An MLflow that answers.
    """

    def __init__(self, connection: Connection) -> None:
        self._client = connection.client
        self._connection = connection

    def register(
        self,
        run: str,
        name: str,
        model_directory: Path,
        *,
        alias: str,
        description: str,
        tags: Mapping[str, str],
        input_example: Mapping[str, np.ndarray],
    ) -> RegisteredModel:
        """Return the version that holds a model, registered unless this run has registered the same model before.

        Args:
            run: Identifier of the run that trained it.
            name: Name of the model; without ``/`` and ``:``, which mean something in model addresses.
            model_directory: What ``meta_training.save_model`` wrote.
            alias: Moved to this version, such as ``champion``.
            description: Markdown, shown with the version.
            tags: More words, shown with the version.
            input_example: A request; see ``few_shot_pyfunc``.

        Raises:
            InputError: The name can't be used, or the folder holds no model.
        """
        if not name.strip() or "/" in name or ":" in name:
            raise InputError(
                f"A model can't be named {name!r}; give a name without '/' and ':', such as 'few-shot-glyphs'."
            )
        digest = load_model(model_directory).digest
        self._ensure_name(name)
        found = self._found(run, name, digest)
        if found is None:
            model = self._logged(run, name, digest)
            if model.status != LoggedModelStatus.READY:
                self._upload(model, run, model_directory, input_example)
            with _process_wide_address(self._connection.uri):
                found = found_or_created(
                    lambda: self._found(run, name, digest),
                    lambda: self._client.create_model_version(
                        name,
                        source=f"models:/{model.model_id}",
                        run_id=run,
                        tags={DIGEST: digest, **tags},
                        description=description,
                        model_id=model.model_id,
                    ),
                )
        else:
            self._client.update_model_version(name, found.version, description)
            for tag, value in tags.items():
                self._client.set_model_version_tag(name, found.version, tag, value)
        self._client.set_registered_model_alias(name, alias, found.version)
        return RegisteredModel(name, str(found.version), f"models:/{name}/{found.version}")

    def _ensure_name(self, name: str) -> None:
        try:
            self._client.create_registered_model(
                name, description="Few-shot image classifier found and trained by MetaNTK."
            )
        except MlflowError as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _found(self, run: str, name: str, digest: str) -> ModelVersion | None:
        versions = self._client.search_model_versions(f"name = '{name}' and run_id = '{run}'")
        return next((version for version in versions if version.tags.get(DIGEST) == digest), None)

    def _logged(self, run: str, name: str, digest: str) -> LoggedModel:
        """Return the entry of a model, made if it is not there; an attempt that died may have left it incomplete."""
        experiment = self._client.get_run(run).info.experiment_id

        def found() -> LoggedModel | None:
            models = self._client.search_logged_models([experiment], f"source_run_id = '{run}'")
            mine = [model for model in models if model.tags.get(DIGEST) == digest]
            return max(mine, key=lambda model: model.status == LoggedModelStatus.READY, default=None)

        return found_or_created(
            found,
            lambda: self._client.create_logged_model(
                experiment, name, source_run_id=run, tags={DIGEST: digest}, model_type="few-shot classifier"
            ),
        )

    def _upload(
        self, model: LoggedModel, run: str, model_directory: Path, input_example: Mapping[str, np.ndarray]
    ) -> None:
        trained = load_model(model_directory)
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            # Hints of types can't say what the signature says: named tensors with their shapes.
            warnings.filterwarnings("ignore", ".*Add type hints to the `predict` method", UserWarning)
            folder = Path(scratch) / "model"
            pyfunc.save_model(
                folder,
                python_model=Path(__file__).with_name("few_shot_pyfunc.py"),
                artifacts={_ARTIFACT: str(model_directory)},
                code_paths=[str(Path(metantk_core.__file__).parent)],
                signature=_signature(trained.image_shape, trained.ways),
                input_example=dict(input_example),
                pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in SERVING_PACKAGES],
                mlflow_model=Model(run_id=run, model_id=model.model_id),
            )
            self._client.log_model_artifacts(model.model_id, str(folder))
        self._note_output(run, model.model_id)
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)  # last: then all of it is there

    def _note_output(self, run: str, model: str) -> None:
        def noted() -> bool | None:
            outputs = self._client.get_run(run).outputs
            return any(output.model_id == model for output in outputs.model_outputs) or None if outputs else None

        def note() -> bool:
            self._client.log_outputs(run, [LoggedModelOutput(model, step=0)])
            return True

        found_or_created(noted, note)


@contextmanager
def _process_wide_address(uri: str) -> Iterator[None]:
    """Name a tracking store for the whole process: a database's registry looks up models there, not in its client."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _signature(image_shape: tuple[int, int, int], ways: int) -> ModelSignature:
    images = np.dtype(np.uint8), (-1, *image_shape)
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(*images, name="support_images"),
        TensorSpec(np.dtype(np.int64), (-1,), name="support_labels"),
        TensorSpec(*images, name="query_images"),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, ways))]))
