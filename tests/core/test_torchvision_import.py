"""The guard around torchvision, each time in a fresh process: what is imported once is imported for good."""

import subprocess
import sys

import pytest


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = """
import sys
from metantk_core.torchvision_import import torchvision_importable
before = list(sys.meta_path)
with torchvision_importable(), torchvision_importable():
    import {}
    print("torchvision" in sys.modules)
assert sys.meta_path == before
"""


@pytest.mark.slow
def test_torchvision_and_what_imports_it_can_be_imported_beside_any_torch():
    usual = """
import torchvision, torchvision.models
loader = torchvision.__spec__.loader
assert type(loader).__name__ == "SourceFileLoader" and torchvision.__loader__ is loader
with torchvision_importable():
    import torchvision
"""
    assert run(IMPORTS.format("torchvision.ops") + usual) == "True\n"
    assert run(IMPORTS.format("timm")) == "True\n"


def test_nothing_is_imported_before_somebody_asks_for_it():
    without = "assert 'torch' not in sys.modules\n"
    assert run(IMPORTS.format("json") + without) == "False\n"


def test_other_failures_of_an_import_stay_as_they_are(tmp_path, monkeypatch):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('something else')\n")
    broken = IMPORTS.replace("import {}", "import sys; sys.path.insert(0, {!r})\n    import torchvision")
    with pytest.raises(AssertionError, match="RuntimeError: something else"):
        run(broken.format(str(tmp_path)))


def test_a_torchvision_that_is_not_there_is_missing_in_the_usual_way(tmp_path):
    absent = "sys.path = [p for p in sys.path if 'site-packages' not in p]\n    import torchvision"
    with pytest.raises(AssertionError, match="No module named 'torchvision'"):
        run(IMPORTS.replace("import {}", absent))
