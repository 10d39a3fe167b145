"""A GPU without a GPU: torch's meta device, on which a mode lets nothing pass that a real GPU would refuse.

Tensors on the meta device have shapes and no numbers. Torch alone lets matrix products, convolutions and indexing mix
it with the CPU; the mode does not. Where the code copies numbers back to the CPU, the mode makes some up, and notes the
line of ours that asked for them: everything behind it is looked at, too.
"""

import linecache
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import metantk_core

_OURS = str(Path(metantk_core.__file__).parent)
# What moves numbers from one device to another, and is meant to. Below another mode, torch shows the outer functions.
_MOVES = ("aten::_to_copy", "aten::to", "aten::copy_")
_NUMBERS = ("aten::_local_scalar_dense", "aten::item", "aten::is_nonzero")


class MixedDevicesError(Exception):
    """An operation got tensors of several devices."""


class OneDevice(TorchDispatchMode):
    """Refuses every operation on tensors of several devices, those of no dimension on the CPU excepted.

    Args:
        device: Kind of the device that networks run on.
        room: Bytes that the device has for what is made under the mode; None for as many as there may be.

    Attributes:
        copies: The lines of ours that asked for numbers on the CPU, in order: module, line and text.
        meetings: How many operations on the device took several tensors that have dimensions.
        most: The most bytes that were alive on the device.
    """

    def __init__(self, device: str = "meta", *, room: int | None = None) -> None:
        super().__init__()
        self._device, self._room = device, room
        self._numbers = torch.Generator().manual_seed(0)
        self._live: dict[int, int] = {}
        self._used = 0
        self.copies: list[str] = []
        self.meetings = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if func._schema.name not in _MOVES:
            kinds = {tensor.device.type for tensor in given if tensor.dim() or tensor.device.type != "cpu"}
            if len(kinds) > 1:
                raise MixedDevicesError(f"{func} got tensors on {' and '.join(sorted(kinds))}, in {_line()}")
            self.meetings += self._device in kinds and sum(tensor.dim() > 0 for tensor in given) > 1
        made = self._asked(func, args, kwargs) if any(t.device.type == self._device for t in given) else None
        result = func(*args, **kwargs) if made is None else made
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == self._device:
                self._count(tensor)
        return result

    def _asked(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Return what a copy to the CPU gives, or None if the operation is none; without numbers they are made up."""
        like, name, made_up = args[0], func._schema.name, self._device == "meta"
        if name in _NUMBERS:
            self.copies.append(_line())
            truth = like.dtype == torch.bool or name == "aten::is_nonzero"
            return (truth or (1.0 if like.dtype.is_floating_point else 1)) if made_up else None
        if name == "aten::equal":
            self.copies.append(_line())
            return False if made_up else None
        if name == "aten::copy_" and like.device.type == "cpu":
            self.copies.append(_line())
            return like.copy_(self._made_up(args[1], like.dtype)) if made_up else None
        if name in _MOVES and name != "aten::copy_" and _target(args, kwargs) == "cpu":
            self.copies.append(_line())
            return self._made_up(like, kwargs.get("dtype") or like.dtype) if made_up else None
        if name == "aten::index" and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.copies.append(_line())  # how many there are has to be known
            return like.flatten()[: like.numel() // 2] if made_up else None
        return None

    def _made_up(self, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        numbers = torch.randn(like.shape, generator=self._numbers)
        return numbers.to(dtype) if dtype.is_floating_point else (numbers > 0).to(dtype)

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return
        size = storage.nbytes()
        if self._room is not None and self._used + size > self._room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")
        self._live[key] = size
        self._used += size
        self.most = max(self.most, self._used)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self._used -= self._live.pop(key, 0)


def _target(args: tuple, kwargs: dict) -> str:
    """Return the kind of the device that a copy is for."""
    named = [kwargs.get("device"), *(value for value in args[1:] if isinstance(value, torch.device))]
    others = [
        value.device for value in args if isinstance(value, torch.Tensor)
    ]  # the last one is the example to follow
    return torch.device(next((device for device in named if device is not None), others[-1])).type


def _line() -> str:
    """Return the innermost line of ours that is being executed."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    if frame is None:
        return ""
    path, number = frame.f_code.co_filename, frame.f_lineno
    return f"{path.removeprefix(_OURS + os.sep)}:{number} {linecache.getline(path, number).strip()}"
