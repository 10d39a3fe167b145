"""When a device has too little memory: work enters, its result leaves, in smaller pieces or with less kept there."""

import gc
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_T = TypeVar("_T")

# What libraries of a GPU say instead of torch's own error when they get no memory.
_SAID = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class NoRoomError(Exception):
    """The device has too little memory for the smallest piece of some work; the message says how small that is."""


def in_chunks(work: Callable[[int], _T], images: int, *, smallest: int = 1) -> _T:
    """Return what work gives with as many images at a time as the device has memory for: all, half of them, ...

    Nothing is remembered: how many fit depends on the work alone, and so does what rounding makes of it.

    Args:
        work: Takes a number of images at a time, and gives the same for each up to rounding.
        images: How many there are.
        smallest: Fewest images at a time.

    Raises:
        NoRoomError: The smallest number is too much.
    """
    at_once = images
    while True:
        try:
            return work(at_once)
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
        # Only here is the error gone, and with it the tensors that its traceback held.
        if at_once <= smallest:
            fewest = "one image" if at_once == 1 else f"{at_once} images"
            raise NoRoomError(f"the device has too little memory for {fewest} at a time")
        at_once = max(smallest, at_once // 2)
        _release()


def sparingly(work: Callable[[], _T]) -> _T:
    """Return what work gives, with what it keeps for a backward pass in the machine's memory if the device's is full.

    The numbers are the same, bit for bit; it takes longer.

    Args:
        work: Can be begun anew.

    Raises:
        NoRoomError: That is too much, too.
    """
    try:
        return work()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    _release()
    try:
        with saved_tensors_hooks(_away, _back):
            return work()
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    _release()
    raise NoRoomError("the device has too little memory, also with activations kept in the machine's memory")


def _is_out_of_memory(error: RuntimeError) -> bool:
    said = str(error)
    return isinstance(error, torch.OutOfMemoryError) or ("CU" in said and any(words in said for words in _SAID))


def _release() -> None:
    """Give memory that nothing uses back to the device, in one piece; a graph that was broken off may hold itself."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _away(tensor: Tensor) -> tuple[Any, Tensor]:
    return tensor.device, tensor.to("cpu", copy=True)


def _back(kept: tuple[Any, Tensor]) -> Tensor:
    device, tensor = kept
    return tensor.to(device)
