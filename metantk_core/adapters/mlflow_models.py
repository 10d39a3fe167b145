"""Model registry on MLflow: a folder with a meta-trained network enters, a version that any process can load leaves."""

import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import pyfunc
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import Map
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS
from PIL import Image

import metantk_core
from metantk_core.adapters.mlflow_client import MlflowError, found_or_created
from metantk_core.adapters.mlflow_store import LONGEST_DIGEST, Connection
from metantk_core.errors import InputError
from metantk_core.meta_training import TrainedModel
from metantk_core.ports import DatasetSummary, MetricPoint, RegisteredModel

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
        model: TrainedModel,
        model_directory: Path,
        *,
        alias: str,
        description: str,
        tags: Mapping[str, str],
        input_example: Mapping[str, np.ndarray],
        metrics: Sequence[MetricPoint] = (),
        dataset: DatasetSummary | None = None,
    ) -> RegisteredModel:
        """Return the version that holds a model, registered unless this run has registered the same model before.

        Args:
            run: Identifier of the run that trained it.
            name: Name of the model; without ``/`` and ``:``, which mean something in model addresses.
            model: The network with its weights.
            model_directory: The same as files, as ``meta_training.save_model`` wrote them.
            alias: Moved to this version, such as ``champion``.
            description: Markdown, shown with the version; also the model's ``README.md``.
            tags: More words, shown with the version.
            input_example: A request, as arrays; kept as the table of image files that a served model takes.
            metrics: What was measured of the model; points that the run has already are shown with the model, too.
            dataset: What it was measured on.

        Raises:
            InputError: The name can't be used.
        """
        if not name.strip() or "/" in name or ":" in name:
            raise InputError(
                f"A model can't be named {name!r}; give a name without '/' and ':', such as 'few-shot-glyphs'."
            )
        digest = model.digest
        self._ensure_name(name)
        entry = self._logged(run, name, model, digest)
        if entry.status != LoggedModelStatus.READY:
            self._upload(entry, run, model, model_directory, input_example, description)
        self._link(run, entry, metrics, dataset)
        found = self._found(run, name, digest)
        if found is None:
            with _process_wide_address(self._connection.uri):
                found = found_or_created(
                    lambda: self._found(run, name, digest),
                    lambda: self._client.create_model_version(
                        name,
                        source=f"models:/{entry.model_id}",
                        run_id=run,
                        tags={DIGEST: digest, **tags},
                        description=description,
                        model_id=entry.model_id,
                    ),
                )
        else:
            self._client.update_model_version(name, found.version, description)
            for tag, value in tags.items():
                self._client.set_model_version_tag(name, found.version, tag, value)
        self._note_version(entry, name, str(found.version))
        self._client.set_registered_model_alias(name, alias, found.version)
        return RegisteredModel(name, str(found.version), f"models:/{name}/{found.version}")

    def fetch(self, address: str, directory: Path) -> Path:
        """Return the folder with a registered network, downloaded into a new one.

        Args:
            address: Address of a version: ``models:/name/3`` or ``models:/name@champion``.
            directory: Where it is put.

        Raises:
            InputError: There is no such version, or it holds no network of ours.
        """
        try:
            with _process_wide_address(self._connection.uri):
                folder = Path(download_artifacts(artifact_uri=address, dst_path=str(directory)))
        except MlflowException as error:
            raise InputError(
                f"Expected a registered model at {address}, but MLflow has none that it could give "
                f"({error.message.splitlines()[0]}); see the names and versions in its page of models."
            ) from error
        described = Model.load(str(folder)).flavors.get("python_function", {}).get("artifacts") or {}
        network = folder / str(described.get(_ARTIFACT, {}).get("path", "none"))
        if not network.is_dir():
            raise InputError(f"Expected a few-shot classifier of this project at {address}, but it is another model.")
        return network

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

    def _logged(self, run: str, name: str, trained: TrainedModel, digest: str) -> LoggedModel:
        """Return the entry of a model, made if it is not there; an attempt that died may have left it incomplete."""
        experiment = self._client.get_run(run).info.experiment_id

        def found() -> LoggedModel | None:
            models = self._client.search_logged_models([experiment], f"source_run_id = '{run}'")
            mine = [model for model in models if model.tags.get(DIGEST) == digest]
            return max(mine, key=lambda model: model.status == LoggedModelStatus.READY, default=None)

        return found_or_created(
            found,
            lambda: self._client.create_logged_model(
                experiment,
                name,
                source_run_id=run,
                tags={DIGEST: digest},
                params={
                    "space": trained.space,
                    "genotype": trained.genotype,
                    "algorithm": trained.training.algorithm,
                    "iterations": str(trained.iterations),
                    "ways": str(trained.ways or "any"),
                    "image shape": " × ".join(map(str, trained.image_shape)),
                },
                model_type="few-shot classifier",
            ),
        )

    def _upload(
        self,
        model: LoggedModel,
        run: str,
        trained: TrainedModel,
        model_directory: Path,
        input_example: Mapping[str, np.ndarray],
        card: str,
    ) -> None:
        with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
            # Hints of types would become a signature of their own.
            warnings.filterwarnings("ignore", ".*Add type hints to the `predict` method", UserWarning)
            folder = Path(scratch) / "model"
            pyfunc.save_model(
                folder,
                python_model=Path(__file__).with_name("few_shot_pyfunc.py"),
                artifacts={_ARTIFACT: str(model_directory)},
                code_paths=[str(Path(metantk_core.__file__).parent)],
                signature=_signature(),
                input_example=_table(input_example),
                pip_requirements=[f"{package}=={version(package).partition('+')[0]}" for package in SERVING_PACKAGES],
                mlflow_model=Model(run_id=run, model_id=model.model_id),
            )
            (folder / "README.md").write_text(card, encoding="utf-8")
            self._client.log_model_artifacts(model.model_id, str(folder))
        self._note_output(run, model.model_id)
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)  # last: then all of it is there

    def _link(
        self, run: str, model: LoggedModel, points: Sequence[MetricPoint], dataset: DatasetSummary | None
    ) -> None:
        """Show points with the model and the dataset; those that the run has already are the same points."""
        there = {(metric.key, metric.step) for metric in model.metrics or ()}
        new = [point for point in points if (point.name, point.step) not in there]
        at = {
            (metric.key, metric.step): metric.timestamp
            for name in {point.name for point in new}
            for metric in self._client.get_metric_history(run, name)
        }
        now = int(time.time() * 1000)
        linked = [
            Metric(
                point.name,
                float(point.value),
                at.get((point.name, point.step), now),
                point.step,
                model_id=model.model_id,
                dataset_name=dataset.name if dataset else None,
                dataset_digest=dataset.digest[:LONGEST_DIGEST] if dataset else None,
                run_id=run,
            )
            for point in new
        ]
        if linked:
            self._client.log_batch(run, metrics=linked)

    def _note_version(self, model: LoggedModel, name: str, version: str) -> None:
        """Let the model's page link to the version, as a server does by itself and a database does not."""
        mine = {"name": name, "version": version}
        noted = json.loads(model.tags.get(MLFLOW_MODEL_VERSIONS, "[]"))
        if mine not in noted:
            self._client.set_logged_model_tags(model.model_id, {MLFLOW_MODEL_VERSIONS: json.dumps([*noted, mine])})

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


def _signature() -> ModelSignature:
    image = ColSpec(DataType.binary, name="image")
    label = ColSpec(DataType.string, name="label", required=False)
    answer: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, name="label"),
        ColSpec(DataType.double, name="probability"),
        ColSpec(Map(DataType.double), name="probabilities"),
    ]
    return ModelSignature(inputs=Schema([image, label]), outputs=Schema(answer))


def _table(example: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Return a request of arrays as people send it: image files, those of support images with a label."""
    support, queries = (map(_png, example[part]) for part in ("support_images", "query_images"))
    rows = [
        *zip(support, (f"class {label}" for label in example["support_labels"]), strict=True),
        *((image, None) for image in queries),
    ]
    return pd.DataFrame(rows, columns=["image", "label"])


def _png(image: np.ndarray) -> bytes:
    pixels = image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
