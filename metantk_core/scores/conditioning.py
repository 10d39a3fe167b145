"""How even a spectrum is: a symmetric kernel enters, a number that grows with unevenness or why there is none leaves.

Three numbers of one meaning, all unchanged when the kernel is scaled. The condition number looks at the two ends of the
spectrum alone; the ratios of means look at all of it.

Axes: n images.
"""

import math

from jaxtyping import Float64
from torch import Tensor

from metantk_core.kernels import SINGLE_PRECISION, eigenvalues, rounding_floor
from metantk_core.scores.record import Outcome, Score


def condition_number(
    kernel: Float64[Tensor, "n n"], *, precision: float = SINGLE_PRECISION, floor: float = 0.0
) -> Score:
    r"""Return :math:`\lambda_\max / \lambda_\min` of a symmetric positive semidefinite kernel.

    Args:
        kernel: The kernel.
        precision: Relative precision of the gradients behind it.
        floor: Rounding floor that it has from the kernel that it was computed from, if that one is larger: differences
            of large numbers keep the rounding of the large numbers.

    Returns:
        The number; ``NON_FINITE`` if the kernel holds NaN or infinity; ``DEGENERATE`` if the smallest eigenvalue is
        below :func:`metantk_core.kernels.rounding_floor` or ``floor``, so that rounding may be more than 1 % of it.
    """
    spectrum = _resolved(kernel, precision, floor)
    return spectrum if isinstance(spectrum, Score) else Score((spectrum[-1] / spectrum[0]).item())


def log_determinant(
    kernel: Float64[Tensor, "n n"], *, precision: float = SINGLE_PRECISION, floor: float = 0.0
) -> Score:
    r"""Return :math:`\log(\bar\lambda / \tilde\lambda)`, the arithmetic mean of the eigenvalues over the geometric one.

    .. math:: \log \frac{\operatorname{tr} \Phi}{n} - \frac{1}{n} \log \det \Phi,

    which is 0 if all eigenvalues are equal. It is 2/n times the divergence (Kullback–Leibler, in nats) of the normal
    distribution of covariance Φ from the spherical one of the same total variance, and :math:`-\frac{1}{n} \log W` of
    the sphericity statistic W (Mauchly, "Significance test for sphericity of a normal n-variate distribution", 1940).

    Args:
        kernel: As for :func:`condition_number`.
        precision: As for :func:`condition_number`.
        floor: As for :func:`condition_number`.

    Returns:
        The number, or none for the same reasons as :func:`condition_number`.
    """
    spectrum = _resolved(kernel, precision, floor)
    if isinstance(spectrum, Score):
        return spectrum
    return Score(math.log(spectrum.mean().item()) - spectrum.log().mean().item())


def trace_ratio(kernel: Float64[Tensor, "n n"], *, precision: float = SINGLE_PRECISION, floor: float = 0.0) -> Score:
    r"""Return :math:`\operatorname{tr} \Phi \, \operatorname{tr} \Phi^{-1} / n^2`, at least 1.

    This is the arithmetic mean of the eigenvalues over their harmonic mean: how much longer the directions of the
    kernel take to learn on average than if all had the mean speed.

    Args:
        kernel: As for :func:`condition_number`.
        precision: As for :func:`condition_number`.
        floor: As for :func:`condition_number`.

    Returns:
        The number, or none for the same reasons as :func:`condition_number`.
    """
    spectrum = _resolved(kernel, precision, floor)
    return spectrum if isinstance(spectrum, Score) else Score((spectrum.mean() * (1 / spectrum).mean()).item())


def _resolved(kernel: Float64[Tensor, "n n"], precision: float, floor: float) -> Float64[Tensor, " n"] | Score:
    """Return the eigenvalues if all of them can be told from zero, otherwise the outcome that says why not."""
    if not bool(kernel.isfinite().all()):
        return Score(None, Outcome.NON_FINITE, "the kernel holds numbers that are not finite")
    spectrum = eigenvalues(kernel)
    smallest, largest = spectrum[0].item(), spectrum[-1].item()
    if largest <= 0:
        return Score(None, Outcome.DEGENERATE, "the kernel is zero: no output depends on any weight")
    limit = max(rounding_floor(kernel, precision=precision), floor)
    if smallest <= limit:
        return Score(
            None,
            Outcome.DEGENERATE,
            f"the kernel is singular: its smallest eigenvalue, {smallest:.1e}, is lost in rounding, which leaves those "
            f"from {limit:.1e} on (the largest is {largest:.1e})",
        )
    return spectrum
