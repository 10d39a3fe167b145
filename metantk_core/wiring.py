"""Addresses enter, adapters leave. MLflow takes seconds to import: only who asks for it pays."""

from pathlib import Path

import torch

from metantk_core.adapters.addresses import scheme, shown
from metantk_core.adapters.filesystem import FilesystemStore
from metantk_core.errors import InputError
from metantk_core.registry import ArtifactStore, ModelRegistry, Tracker

__all__ = ["EXPERIMENT", "artifact_store", "device", "model_registry", "tracker"]

EXPERIMENT = "metantk"
"""Name of the MLflow experiment that runs are shown under."""


def artifact_store(uri: str) -> ArtifactStore:
    """Return the artifact store at an address.

    Args:
        uri: A folder, or ``file:///`` and its absolute path.

    Raises:
        InputError: No store is known for the scheme.
    """
    known = scheme(uri)
    if known not in ("", "file") or not uri:
        raise InputError(f"An artifact store is a folder (a path, or file:///path), not {shown(uri)!r}; give a folder.")
    return FilesystemStore(Path(uri.removeprefix("file://") if known else uri).absolute())


def tracker(uri: str, experiment: str = EXPERIMENT) -> Tracker:
    """Return the tracker at an address, after making sure that it answers; a database is created if it is not there.

    Args:
        uri: ``sqlite:///`` and a path, ``http(s)://`` of an MLflow server, or ``postgresql://`` of its database.
        experiment: Name of the MLflow experiment for new runs.

    Raises:
        InputError: The scheme is unknown, or nobody answers, or MLflow refuses.
    """
    from metantk_core.adapters.mlflow_store import connect
    from metantk_core.adapters.mlflow_tracking import MlflowTracker

    return MlflowTracker(connect(uri), experiment)


def model_registry(uri: str) -> ModelRegistry:
    """Return the model registry at an address; see ``tracker``.

    Raises:
        InputError: The scheme is unknown, or nobody answers, or MLflow refuses.
    """
    from metantk_core.adapters.mlflow_models import MlflowModels
    from metantk_core.adapters.mlflow_store import connect

    return MlflowModels(connect(uri))


def device() -> str:
    """Return where networks run on this machine: ``cuda`` if torch sees one, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
