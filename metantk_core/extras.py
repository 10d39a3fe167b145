"""What an installation may lack: the name of a module enters, the sentence that says what to install leaves."""

from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from types import MappingProxyType

from metantk_core.errors import InputError

_EXTRAS: Mapping[str, str] = MappingProxyType(
    {
        "mlflow": "tracking",
        "psutil": "tracking",
        "boto3": "storage",
        "botocore": "storage",
        "kfp": "pipelines",
        "gym": "meta-training",
        "torchvision": "meta-training",
    }
)
# Its requirements are an extra, but how it is compiled can't be said there.
_LEARN2LEARN = "learn2learn"
_LEARN2LEARN_INSTALLED = (
    "pip install 'metantk[meta-training]' cython wheel 'setuptools<81' && pip install --no-build-isolation --no-deps "
    "--config-settings=--global-option=build_ext learn2learn==0.2.0 (with a C compiler)"
)

TRACKING, STORAGE, PIPELINES, META_TRAINING = ("mlflow",), ("boto3",), ("kfp",), ("torchvision", "gym", _LEARN2LEARN)
"""Modules that parts of the program import late, after work that would be in vain without them."""


def admit_installed(what: str, *modules: str) -> None:
    """Do nothing where modules are installed; none of them is imported.

    Args:
        what: What needs them, for people.
        modules: Names of modules at the top, as in ``TRACKING``.

    Raises:
        InputError: One is not.
    """
    for module in modules:
        if find_spec(module) is None:
            raise InputError(_sentence(what, module))


def installed_version(package: str) -> str | None:
    """Return the version of a package that is installed; none for one that isn't."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def missing_extra(error: BaseException) -> InputError | None:
    """Return what to tell a person about an import that failed for want of an extra; none for any other error."""
    if not isinstance(error, ModuleNotFoundError):
        return None
    module = (error.name or "").partition(".")[0]
    return InputError(_sentence("This command", module)) if module in _EXTRAS or module == _LEARN2LEARN else None


def _sentence(what: str, module: str) -> str:
    remedy = _LEARN2LEARN_INSTALLED if module == _LEARN2LEARN else f"pip install 'metantk[{_EXTRAS[module]}]'"
    return f"{what} needs {module}, which is not installed; {remedy}."
