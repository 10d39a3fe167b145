"""One decision about float32: whatever the process has chosen enters, exact and repeatable arithmetic leaves."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch

_Setting = TypeVar("_Setting")
_lock = threading.Lock()
_chosen = ExitStack()  # puts the process's own choice back
_users = 0  # of the settings below, which torch keeps for the whole process and not for each thread


@contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Give a context in which float32 products are products of float32, whatever the rest of the process has chosen.

    TF32 and bfloat16 move condition numbers as much as the choice of an operation does, and a training step in TF32
    comes out differently each time. This is the one place that decides about them and about cuDNN's choice of
    algorithms; when the last thread has left, everything is as it was before the first one came.
    """
    global _users
    with _lock:
        if _users == 0:
            _chosen.enter_context(_exact())
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _chosen.close()


@contextmanager
def _exact() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    parents, operations = _precisions()
    flags = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    # Torch has older settings for the same, and fails where the two contradict each other.
    older_products, older_layers = _readable(torch.get_float32_matmul_precision), _readable(lambda: cudnn.allow_tf32)
    before: list[str] = []
    try:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, True
        for setting in parents:
            before.append(setting.fp32_precision)
            setting.fp32_precision = "none"  # what is inherited from it shows as it is: not set
        before += [setting.fp32_precision for setting in operations]
        if older_products not in (None, "highest"):
            torch.set_float32_matmul_precision("highest")
        if older_layers:
            cudnn.allow_tf32 = False
        for setting in operations:
            setting.fp32_precision = "ieee"
        yield
    finally:
        if older_products not in (None, "highest"):
            torch.set_float32_matmul_precision(older_products)
        if older_layers:
            cudnn.allow_tf32 = True
        for setting, precision in reversed(list(zip((*parents, *operations), before, strict=False))):
            setting.fp32_precision = precision
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags


def _precisions() -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return where torch keeps the precision of float32: what operations inherit it from, and the operations."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    products: tuple[Any, ...] = cuda.matmul, mkldnn.matmul  # type: ignore[attr-defined]
    layers: tuple[Any, ...] = cudnn.conv, cudnn.rnn, mkldnn.conv, mkldnn.rnn  # type: ignore[attr-defined]
    return (torch.backends, cudnn), (*products, *layers)


def _readable(setting: Callable[[], _Setting]) -> _Setting | None:
    """Return one of torch's older settings; None where newer ones contradict it, which torch refuses to read."""
    try:
        return setting()
    except RuntimeError:
        return None
