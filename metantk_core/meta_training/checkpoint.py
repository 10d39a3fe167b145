"""Checkpoints without pickle: tensors and plain values enter, bytes leave, and back.

The bytes are a safetensors file; the plain values travel in it as JSON.
"""

import json
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from metantk_core.errors import InputError

FORMAT = 4
"""Number of what checkpoints hold; part of their names, so that those of other versions are not taken up."""

_VALUES = "values"


@runtime_checkable
class Checkpoint(Protocol):
    """A place for the state of one piece of work that may be interrupted."""

    def load(self) -> bytes | None:
        """Return what was saved last, or None if nothing was."""

    def save(self, data: bytes) -> None:
        """Replace what was saved, atomically."""


def pack(digest: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a checkpoint.

    Args:
        digest: Digest of everything that the work depends on.
        values: JSON-like values.
        tensors: Tensors on any device, by names other than ``values``.
    """
    text = json.dumps({"digest": digest, **values}).encode()
    return save({**own_memory(tensors), _VALUES: torch.frombuffer(bytearray(text), dtype=torch.uint8)})


def own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors on the CPU that share no memory with each other, as those of a weight that is used twice do."""
    found: dict[str, Tensor] = {}
    places: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        found[name] = plain.clone() if plain.data_ptr() in places else plain
        places.add(plain.data_ptr())
    return found


def unpack(data: bytes, digest: str, subject: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the values and the tensors of a checkpoint.

    Args:
        data: What ``pack`` returned.
        digest: Digest of everything that the work depends on now.
        subject: What the checkpoint is of, for the message, as in ``"meta-training"``.

    Raises:
        InputError: The bytes are no checkpoint, or one of other work.
    """
    try:
        tensors = load(data)
        values = json.loads(tensors.pop(_VALUES).numpy().tobytes())
        found = values.pop("digest")
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(
            f"Expected a {subject} checkpoint, but its {len(data)} bytes can't be read; delete it to start afresh."
        ) from error
    if found != digest:
        raise InputError(
            f"The {subject} checkpoint is of other work (its digest is {found}, expected {digest}): another genotype, "
            "configuration, seed or dataset; delete it, or keep it and choose another place."
        )
    return values, tensors
