"""How the program ends: exit codes, sentences, a log for errors of ours, and signals at any moment."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from metantk_core import command_line, stopping
from metantk_core.__main__ import main
from metantk_core.errors import InputError, StepError


@pytest.fixture(autouse=True)
def _handlers_of_the_tests() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ended(monkeypatch: pytest.MonkeyPatch, body: Callable[[], object]) -> object:
    monkeypatch.setattr(command_line, "app", body)
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def raising(error: BaseException) -> Callable[[], object]:
    def body() -> None:
        raise error

    return body


def test_bad_input_is_a_sentence_and_exit_code_2(monkeypatch, capsys):
    assert ended(monkeypatch, raising(InputError("Expected a, got b; say a."))) == 2
    assert capsys.readouterr().err == "metantk: Expected a, got b; say a.\n"


def test_an_error_of_ours_says_so_and_names_a_file_with_the_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert ended(monkeypatch, raising(KeyError("what\nnobody expected"))) == 1
    (said,) = capsys.readouterr().err.splitlines()
    (log,) = tmp_path.iterdir()
    assert "unexpected error (KeyError" in said
    assert f"please report it, with the traceback in {log}" in said
    assert "Traceback (most recent call last)" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0


def test_a_full_disk_is_a_sentence_and_exit_code_2_and_no_fault_of_ours(monkeypatch, capsys):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/somewhere/file")
    assert ended(monkeypatch, raising(error)) == 2
    said = capsys.readouterr().err
    assert said.startswith("metantk: The disk is full at /somewhere/file (No space left on device); make room")
    assert "report" not in said


def test_an_error_of_ours_is_shown_where_no_file_can_be_written(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    assert ended(monkeypatch, raising(KeyError("x"))) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "please report it, with the lines above" in said


def test_a_step_that_failed_names_the_log_of_the_pipeline(monkeypatch, capsys):
    assert ended(monkeypatch, raising(StepError("a step ended; see runs/pipeline.log"))) == 1
    assert capsys.readouterr().err == "metantk: a step ended; see runs/pipeline.log\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_passes_through_all_tidying_and_becomes_the_exit_code(number, code, monkeypatch, capsys):
    tidied = []

    def body() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            tidied.append(number)

    assert ended(monkeypatch, body) == code
    assert tidied == [number]
    assert capsys.readouterr().err == ""


def test_a_signal_that_a_library_turned_into_an_error_is_still_a_signal(monkeypatch, capsys):
    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise ImportError("initialization failed") from None

    assert ended(monkeypatch, body) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_a_destructor_ends_the_program_all_the_same(number, code, monkeypatch, capsys):
    tidied = []

    class Collected:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)
            time.sleep(0.01)  # the handler raises in here, where Python can only report it and go on

    def body() -> None:
        try:
            Collected()
            time.sleep(5)
            pytest.fail("it went on")
        finally:
            tidied.append(number)

    hook = sys.unraisablehook
    assert ended(monkeypatch, body) == code
    assert tidied == [number]
    assert capsys.readouterr().err == ""
    assert sys.unraisablehook is hook


def test_a_second_signal_waits_until_things_are_in_order(monkeypatch):
    order = []

    def body() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            with stopping.shielded():
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.1)
                order.append("in order")

    assert ended(monkeypatch, body) == 143
    assert order == ["in order"]


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as `nohup` does
    with stopping.raising() as came:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.05)
    assert came == []


def test_a_signal_during_imports_ends_the_process_without_a_word():
    code = (
        "import os, signal, time; from metantk_core import stopping; stopping.end_at_once(); print('on', flush=True); "
    )
    for number in stopping.SIGNALS:
        process = subprocess.Popen(
            [sys.executable, "-c", f"{code}time.sleep(60)"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert said == b""


def test_nothing_heavy_is_imported_before_signals_are_answered():
    code = "import sys, metantk_core.__main__; sys.exit(bool({'typer', 'numpy', 'pydantic', 'torch'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_process_ends_with_the_one_that_started_it_however_that_died():
    child = (
        "import os, sys, time; from metantk_core import stopping; stopping.end_with(int(sys.argv[1])); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time; "
        f"process = subprocess.Popen([sys.executable, '-c', {child!r}, str(os.getpid())]); "
        "print(process.pid, flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    time.sleep(1)
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            os.kill(orphan, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.kill(orphan, signal.SIGKILL)
    pytest.fail("the orphan went on")
