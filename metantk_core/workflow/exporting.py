"""A run in one folder, for others to repeat: a finished run and its network enter, files with their checksums leave."""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from metantk_core.config import RunConfig
from metantk_core.errors import InputError, quoted
from metantk_core.files import UNFINISHED, reason
from metantk_core.meta_training import TrainedModel, save_model
from metantk_core.ports import ArtifactStore
from metantk_core.workflow.citations import citations
from metantk_core.workflow.reporting import RunResult, read_result
from metantk_core.workflow.requirements import REQUIREMENTS, requirements
from metantk_core.workflow.runs import RUN_NAME
from metantk_core.workflow.tracked import leaderboard_columns
from metantk_core.workflow.training import architecture_of

CHECKSUMS = "SHA256SUMS"
_PARTS = re.compile(r"\b(normal|normal_concat|reduce|reduce_concat)=")


@dataclass(frozen=True)
class Exported:
    """A folder from which a run can be repeated.

    Attributes:
        run: Name of the run.
        directory: The folder.
        digest: Digest of the leaderboard, which a repetition gives again.
        files: SHA-256 of each file, by its path in the folder.
    """

    run: str
    directory: Path
    digest: str
    files: Mapping[str, str]


def run_config(store: ArtifactStore, run: str) -> RunConfig:
    """Return the configuration of a finished run.

    Args:
        store: Where the run is kept.
        run: Its name, as ``metantk run`` gives it.

    Raises:
        InputError: There is no such run, or it has not finished.
    """
    data = store.read(f"{run}/config.json") if RUN_NAME.fullmatch(run) else None
    if data is None:
        raise InputError(
            f"Expected a run that has finished, such as smoke-8b61b5cf, but got {quoted(run)}, which is not in the "
            "store; name one as `metantk run` does, or name its place with --workspace or --store. A run of an earlier "
            "version is exported after it was run again, which repeats no finished work."
        )
    return RunConfig.from_json(data.decode())


def export(config: RunConfig, store: ArtifactStore, model: TrainedModel, directory: Path) -> Exported:
    """Write all that it takes to repeat a run into a folder, which appears as a whole or not at all.

    Args:
        config: The run.
        store: Where it is kept.
        model: The network that it registered.
        directory: The folder; it is not there yet, or empty.

    Raises:
        InputError: The run has not finished, the network is not its own, or the folder can't be written.
    """
    admit_folder(directory)
    result = read_result(config, store)
    best = result.evaluations["best"]
    if model.digest not in best.model.split():  # one a training
        raise InputError(
            f"Expected the network that the run {config.run_id} has evaluated, but its registered version holds "
            "another one; run it again, which repeats no finished work and registers its network."
        )
    report = store.read(f"{config.run_id}/report.html")
    if report is None:
        raise InputError(f"Expected the report of the run {config.run_id}, but it is not there; run it to its end.")
    noted = store.read(f"{config.run_id}/{REQUIREMENTS}")
    files = {
        "config.json": json.dumps(json.loads(config.to_json()), indent=2, ensure_ascii=False).encode(),
        "requirements.txt": noted or requirements().encode(),
        "leaderboard.json": result.leaderboard.to_json().encode(),
        "leaderboard.csv": _table(leaderboard_columns(result.leaderboard)),
        "search.json": result.history.to_json().encode(),
        "accuracies.csv": _table(_accuracies(config, result)),
        **{
            f"evaluations/{name.replace(' ', '-')}.json": found.to_json().encode()
            for name, found in {**result.evaluations, **result.trainings}.items()
        },
        "genotype.py": genotype_as_python(config.run_id, model.space, model.genotype).encode(),
        "citation.bib": citations(config.training).encode(),
        "report.html": report,
        "README.md": _readme(config, result, model, noted=noted is not None).encode(),
    }
    with _appearing(directory) as unfinished:
        for name, data in files.items():
            path = unfinished / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        save_model(model, unfinished / "model")
        sums = {
            path.relative_to(unfinished).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(unfinished.rglob("*"))
            if path.is_file()
        }
        lines = "".join(f"{checksum}  {name}\n" for name, checksum in sums.items())
        (unfinished / CHECKSUMS).write_text(lines, encoding="utf-8")
    return Exported(config.run_id, directory, result.leaderboard.digest, sums)


def admit_folder(directory: Path) -> None:
    """Do nothing if a folder can be made there.

    Raises:
        InputError: There is something already.
    """
    try:
        taken = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    except OSError as error:
        raise InputError(f"Can't look into '{directory}' ({reason(error)}); choose another folder.") from error
    if taken:
        raise InputError(
            f"Expected a folder that is not there yet, or empty, but '{directory}' holds something; choose another one."
        )


@contextmanager
def _appearing(directory: Path) -> Iterator[Path]:
    """Give a folder to fill that gets its name when all is in it, and disappears if something fails."""
    unfinished = directory.absolute().parent / f"{UNFINISHED}{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.rename(unfinished, directory.absolute())  # replaces an empty folder, and no other
    except OSError as error:
        raise InputError(f"Can't write '{directory}' ({reason(error)}); choose another folder.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _table(columns: Mapping[str, list[str | int | float | None]]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(columns)
    rows.writerows(zip(*columns.values(), strict=True))
    return text.getvalue().encode()


def _accuracies(config: RunConfig, result: RunResult) -> dict[str, list[str | int | float | None]]:
    """Return the accuracies of all networks as columns, further classifiers and shots below each."""
    names = ("network", "genotype", "parameters", "MACs", "ways", "shots", "answered by", "accuracy", "half width 95")
    columns: dict[str, list[str | int | float | None]] = {name: [] for name in (*names, "worst decile", "published")}
    for role, found in result.evaluations.items():
        genotype, cost = str(architecture_of(config, role, result.leaderboard)), result.costs[role]
        main = (found.shots, found.classifier, found.accuracy, found.half_width, found.worst_decile, found.published)
        others = [(o.shots, o.classifier, o.accuracy, o.half_width, None, "") for o in found.others]
        for row in (main, *others):
            values = (role, genotype, cost.params, cost.macs, found.ways, *row)
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return columns


def genotype_as_python(run: str, space: str, genotype: str) -> str:
    """Return a genotype as the text of a Python module: as published codes have it, or in the text of its search space.

    Args:
        run: Name of the run that found it.
        space: Its search space.
        genotype: Its text there.
    """
    said = f'"""The network of the run {run}, of the search space {space}."""\n\n'
    if not genotype.startswith("Genotype("):
        return f"{said}genotype = {genotype!r}\n"
    fields = " ".join(dict.fromkeys(_PARTS.findall(genotype)))
    return (
        f"{said}from collections import namedtuple\n\n"
        f'Genotype = namedtuple("Genotype", "{fields}")\n\ngenotype = {genotype}\n'
    )


def _readme(config: RunConfig, result: RunResult, model: TrainedModel, *, noted: bool) -> str:
    best = result.evaluations["best"]
    data = ""
    repeat = "metantk run config.json"
    if config.data.path is not None:
        repeat += " --set data.path=FOLDER"
        data = (
            f"\nThe images lay in `{config.data.path}` and are not in this folder; FOLDER is where yours are. Others "
            f"than those of the digest `{config.dataset_digest}` are refused.\n"
        )
    training = next((name for name, found in result.trainings.items() if found.model == model.digest), "")
    kept = f", of {training} ({result.trainings[training].summary()})" if training else ""
    of_whom = "of the run" if noted else "of where this folder was written; the run did not note its own"
    return f"""# {config.run_id}

`{model.genotype}` of `{model.space}`: {best.summary()}.
{best.published}

| file | holds |
|---|---|
| `config.json` | the configuration, as `metantk run` takes it |
| `requirements.txt` | Python and packages {of_whom} |
| `leaderboard.json`, `leaderboard.csv`, `search.json` | all candidates with their scores; the rounds of the search |
| `accuracies.csv`, `evaluations/` | accuracies on test classes with intervals; each episode and class |
| `genotype.py` | the network found, as Python text |
| `model/` | its weights (safetensors) and what belongs to them{kept} |
| `report.html` | the report: open it in a browser |
| `citation.bib` | what to cite |
| `{CHECKSUMS}` | checksums of all other files: `sha256sum -c {CHECKSUMS}` |

Repeat it, with this project installed and the versions of `requirements.txt`:

```bash
{repeat}
```
{data}
The leaderboard has the digest `{result.leaderboard.digest}` again, and the network the accuracy
{best.accuracy!r}, on the same kind of device ({best.device or "not noted"}).
Other processors may round the last digits otherwise.

Use the network on images of your own, a folder of images a class in `shots`:

```bash
metantk classify --model model --support shots --query photos
```
"""
