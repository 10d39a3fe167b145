"""What all tests share: nobody's servers, credentials or settings reach them, and a loaded machine is no failure."""

import multiprocessing.util
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile("metantk", deadline=None, derandomize=True)
hypothesis.settings.load_profile("metantk")

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
