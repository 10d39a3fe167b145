r"""The MetaNTK: kernels of the network and of the inner loop enter, the kernel of meta-learning leaves.

Source: Wang, Wang, Sun, Li, "Global Convergence of MAML and Theory-Inspired Neural Architecture Search for Few-Shot
Learning", CVPR 2022, Theorem 1.

Axes: t tasks · q, s query and support images of one task · tq those of all tasks · n all images.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from metantk_core.kernels.blocks import KernelBlocks
from metantk_core.kernels.rounding import DOUBLE_PRECISION, TOLERANCE, rounding_noise


def adaptation(
    kernel: KernelBlocks, *, time: float, ridge: float, steps: int | None = None, precision: float = DOUBLE_PRECISION
) -> Float64[Tensor, "t q s"]:
    r"""Return the map from support residuals to query predictions after adapting.

    .. math:: S_i = K_{qs} (K_{ss} + \lambda I)^{-1} (I - e^{-\tau K_{ss}})

    after gradient flow on half the summed squared error; after k steps of gradient descent, each of size τ/k, the
    exponential is :math:`(I - \tfrac{\tau}{k} K_{ss})^k`, which grows instead of falling where τ/k is too large.

    An eigenvalue of :math:`K_{ss}` that is zero, or that rounding can't tell from zero, is a direction in which no step
    moves the support images. It does not move the query images either (:math:`K_{qs} v = 0`, as the kernel is positive
    semidefinite), so the map is zero there at every τ and λ; a division by λ would only amplify the rounding of
    :math:`K_{qs} v`.

    Args:
        kernel: Kernel that drives the inner loop: the NTK for MAML, the NNGP for ANIL.
        time: Inner learning rate times inner steps, at least 0; may be infinite, which drops the exponential.
        ridge: Regularisation, at least 0.
        steps: Number of gradient-descent steps, at least 1; None is gradient flow, which more and more steps approach.
        precision: Relative precision of the gradients behind the kernel; eigenvalues within its rounding count as zero.

    Returns:
        One map per task; NaN if the kernel holds numbers that are not finite.

    Raises:
        ValueError: ``time`` or ``ridge`` is negative, ``steps`` is below 1, or ``time`` is infinite in finitely many
            steps.
    """
    if not (time >= 0 and ridge >= 0):
        raise ValueError(f"expected an inner-loop time and a ridge of at least 0, got time={time} and ridge={ridge}")
    if steps is not None and not (steps >= 1 and math.isfinite(time)):
        raise ValueError(f"expected at least 1 step and a finite time to divide, got steps={steps} and time={time}")
    query_support, support_support = kernel.within_task
    if not bool(support_support.isfinite().all()):
        return torch.full_like(query_support, torch.nan)
    spectrum, basis = torch.linalg.eigh(support_support)
    adapts = spectrum > _noise(support_support, precision)
    positive = torch.where(adapts, spectrum, 1.0)  # keeps 0/0 and 0·∞ out of the line below
    gain = torch.where(adapts, _learnt(positive, time, steps) / (positive + ridge), 0.0)
    return query_support @ (basis * gain[:, None, :]) @ basis.mT


def inner_loop_is_known(kernel: KernelBlocks, *, ridge: float, precision: float) -> bool:
    """Return whether rounding leaves the map of :func:`adaptation` right to about 1 %.

    It does where every direction's eigenvalue is known within 1 %, or a ridge keeps what is not known small.

    Args:
        kernel: Kernel that drives the inner loop.
        ridge: Regularisation, at least 0.
        precision: Relative precision of the gradients behind the kernel.
    """
    _, support_support = kernel.within_task
    if not bool(support_support.isfinite().all()):
        return True  # nothing that more digits would tell
    spectrum = torch.linalg.eigvalsh(support_support)
    return bool((spectrum + ridge > _noise(support_support, precision) / TOLERANCE).all())


def adapted_lengths(ntk: KernelBlocks, adapted: Float64[Tensor, "t q s"]) -> Float64[Tensor, " tq"]:
    r"""Return :math:`\sum_j A_{ij}^2 \Theta_{jj}` with :math:`A = [I, -S]`, which sizes the MetaNTK's rounding.

    They are the squared gradient lengths of the adapted predictions if no image's gradient were to cancel another's.

    Args:
        ntk: Kernel Θ of the whole network.
        adapted: The map S of each task's inner loop.
    """
    supports = ntk.support_support.diagonal().unflatten(0, (ntk.tasks, -1))
    return ntk.query_query.diagonal() + (adapted.square() @ supports[:, :, None]).flatten()


def _noise(support_support: Float64[Tensor, "t s s"], precision: float) -> Float64[Tensor, "t 1"]:
    longest = support_support.diagonal(dim1=1, dim2=2).amax(dim=1, keepdim=True).clamp_min(0)
    return rounding_noise(support_support.shape[-1], precision) * longest


def _learnt(rates: Float64[Tensor, "t s"], time: float, steps: int | None) -> Float64[Tensor, "t s"]:
    """Return the share of each eigendirection's residual that the inner loop removes, exact for slow directions too."""
    if steps is None:
        return -torch.expm1(-time * rates)
    step = time / steps * rates
    slow = -torch.expm1(steps * torch.log1p(-step.clamp_max(0.5)))
    return torch.where(step < 0.5, slow, 1 - (1 - step) ** steps)


def meta_ntk(
    ntk: KernelBlocks,
    inner: KernelBlocks,
    *,
    time: float,
    ridge: float,
    steps: int | None = None,
    precision: float = DOUBLE_PRECISION,
) -> Float64[Tensor, "tq tq"]:
    r"""Return the MetaNTK over the query images of all tasks.

    With :math:`A = [I, -S]` it is the congruence :math:`\Phi = A \Theta A^\top`: the Gram matrix of the derivatives of
    the adapted predictions by the initial parameters, hence symmetric and positive semidefinite.

    Args:
        ntk: Kernel Θ of the whole network.
        inner: Kernel of the inner loop, of the same batch: ``ntk`` itself for MAML, the NNGP for ANIL.
        time: Inner learning rate times inner steps, at least 0; may be infinite.
        ridge: Regularisation of the inner loop, at least 0.
        steps: Number of gradient-descent steps of the inner loop, at least 1; None is gradient flow.
        precision: Relative precision of the entries of ``inner``; see :func:`adaptation`.

    Returns:
        Kernel over all query images, task by task.
    """
    adapted = torch.block_diag(*adaptation(inner, time=time, ridge=ridge, steps=steps, precision=precision))
    congruence = torch.cat([torch.eye(len(adapted), dtype=torch.float64), -adapted], dim=1)
    kernel = congruence @ ntk.full @ congruence.mT
    return (kernel + kernel.mT) / 2
