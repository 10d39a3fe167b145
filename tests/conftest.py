"""What all tests share: nobody's servers, credentials or settings reach them, and a loaded machine is no failure."""

import contextlib
import dataclasses
import functools
import inspect
import multiprocessing.util
import os
import signal
import sqlite3
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, get_args

import beartype
import hypothesis
import jaxtyping
import pytest
import sqlalchemy

hypothesis.settings.register_profile("metantk", deadline=None, derandomize=True)
hypothesis.settings.load_profile("metantk")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write the compiled pipelines of tests/pipelines/golden"
    )


_jaxtyped: Any = jaxtyping.jaxtyped


def _names_a_shape(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return any(map(_names_a_shape, (*get_args(annotation), *_items(annotation))))


def _items(annotation: Any) -> list[Any]:
    return annotation if isinstance(annotation, list) else []  # the arguments of a Callable


def _checked(given: Any = None, *, typechecker: Callable[..., Any]) -> Any:
    """Check types and shapes at each call, as jaxtyping's import hook does, in a fraction of its time.

    The original checks arguments twice and binds them to their names, some thirty microseconds a call, of functions
    without any shape too: a third of many tests. Only where a shape is named are axes to be remembered.
    """
    if given is None:
        return functools.partial(_checked, typechecker=typechecker)
    if inspect.isclass(given) and dataclasses.is_dataclass(given) and inspect.isfunction(given.__init__):
        given.__init__ = _checked(given.__init__, typechecker=typechecker)
        return given
    if not inspect.isfunction(given) or any(isinstance(hint, str) for hint in inspect.get_annotations(given).values()):
        return _jaxtyped(given, typechecker=typechecker)  # it knows how to resolve names
    compared = beartype.beartype(given)
    return _Axes()(compared) if any(map(_names_a_shape, inspect.get_annotations(given).values())) else compared


class _Axes(contextlib.ContextDecorator):
    """A call in which axes of one name are one length; of ours, no line stands in its traceback."""

    def __enter__(self) -> None:
        self._context = _jaxtyped("context")
        self._context.__enter__()

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)

    def _recreate_cm(self) -> "_Axes":
        return _Axes()


jaxtyping.jaxtyped = _checked  # the hook's code looks it up by this name

# A shell's background job (`make test &`, `nohup make test`) ignores signals, and so would every command that a test
# sends them to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of slow tests first: begun last, they would be what everybody waits for in the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session", autouse=True)
def _own_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let what processes leave in the folder for temporary files, killed ones too, stand and go with pytest's own."""
    multiprocessing.util.get_temp_dir()  # for sockets, whose paths may not be long: elsewhere, and it goes by itself
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


_FOREIGN = ("MLFLOW_", "AWS_", "METANTK_", "KFP_")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in os.environ:
        if name.startswith(_FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))


@pytest.fixture(autouse=True, scope="session")
def _databases_are_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let MLflow make the tables of a SQLite database once a process, and copy them: all its migrations take a second.

    New Pythons make theirs, and test_mlflow_database.py all of its own.
    """
    mlflow_database = sys.modules.get("metantk_core.adapters.mlflow_database")
    if mlflow_database is None:  # a few tests alone, which need not wait for MLflow's import
        yield
        return
    made = tmp_path_factory.mktemp("tables") / "mlflow.db"
    make = mlflow_database._initialize_tables

    def copied(engine: sqlalchemy.Engine) -> None:
        path = str(engine.url.database)
        empty = not sqlalchemy.inspect(engine).get_table_names()
        if empty and made.exists():
            _copy(str(made), path)
            return
        make(engine)
        if empty:
            _copy(path, str(made))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_database, "_initialize_tables", copied)
        yield


def _copy(old: str, new: str) -> None:
    with closing(sqlite3.connect(old)) as source, closing(sqlite3.connect(new)) as target:
        source.backup(target)


@pytest.fixture(scope="session")
def few_shot_archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small data sets in ten published layouts, pickled by Python 2.7 and NumPy 1.16."""
    folder = tmp_path_factory.mktemp("few-shot-archives")
    with tarfile.open(Path(__file__).parent / "data" / "few-shot-archives.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder
