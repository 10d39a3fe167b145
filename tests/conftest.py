"""What all tests share: nobody's servers, credentials or settings reach them, and a loaded machine is no failure."""

import os
import signal

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

_FOREIGN = ("MLFLOW_", "AWS_", "METANTK_", "KFP_")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in os.environ:
        if name.startswith(_FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
