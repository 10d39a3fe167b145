"""The image's name: a kind of image and the files that go into it enter, ``metantk-python:VERSION-KIND-DIGEST`` leaves.

Equal files give an equal name and other files another one, so that no cluster takes an old image, or an old result of
Kubeflow's cache, for a new one.
"""

import argparse
import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_KINDS = ("cpu", "cuda")


def image_name(kind: str, root: Path = _ROOT) -> str:
    """Return the name of the image of a kind that is built from a folder; "python" in it tells Kubeflow what it holds.

    Args:
        kind: ``cpu`` or ``cuda``.
        root: Folder with the project's files.
    """
    digest = hashlib.sha256(kind.encode())
    for path in _files(root):
        name, content = path.relative_to(root).as_posix().encode(), path.read_bytes()
        for part in (name, content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return f"metantk-python:{version(root)}-{kind}-{digest.hexdigest()[:12]}"


def version(root: Path = _ROOT) -> str:
    """Return the version that the package in a folder says it has; the package is not imported."""
    module = ast.parse((root / "metantk_core" / "__init__.py").read_text(encoding="utf-8"))
    for statement in module.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__version__":
            return str(ast.literal_eval(statement.value))
    raise ValueError(f"Expected __version__ in {root / 'metantk_core' / '__init__.py'}, found none.")


def _files(root: Path) -> Iterator[Path]:
    """Give what the builder sees: the Dockerfile, and what .dockerignore, a list of exceptions, lets through."""
    listed = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    admitted = [root / line[1:] for line in listed if line.startswith("!")]
    found = {root / "docker" / "Dockerfile"}
    for place in admitted:
        found |= {place} if place.is_file() else {path for path in place.rglob("*") if path.is_file()}
    yield from sorted(path for path in found if "__pycache__" not in path.parts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Print the name of the image that is built from this folder.")
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("--version", action="store_true", help="Print the version alone.")
    arguments = parser.parse_args()
    print(version() if arguments.version else image_name(arguments.kind))  # noqa: T201 - for the Makefile
