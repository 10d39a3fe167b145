r"""Kernel regression: a MetaNTK, inner-loop maps and targets enter, predictions on episodes held out leave.

Source: Wang, Wang, Sun, Li, "Global Convergence of MAML and Theory-Inspired Neural Architecture Search for Few-Shot
Learning", CVPR 2022, Theorem 1.

Axes: t tasks, h of them held out · q, s query and support images of one task · tq those of all tasks · k outputs.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from metantk_core.kernels.rounding import DOUBLE_PRECISION, rounding_noise


def centred_targets(labels: Int64[Tensor, "*any"], ways: int) -> Float64[Tensor, "*any k"]:
    """Return one-hot targets minus their mean: ``1 - 1/ways`` for the class, ``-1/ways`` for the others.

    Args:
        labels: 0 to ``ways - 1``.
        ways: Number of classes.
    """
    return torch.nn.functional.one_hot(labels, ways).double() - 1 / ways


def held_out_predictions(
    meta_kernel: Float64[Tensor, "tq tq"],
    adapted: Float64[Tensor, "t q s"],
    support_targets: Float64[Tensor, "t s k"],
    query_targets: Float64[Tensor, "t q k"],
    *,
    held_out: Sequence[int],
    floor: float = 0.0,
    precision: float = DOUBLE_PRECISION,
) -> Float64[Tensor, "h q k"]:
    r"""Return what a network meta-trained from zero output on some tasks predicts on the others, after adapting.

    .. math::
        \hat Y_h = G_h + \Phi_{h,\mathrm{train}} \Phi_{\mathrm{train},\mathrm{train}}^{-1}
        (Y_\mathrm{train} - G_\mathrm{train}), \qquad G_i = S_i Y'_i.

    G is what the inner loop alone learns from the support labels Y'. The outputs do not interact: the pseudo-NTK gives
    all of them one kernel, so each column of the targets is a regression of its own. The inverse is the
    pseudo-inverse, which is where gradient descent from zero ends: in a direction in which no training query moves,
    nothing is learned.

    Args:
        meta_kernel: The MetaNTK Φ over the query images of all tasks, task by task.
        adapted: The map S of each task's inner loop, as ``adaptation`` gives it.
        support_targets: Targets Y' of the support images.
        query_targets: Targets Y of the query images; those of the tasks held out are not used.
        held_out: Numbers of the tasks to predict; all others are trained on.
        floor: Eigenvalues of the training block up to this one count as zero, beside the rule of ``precision``.
        precision: Relative precision of the gradients behind ``meta_kernel``; eigenvalues within its rounding count as
            zero.

    Raises:
        ValueError: No task is held out, or none is left to train on.
    """
    tasks, queries, _ = adapted.shape
    train = [task for task in range(tasks) if task not in held_out]
    if not train or not held_out:
        raise ValueError(f"expected some of the {tasks} tasks to be held out and some not, got held_out={held_out}")
    from_support = adapted @ support_targets
    blocks = meta_kernel.unflatten(0, (tasks, queries)).unflatten(2, (tasks, queries))
    inside = blocks[train][:, :, train].flatten(2, 3).flatten(0, 1)
    across = blocks[list(held_out)][:, :, train].flatten(2, 3).flatten(0, 1)
    residual = (query_targets - from_support)[train].flatten(0, 1)
    spectrum, basis = torch.linalg.eigh(inside)
    noise = rounding_noise(len(inside), precision) * max(inside.diagonal().max().item(), 0.0)
    moves = spectrum > max(noise, floor)
    inverse = torch.where(moves, 1 / torch.where(moves, spectrum, 1.0), 0.0)
    learned = across @ (basis @ (inverse[:, None] * (basis.mT @ residual)))
    return from_support[list(held_out)] + learned.unflatten(0, (len(held_out), queries))
