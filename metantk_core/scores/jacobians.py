r"""Scores of the gradients by pixels: a network and images enter, how alike the gradients of two images are leaves.

Row i of J is the gradient of the sum of all logits of all images by the pixels of image i. Where images share the
moments of a batch, that includes what image i does to the others through them: the published codes compute it so, in
one backward of the batch, and one such pass serves both scores.

Axes: n images · p pixels of all channels of one image · m images of one class.
"""

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from metantk_core.arithmetic import exact_arithmetic
from metantk_core.scores.record import Outcome, Score

_K = 1e-5  # of both sources: keeps logarithms and inverses finite
_FEW_CLASSES = 100  # of EPE-NAS: up to here classes are added, beyond they are compared


def input_gradients(network: nn.Module, images: Float[Tensor, "n c h w"]) -> Float64[Tensor, "n p"]:
    """Return the gradient of the sum of all logits by the pixels of each image, on the CPU.

    Args:
        network: Maps images to logits. Published scores are those of a network with batch normalisation in training
            mode; see :func:`metantk_core.networks.batch_normalised`.
        images: One batch on the network's device, in its precision.
    """
    pixels = images.detach().clone().requires_grad_()
    with torch.enable_grad(), exact_arithmetic():
        total = network(pixels.clone()).sum()  # a clone, in case the first layer works in place
        if not total.requires_grad:
            return torch.zeros(len(images), images[0].numel(), dtype=torch.float64)
        (gradients,) = torch.autograd.grad(total, [pixels], materialize_grads=True)
    return gradients.flatten(1).double().cpu()


def jacob_cov(jacobian: Float64[Tensor, "n p"]) -> Score:
    r"""Return :math:`-\sum_i \big(\log(\sigma_i + k) + 1 / (\sigma_i + k)\big)`, with :math:`k = 10^{-5}`.

    σ are the eigenvalues of the matrix of correlations between the rows of J, each row less its mean. Large where the
    gradients of no two images are alike: :math:`-n` if none correlate, and below :math:`-10^5` if two are the same.

    Source: Mellor et al., 2020, first version (arXiv:2006.04647v1; the later ``naswot`` is another score of the same
    authors); Abdelfattah et al., ICLR 2021, as their code computes it.

    Args:
        jacobian: What :func:`input_gradients` gives.

    Returns:
        The number; ``DEGENERATE`` if the gradient of some image is the same at all pixels.
    """
    correlations = _correlations(jacobian)
    if isinstance(correlations, Score):
        return correlations
    shifted = torch.linalg.eigvalsh(correlations).clamp_min(0) + _K
    return Score(-float((shifted.log() + 1 / shifted).sum()))


def epe_nas(jacobian: Float64[Tensor, "n p"], classes: Int64[Tensor, " n"]) -> Score:
    r"""Return :math:`\sum_c |e_c|`, with :math:`e_c = \sum_{ij} \log(|\rho^c_{ij}| + k)`, :math:`k = 10^{-5}`.

    :math:`\rho^c` are the correlations between the rows of J that belong to images of class c. Large where the
    gradients of images of one class are unlike each other. With more than 100 classes it is
    :math:`\frac1C \sum_{cd} |e_c - e_d|` instead, and :math:`e_c` is divided by the number of images of the class; the
    divisors are those of the published code. A class of a single image adds next to nothing.

    Source: Lopes, Alirezazadeh, Alexandre, ICANN 2021 (EPE-NAS).

    Args:
        jacobian: What :func:`input_gradients` gives.
        classes: Number of each image's class; equal numbers are equal classes.

    Returns:
        The number; ``DEGENERATE`` if the gradient of some image is the same at all pixels.
    """
    sums, sizes = [], []
    for number in classes.unique():
        correlations = _correlations(jacobian[classes == number])
        if isinstance(correlations, Score):
            return correlations
        sums.append((correlations.abs() + _K).log().sum())
        sizes.append(len(correlations))
    found = torch.stack(sums)
    if len(found) <= _FEW_CLASSES:
        return Score(float(found.abs().sum()))
    found = found / torch.tensor(sizes)
    return Score(float((found[:, None] - found[None, :]).abs().sum()) / len(found))


def _correlations(rows: Float64[Tensor, "m p"]) -> Float64[Tensor, "m m"] | Score:
    """Return Pearson's correlations between rows, or the outcome that says why there are none."""
    if not bool(rows.isfinite().all()):
        return Score(None, Outcome.NON_FINITE, "gradients by the pixels of some image are not finite")
    centred = rows - rows.mean(dim=1, keepdim=True)
    lengths = centred.norm(dim=1)
    flat = int((lengths <= rows.shape[1] * torch.finfo(rows.dtype).eps * rows.abs().amax(dim=1)).sum())
    if flat:
        return Score(None, Outcome.DEGENERATE, f"the gradient by the pixels of {flat} images is the same at all pixels")
    directions = centred / lengths[:, None]
    return directions @ directions.mT
