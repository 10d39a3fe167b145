"""The package as pip installs it: it holds all that it needs, works away from the checkout, and says what it lacks."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("metantk_core", "components", "pipelines")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy: setuptools leaves things in the folder that it builds from, and finds them again."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", "dist", "."], cwd=folder, check=True, capture_output=True)
    (built,) = (folder / "dist").glob("metantk-*.whl")
    return built


def test_it_holds_every_file_of_the_packages(wheel: Path):
    found = set(zipfile.ZipFile(wheel).namelist())
    files = [path for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_file()]
    wanted = {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}
    assert wanted - found == set()
    assert any(not name.endswith(".py") for name in wanted)  # stubs, the report's template: what is easily forgotten


# A module that is None counts as not installed, also for who asks without importing it.
_LACKING = """
import contextlib, io, json, sys
sys.modules |= dict.fromkeys(json.loads(sys.argv[1]))
from metantk_core.__main__ import main
for arguments in json.loads(sys.argv[2]):
    sys.argv, said = ["metantk", *arguments], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            main()
            code = 0
        except SystemExit as ending:
            code = ending.code or 0
    print(json.dumps([code, said.getvalue()]))
"""


def lacking(modules: list[str], calls: list[list[str]], folder: Path) -> list[tuple[int, str]]:
    """Return the exit code, and what is said, of commands where modules are not installed."""
    done = subprocess.run(
        [sys.executable, "-c", _LACKING, json.dumps(modules), json.dumps(calls)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("module", "extra", "calls"),
    [
        ("mlflow", "tracking", ["search", "train", "evaluate", "run", "sync", "ui"]),
        ("kfp", "pipelines", ["compile", "run"]),
        ("learn2learn", "meta-training", ["train", "evaluate", "run"]),
        ("torchvision", "meta-training", ["train", "evaluate", "run"]),
        ("boto3", "storage", ["store ls --store s3://bucket/prefix"]),
    ],
)
def test_what_an_extra_brings_is_asked_for_before_any_work_begins(module, extra, calls, tmp_path):
    for code, said in lacking([module], [call.split() for call in calls], tmp_path):
        assert code == 2, said
        assert said.startswith("metantk: ")
        assert said.count("\n") == 1
        assert f"needs {module}, which is not installed; pip install 'metantk[{extra}]'" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.minutes
def test_scoring_takes_no_extra(tmp_path):
    genotype = "|skip_connect~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|nor_conv_1x1~1|none~2|"
    modules = ["mlflow", "psutil", "kfp", "boto3", "botocore", "learn2learn", "torchvision", "gym"]
    ((code, said),) = lacking(modules, [["score", genotype, "smoke", "--set", "data.images_per_class=6"]], tmp_path)
    assert code == 0, said


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs of an environment that has the wheel, and sees this one's other packages."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    pip = [folder / "bin" / "python", "-I", "-m", "pip", "install", "-q", "--no-index", "--no-deps", wheel]
    subprocess.run(pip, cwd=folder, check=True)
    # Found after its own, and without what its own .pth files name: the checkout.
    scheme = sysconfig.get_path("purelib", "venv", {"base": str(folder)})
    Path(scheme, "packages-of-this-one.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


@pytest.mark.minutes
def test_away_from_the_checkout_it_scores_searches_compiles_and_runs(installed: Path, tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def command(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [installed / program, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = command("python", "-c", "import components, metantk_core, pipelines; print(metantk_core.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)
    few = ("--set", "data.images_per_class=8")
    genotype = "|skip_connect~0|+|skip_connect~0|none~1|+|nor_conv_1x1~0|nor_conv_1x1~1|none~2|"
    assert json.loads(command("metantk", "score", genotype, "smoke", *few, "--json"))
    found = json.loads(command("metantk", "search", "smoke", *few, "--json"))
    command("metantk", "compile", "smoke", "-o", "pipeline.yaml")
    assert "metantk-search-and-meta-train" in (tmp_path / "pipeline.yaml").read_text()
    result = json.loads(command("metantk", "run", "smoke", *few, "--json"))
    assert found["digest"] in json.dumps(result)
