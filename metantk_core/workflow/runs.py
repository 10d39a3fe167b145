"""What a step works with besides its inputs: ports, the run in the tracker, checkpoints in the store."""

import json
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from metantk_core import __version__
from metantk_core.config import RunConfig
from metantk_core.errors import InputError, quoted
from metantk_core.extras import installed_version
from metantk_core.files import Place
from metantk_core.ports import PIPELINE, POD, ArtifactStore, ModelRegistry, RegisteredModel, Tracker, run_scope
from metantk_core.progress import Progress, silent
from metantk_core.scores import device_kind
from metantk_core.workflow.sealed import read_sealed, write_sealed

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
COMPUTING = ("metantk", "torch", "learn2learn", "numpy", "scipy")
"""Packages that compute: another version of these may give other last digits."""


@dataclass(frozen=True)
class Ports:
    """What a step works with besides its inputs.

    Attributes:
        store: Keeps finished work between attempts; shared by all steps of a run.
        tracker: Where parameters, metrics and files are logged.
        registry: Where the trained network is registered.
        run: Identifier of the pipeline run in the tracker (the parent of the steps' runs).
        progress_for: Gives what hears how far a step, named by its argument, is.
        device: Where networks run, such as ``"cpu"`` or ``"cuda"``.
        images: Gives the place of a person's images from ``data.path``, unless that is a folder on this machine.
        pod: Name of the pod that this is, on a cluster; empty elsewhere.
    """

    store: ArtifactStore
    tracker: Tracker
    registry: ModelRegistry
    run: str
    progress_for: Callable[[str], Progress] = lambda step: silent
    device: str = "cpu"
    images: Callable[[str | None], Place | None] = lambda path: None
    pod: str = ""

    @property
    def device_kind(self) -> str:
        """Kind of the device, such as ``"cpu"`` or ``"cuda"``: what numbers depend on, by rounding."""
        return device_kind(self.device)


def open_run(config: RunConfig, tracker: Tracker, *, pipeline: str = "", page: str = "", pod: str = "") -> str:
    """Return the tracker's identifier of this configuration's run, opened if it is not there yet.

    Args:
        config: The run.
        tracker: Where it is shown.
        pipeline: Kubeflow's identifier of the pipeline run that asks; empty for none.
        page: Address of that pipeline run's page; empty for none.
        pod: Name of the pod that asks; empty for none.
    """
    run = tracker.open_run(
        config.run_id,
        config.run_id,
        description=(
            f"Search of `{config.search.space}` by the strategy **{config.search.strategy}**, {config.criterion.label} "
            f"at random initialisation, then {config.training.title} training of: "
            f"{', '.join(config.networks)}"
            + (f", each with {config.training_seeds} seeds." if config.training_seeds > 1 else ".")
            + (f"\n\n[Pipeline run in Kubeflow]({page})" if page else "")
        ),
        tags={
            "metantk.config": config.digest,
            "metantk.version": __version__,
            "metantk.space": config.search.space,
            "metantk.strategy": config.search.strategy,
            **{tag: value for tag, value in ((PIPELINE, pipeline), (f"{PIPELINE}.page", page), (POD, pod)) if value},
        },
        files={"Report": "report.html", "Leaderboard": "leaderboard.json", "Images": "dataset/contact-sheet.png"},
    )
    # Not what the same run may be repeated with, such as another number of shards: MLflow's parameters can't change.
    tracker.log_parameters(run, _flattened(config.experiment))
    return run


@contextmanager
def step_run(
    ports: Ports, name: str, description: str, parameters: Mapping[str, str | int | float | bool]
) -> Iterator[str]:
    """Give a step a run of its own below the pipeline's, finished or failed with the step.

    It is another run on another kind of device, whose numbers are others; the tag ``metantk.device`` says which.
    """
    kind = ports.device_kind
    run = ports.tracker.open_run(
        f"{ports.run}/{name}" if kind == "cpu" else f"{ports.run}/{name} on {kind}",
        name,
        parent=ports.run,
        description=description,
        tags={"metantk.step": name, "metantk.device": kind, **({POD: ports.pod} if ports.pod else {})},
    )
    ports.tracker.log_parameters(run, parameters)
    with run_scope(ports.tracker, run), ports.tracker.watched(run):
        yield run


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint under one key of the artifact store."""

    store: ArtifactStore
    key: str

    def load(self) -> bytes | None:
        """Return the stored state; none if there is none, or, after a warning, if the file is damaged."""
        return read_sealed(self.store, self.key)

    def save(self, data: bytes) -> None:
        """Store a state in the place of the last one."""
        write_sealed(self.store, self.key, data)


def remark(store: ArtifactStore, run: str, step: str, text: str) -> None:
    """Keep a remark on a step for the report of its run, in the place of the one of an earlier attempt.

    Args:
        store: Where.
        run: Name of the run, ``RunConfig.run_id``.
        step: Name of the step.
        text: For people; nothing takes a remark back.
    """
    key = f"{run}/remarks/{step.replace(' ', '-')}.txt"
    if text:
        store.write(key, f"{step}: {text}".encode())
    elif store.exists(key):
        store.delete([key])


def remarks(store: ArtifactStore, run: str) -> tuple[str, ...]:
    """Return the remarks on a run's steps, in alphabetical order."""
    found = (store.read(key) for key in sorted(store.keys(f"{run}/remarks/")))
    return tuple(text.decode() for text in found if text is not None)


def note_model(store: ArtifactStore, run: str, registered: RegisteredModel) -> None:
    """Keep in the store which version of which model a run registered.

    Args:
        store: Where.
        run: Name of the run, ``RunConfig.run_id``.
        registered: The version; without address if it is still to be registered.
    """
    store.write(
        f"{run}/model.json",
        json.dumps({"name": registered.name, "version": registered.version, "uri": registered.uri}).encode(),
    )


def registered_address(store: ArtifactStore, run: str) -> str:
    """Return the address of the model that a run registered.

    Args:
        store: Where ``note_model`` kept it.
        run: Name of the run, ``RunConfig.run_id``.

    Raises:
        InputError: The run has registered none yet, or what was kept is damaged.
    """
    key = f"{run}/model.json"
    if not RUN_NAME.fullmatch(run):
        raise InputError(f"Expected the name of a run, such as smoke-8b61b5cf, but got {quoted(run)}; correct --run.")
    data = store.read(key)
    if data is None:
        raise InputError(
            f"Expected a run that has registered its model, but {store.place(key)} is not there; name one as "
            "`metantk run` does, such as smoke-8b61b5cf, or finish it."
        )
    try:
        address = json.loads(data)["uri"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store.place(key)} is damaged; run the pipeline again, which writes it anew.") from error
    if not address:
        raise InputError(f"The model of the run {run} waits for its MLflow server; send it with `metantk sync`.")
    return str(address)


def versions(names: Sequence[str] = (*COMPUTING, "kfp", "mlflow")) -> tuple[tuple[str, str], ...]:
    """Return the names and versions of Python and of packages that are installed.

    Args:
        names: The packages; those that numbers may depend on if not given.
    """
    found = ((name, installed_version(name)) for name in names)
    return (("python", platform.python_version()), *((name, version) for name, version in found if version is not None))


def _flattened(values: Mapping[str, object], prefix: str = "") -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flattened(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = value if isinstance(value, str | int | float | bool) else json.dumps(value)
    return flat
