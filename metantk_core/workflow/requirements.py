"""The packages that run here, pinned: nothing enters, the text of a requirements file leaves."""

import platform
import re
from importlib import metadata

from metantk_core import __version__

REQUIREMENTS = "requirements.txt"
"""What a run's pinned packages are called in the store."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXTRA = re.compile(r"extra\s*==\s*['\"]([^'\"]+)['\"]")
_EXTRAS = ("meta-training", "tracking", "storage", "postgresql", "pipelines")
_COMPILED = "learn2learn"


def requirements() -> str:
    """Return the installed packages that this project needs, directly or not, each with its exact version."""
    waiting, found = _ours(), dict[str, str]()
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            installed = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform, or an extra that isn't installed
        found[name] = installed.version
        waiting += [_name(line) for line in installed.requires or () if _EXTRA.search(line) is None]
    lines = [
        f"# Python {platform.python_version()}; metantk {__version__}, this project, is installed from its own source,",
        f"# and so is {_COMPILED} 0.2.0 (see the project's Makefile).",
        # A build such as +cpu is on no index under that name.
        *(f"{name}=={version.partition('+')[0]}" for name, version in sorted(found.items()) if name != _COMPILED),
    ]
    return "\n".join(lines) + "\n"


def _ours() -> list[str]:
    """Return the names of what this project itself asks for, apart from what tests and development need."""
    try:
        asked = metadata.requires("metantk") or ()
    except metadata.PackageNotFoundError:
        return []  # its source lies on the path
    extras = [(line, _EXTRA.search(line)) for line in asked]
    return [_name(line) for line, extra in extras if extra is None or extra[1] in _EXTRAS]


def _name(requirement: str) -> str:
    """Return the name of a requirement as indexes spell it."""
    found = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""
