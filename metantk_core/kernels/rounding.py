r"""What rounding leaves of small eigenvalues: gradient lengths enter, the size from which eigenvalues are known leaves.

A kernel is a Gram matrix :math:`J J^\top` of gradients with relative errors ε', whose products are summed with relative
errors of the order of the precision ε. With d the largest squared length of a gradient, both move an eigenvalue λ by

.. math:: |\delta\lambda| \le 2 ε' \sqrt{d \lambda} + c \sqrt{n} \, ε \, d.

The first term shrinks with λ, as singular values do; the second, the norm of n × n independent errors of entries no
larger than d, does not. ``docs/theory.md`` derives both and shows what was measured.

Axes: n images.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float64
from torch import Tensor

from metantk_core.kernels.choices import Precision

EPSILON: Mapping[Precision, float] = MappingProxyType(
    {"float32": torch.finfo(torch.float32).eps, "float64": torch.finfo(torch.float64).eps}
)
"""Relative precision of the numbers that gradients are computed in."""

SINGLE_PRECISION = EPSILON["float32"]
DOUBLE_PRECISION = EPSILON["float64"]

TOLERANCE = 0.01
"""Largest relative error of an eigenvalue that counts as known."""

_ROUNDING = 2.0  # c above; the largest that was measured is 1.8
_UNEVEN = 30.0  # squared gradient lengths; up to here no length was wrong by more than 1 %


def rounding_noise(images: int, precision: float) -> float:
    """Return how far rounding moves an eigenvalue that is zero, as a share of the largest squared gradient length.

    Args:
        images: Number of images of the kernel.
        precision: Relative precision of the gradients.
    """
    return _ROUNDING * math.sqrt(images) * precision


def rounding_floor(
    kernel: Float64[Tensor, "n n"],
    *,
    precision: float = SINGLE_PRECISION,
    lengths: Float64[Tensor, " rows"] | None = None,
) -> float:
    """Return the size from which on eigenvalues of a kernel are known within 1 %.

    Args:
        kernel: Gram matrix of gradients.
        precision: Relative precision of the gradients.
        lengths: Squared gradient lengths behind each row of a kernel made from this one, as
            :func:`metantk_core.kernels.adapted_lengths` gives them; None for the kernel itself.
    """
    longest = kernel.diagonal() if lengths is None else lengths
    return rounding_noise(len(kernel), precision) / TOLERANCE * max(longest.max().item(), 0.0)


def even_gradients(kernel: Float64[Tensor, "n n"]) -> bool:
    """Return whether no gradient is so much longer than the others that float32 may have lost it.

    A normalisation that divides by next to nothing makes an image's gradient long, and its rounding just as much
    larger: the largest eigenvalues are then wrong, which no bound on the smallest one sees.

    Args:
        kernel: Gram matrix of gradients.
    """
    lengths = kernel.diagonal()
    return bool(lengths.max() <= _UNEVEN * lengths.median())
