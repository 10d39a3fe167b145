"""What README and docs say can be followed: links lead somewhere, commands parse, the site builds without a warning."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from metantk_core.command_line import app

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = [ROOT / "README.md", *PAGES]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS: Any = typer.main.get_command(app)


def named(text: Path) -> str:
    return str(text.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("text", TEXTS, ids=named)
def test_every_link_within_the_project_leads_to_a_file_and_a_heading_that_exist(text: Path):
    prose = FENCED.sub("", text.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        page = (text.parent / path).resolve() if path else text
        assert page.exists(), target
        if anchor:
            assert anchor in {re.sub("-+", "-", known) for known in anchors(page)} | anchors(page), target


def test_every_page_is_in_the_contents_of_the_site_and_every_entry_is_a_page():
    listed = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


def commands(text: Path) -> Iterator[str]:
    """Yield the commands of ours in a text's blocks of shell, without what they are piped into and without comments."""
    for language, block in FENCED.findall(text.read_text(encoding="utf-8")):
        if language in ("bash", "sh", "shell", "console"):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                line = re.sub(r"^(\$ )?([A-Z_]+=\S*\s+)*", "", line.strip())
                words = shlex.split(line, comments=True) if re.match(r"(\.venv/bin/)?metantk\b", line) else []
                if words:
                    end = next(
                        (n for n, word in enumerate(words) if word in ("|", ">", ">>", "&&", "||", ";", "&")), None
                    )
                    yield shlex.join(words[1:end])


@pytest.mark.parametrize(("text", "command"), [(named(text), found) for text in TEXTS for found in commands(text)])
def test_every_command_of_the_documents_is_one_that_the_command_line_takes(text: str, command: str):
    words = [word for word in shlex.split(command) if word not in ("--help", "-h")]  # which would print and end
    context = COMMANDS.make_context("metantk", words) if words else None
    while context is not None and hasattr(context.command, "resolve_command"):
        name, of, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = of.make_context(name, list(rest), parent=context)


@pytest.mark.slow
def test_site_builds_without_a_warning(tmp_path: Path):
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    for name in ("docs", "metantk_core"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {page.stem for page in PAGES} - {"index"} <= {folder.name for folder in (tmp_path / "site").iterdir()}
    assert "tangent_and_last_layer_kernel" in (tmp_path / "site/api/index.html").read_text(encoding="utf-8")
