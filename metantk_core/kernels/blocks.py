"""The order of a batch and of its kernel: images of episodes or a matrix enter, a batch or blocks leave.

Axes: n images of the batch · t tasks · q, s query and support images of one task · tq, ts those of all tasks ·
c h w one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class KernelBlocks:
    """Three blocks of one symmetric positive semidefinite kernel over the query and support images of several tasks.

    Attributes:
        query_query: Kernel between query images, task by task.
        query_support: Kernel between query images (rows) and support images (columns), task by task.
        support_support: Kernel between support images, task by task.
        tasks: Number of tasks; every task has the same number of query and of support images.
    """

    query_query: Float64[Tensor, "tq tq"]
    query_support: Float64[Tensor, "tq ts"]
    support_support: Float64[Tensor, "ts ts"]
    tasks: int

    @property
    def full(self) -> Float64[Tensor, "n n"]:
        """Return the whole matrix: all query images, then all support images."""
        top = torch.cat([self.query_query, self.query_support], dim=1)
        bottom = torch.cat([self.query_support.mT, self.support_support], dim=1)
        return torch.cat([top, bottom])

    @property
    def within_task(self) -> tuple[Float64[Tensor, "t q s"], Float64[Tensor, "t s s"]]:
        """Return the query–support and the support–support blocks of each task with itself."""
        return _diagonal_blocks(self.query_support, self.tasks), _diagonal_blocks(self.support_support, self.tasks)


def _diagonal_blocks(matrix: Float64[Tensor, "tr tc"], tasks: int) -> Float64[Tensor, "t r c"]:
    by_task = matrix.unflatten(0, (tasks, -1)).unflatten(2, (tasks, -1))
    return by_task.diagonal(dim1=0, dim2=2).movedim(-1, 0)


def batch(
    queries: Sequence[Float[Tensor, "q c h w"]], supports: Sequence[Float[Tensor, "s c h w"]]
) -> Float[Tensor, "n c h w"]:
    """Return the images of several tasks in the order of a kernel's rows: all queries, then all supports.

    Args:
        queries: Query images, one tensor a task.
        supports: Support images, one tensor a task.
    """
    return torch.cat([*queries, *supports])


def split(kernel: Float64[Tensor, "n n"], *, tasks: int, queries: int, supports: int) -> KernelBlocks:
    """Return the blocks of a kernel over a batch in the order of :func:`batch`.

    Args:
        kernel: Kernel over all images.
        tasks: Number of tasks.
        queries: Query images of one task, over all its classes.
        supports: Support images of one task, over all its classes.

    Raises:
        ValueError: The kernel does not have ``tasks · (queries + supports)`` rows.
    """
    if len(kernel) != tasks * (queries + supports):
        raise ValueError(
            f"expected a kernel of {tasks} tasks × ({queries} query + {supports} support) = "
            f"{tasks * (queries + supports)} images, got {len(kernel)} rows"
        )
    border = tasks * queries
    return KernelBlocks(kernel[:border, :border], kernel[:border, border:], kernel[border:, border:], tasks)


def eigenvalues(kernel: Float64[Tensor, "n n"]) -> Float64[Tensor, " n"]:
    """Return the eigenvalues of a symmetric kernel, smallest first; rounding may make the smallest slightly negative.

    Args:
        kernel: Symmetric kernel of finite numbers.
    """
    return torch.linalg.eigvalsh(kernel)
