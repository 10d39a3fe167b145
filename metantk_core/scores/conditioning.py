"""Condition numbers: a symmetric kernel enters, its condition number or the reason why it has none leaves.

Axes: n images.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from metantk_core.kernels import eigenvalues
from metantk_core.scores.record import Outcome, Score

SINGLE_PRECISION = torch.finfo(torch.float32).eps
"""Relative precision of kernels whose gradients were taken in float32."""


def rounding_floor(kernel: Float64[Tensor, "n n"], *, precision: float = SINGLE_PRECISION) -> float:
    """Return the size below which eigenvalues of a kernel are rounding: ``n · precision`` times the largest eigenvalue.

    This is the rule of ``numpy.linalg.matrix_rank``, at the precision of the gradients.

    Args:
        kernel: Symmetric positive semidefinite kernel of finite numbers.
        precision: Relative precision of its entries.
    """
    return len(kernel) * precision * max(eigenvalues(kernel)[-1].item(), 0.0)


def condition_number(
    kernel: Float64[Tensor, "n n"], *, precision: float = SINGLE_PRECISION, floor: float = 0.0
) -> Score:
    r"""Return :math:`\lambda_\max / \lambda_\min` of a symmetric positive semidefinite kernel.

    Args:
        kernel: The kernel.
        precision: Relative precision of its entries.
        floor: Rounding floor of the kernel that this one was computed from, if that one is larger: differences of large
            numbers keep the rounding of the large numbers.

    Returns:
        The number; ``NON_FINITE`` if the kernel holds NaN or infinity; ``DEGENERATE`` if the smallest eigenvalue can't
        be told from zero, by the rule of :func:`rounding_floor` or by ``floor``.
    """
    if not bool(kernel.isfinite().all()):
        return Score(None, Outcome.NON_FINITE, "the kernel holds numbers that are not finite")
    spectrum = eigenvalues(kernel)
    smallest, largest = spectrum[0].item(), spectrum[-1].item()
    if largest <= 0:
        return Score(None, Outcome.DEGENERATE, "the kernel is zero: no output depends on any weight")
    limit = max(len(kernel) * precision * largest, floor)
    if smallest <= limit:
        return Score(
            None,
            Outcome.DEGENERATE,
            f"the kernel is singular: its smallest eigenvalue, {smallest:.1e}, is within the rounding error of "
            f"{limit:.1e} (the largest is {largest:.1e})",
        )
    return Score(largest / smallest)
