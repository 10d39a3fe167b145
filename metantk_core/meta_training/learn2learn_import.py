"""The guard around learn2learn: nothing enters, its MAML class leaves, and importing it changes nothing else.

learn2learn 0.2.0 imports torchvision and gym, of which we need neither. A torchvision that was built for another torch
fails at import (see ``torchvision_import``); gym prints an advertisement on stderr and sets environment variables.
"""

import importlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from metantk_core.torchvision_import import torchvision_importable


def load_maml() -> type[Any]:
    """Return ``learn2learn.algorithms.MAML``.

    Raises:
        ImportError: learn2learn is not installed, or something that it imports is missing.
    """
    if "learn2learn" not in sys.modules:
        with (
            _environment_restored(),
            _gym_notices_withheld(),
            warnings.catch_warnings(),
            torchvision_importable(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module("learn2learn")
    return sys.modules["learn2learn"].algorithms.MAML


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _gym_notices_withheld() -> Iterator[None]:
    """Leave gym nothing to print while it is imported; errors and all other output go through."""
    try:
        notices = importlib.import_module("gym_notices.notices").notices
    except ImportError:
        yield
        return
    kept = dict(notices)
    notices.clear()
    try:
        yield
    finally:
        notices.update(kept)
