"""Scores of one kernel: its size, the spread of its spectrum, its likeness to the labels; a float each leaves.

What a score can't be computed from (a kernel of zeros) gives NaN or minus infinity here; the caller turns that into an
outcome with a reason.

Axes: n images.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from metantk_core.kernels import eigenvalues


def spectral_entropy(kernel: Float64[Tensor, "n n"]) -> float:
    r"""Return :math:`-\sum_k p_k \log p_k` with :math:`p_k = \lambda_k / \sum \lambda`, in nats, at most log n.

    Source: Kang et al., ICML 2025 (IBFS), equations 9 and 10.

    Args:
        kernel: Symmetric positive semidefinite kernel, not zero. Eigenvalues that rounding made negative count as zero.
    """
    spectrum = eigenvalues(kernel).clamp_min(0)
    return float(torch.special.entr(spectrum / spectrum.sum()).sum())


def same_class(classes: Int64[Tensor, " n"]) -> Float64[Tensor, "n n"]:
    """Return +1 for two images of the same class and -1 for two of different classes.

    Args:
        classes: Number of each image's class; equal numbers are equal classes.
    """
    return torch.where(classes[:, None] == classes[None, :], 1.0, -1.0).double()


def kernel_target_alignment(kernel: Float64[Tensor, "n n"], target: Float64[Tensor, "n n"]) -> float:
    r"""Return the cosine :math:`\langle \Theta, L \rangle_F / (\|\Theta\|_F \|L\|_F)`; NaN if one of them is zero.

    Source: Cristianini et al., NIPS 2001.

    Args:
        kernel: The kernel Θ.
        target: The kernel L that labels would have, as :func:`same_class` gives it.
    """
    return float((kernel * target).sum() / (kernel.norm() * target.norm()))


def label_gradient_alignment(kernel: Float64[Tensor, "n n"], target: Float64[Tensor, "n n"]) -> float:
    """Return the cosine of both matrices after each lost the mean of its entries; NaN if one of them is constant.

    Source: Mok et al., CVPR 2022 (LGA).

    Args:
        kernel: The kernel Θ.
        target: The kernel L that labels would have, as :func:`same_class` gives it.
    """
    return kernel_target_alignment(kernel - kernel.mean(), target - target.mean())
