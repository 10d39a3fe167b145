"""The guard around torchvision: nothing enters, a context leaves in which ``import torchvision`` works.

A torchvision that was built for another torch (the index has none for a processor alone) fails at import, because two
operators of its C++ library are missing. They are declared here when, and only when, somebody imports torchvision and
it fails for that reason; nothing of this package needs them or imports torchvision for its own sake.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_COMPLAINT = "operator torchvision::nms does not exist"


@contextmanager
def torchvision_importable() -> Iterator[None]:
    """Give a context in which torchvision can be imported beside a torch that it was not built for.

    It costs nothing as long as nobody imports torchvision: not at once, and not by way of another package.
    """
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder(MetaPathFinder):
    """Finds torchvision where others find it, and lets it have a second try."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "torchvision":
            return None
        others = (finder for finder in sys.meta_path if not isinstance(finder, _Finder))
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _SecondTry(spec.loader)
        return spec


class _SecondTry(Loader):
    def __init__(self, usual: Loader) -> None:
        self._usual = usual

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._usual.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module is to look as if it had been imported in the usual way.
        module.__loader__ = self._usual
        if module.__spec__ is not None:
            module.__spec__.loader = self._usual
        try:
            self._usual.exec_module(module)
        except RuntimeError as error:
            # Only after its own library failed to load: declaring an operator that exists would be an error.
            if _COMPLAINT not in str(error):
                raise
            _declare_operators()
            self._usual.exec_module(module)


@cache  # which keeps the declarations alive: torch forgets them with the object
def _declare_operators() -> object:
    import torch  # torchvision has imported it by now

    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
