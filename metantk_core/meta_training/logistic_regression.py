r"""Logistic regression to the optimum, many episodes at once: features and labels enter, linear classifiers leave.

RFS (Tian et al. 2020) tells the classes of an episode apart by the minimum over :math:`W, b` of

.. math:: \sum_i -\log \mathrm{softmax}(W x_i + b)_{y_i} + \frac{1}{2C} \lVert W \rVert_F^2,

as scikit-learn's ``LogisticRegression`` states it for three classes or more (for two, too: a softmax over both). The
minimum is unique up to a shift of the intercepts; here they sum to 0. Solvers that stop early, as that class does by
default, give other logits and now and then another class.

Two facts make the exact minimum cheap. The rows of W lie in the span of an episode's support features, so an episode of
n images is a problem of n numbers a class, however wide the features are. And the rows of W sum to 0, as the intercepts
do, so k classes have k - 1 free rows: what is left has a positive definite Hessian, and Newton's method (its equations
solved by conjugate gradients) needs no more than a few steps.

Axes: e episodes, n support images, q queries, d features, k classes; r numbers that are left of d; m = k - 1 contrasts.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from metantk_core.errors import InputError

MOST_STEPS = 200
"""Newton's method needs about 5 steps for features of length 1; hundreds only where a minimum is next to infinity."""

_TOLERANCE = 1e-12  # largest entry of the gradient of the mean over the support images, for features up to 1
_SUFFICIENT = 1e-4  # Armijo's constant
_SHORTEST = 2.0**-40
_EPISODES = 16  # in memory at once


@dataclass(frozen=True, eq=False)
class LinearClassifiers:
    """One linear classifier an episode.

    Attributes:
        weights: Shape ``[e, k, d]``; over classes they sum to 0.
        intercepts: Shape ``[e, k]``; over classes they sum to 0.
        steps: Newton steps that each episode took, ``[e]``.
        gradient: Largest entry of the gradient of the mean objective, ``[e]``; not finite if features were not.
    """

    weights: Float64[Tensor, "e k d"]
    intercepts: Float64[Tensor, "e k"]
    steps: Int64[Tensor, " e"]
    gradient: Float64[Tensor, " e"]

    def logits(self, features: Float[Tensor, "e q d"]) -> Float64[Tensor, "e q k"]:
        """Return the logits of queries: a row of features that is not finite gives logits that are not."""
        return features.double() @ self.weights.mT + self.intercepts[:, None]


def fit_logistic_regression(
    features: Float[Tensor, "e n d"],
    labels: Int64[Tensor, "e n"],
    ways: int,
    *,
    inverse_regularisation: float = 1.0,
) -> LinearClassifiers:
    """Return the logistic regression of each episode, at the minimum of its objective.

    An episode's result doesn't depend on the others beside it, up to how products of matrices are rounded in batches of
    another size. Features that are not finite give weights that are not.

    Args:
        features: Features of the support images, as they are to be told apart (RFS: of length 1).
        labels: Their classes, 0 to ways - 1.
        ways: Number of classes k, at least 2.
        inverse_regularisation: scikit-learn's C, above 0: large values allow large weights.

    Raises:
        InputError: Labels, ways or the regularisation are none.
    """
    if ways < 2 or int(labels.min()) < 0 or int(labels.max()) >= ways:
        raise InputError(
            f"Expected at least 2 classes, labelled 0 to {ways - 1}, but the labels run from {int(labels.min())} to "
            f"{int(labels.max())}."
        )
    if not 0 < inverse_regularisation < float("inf"):
        raise InputError(f"Expected an inverse regularisation above 0, but got {inverse_regularisation}.")
    parts = [
        _fit(some.double(), their, ways, 1 / inverse_regularisation)
        for some, their in zip(features.split(_EPISODES), labels.split(_EPISODES), strict=True)
    ]
    return LinearClassifiers(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _fit(features: Tensor, labels: Tensor, ways: int, ridge: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return weights, intercepts, steps and gradients of episodes that fit into memory at once."""
    episodes, images, width = features.shape
    basis = torch.linalg.qr(features.mT).Q if images < width else None  # of the span, [e d r]
    reduced = features if basis is None else features @ basis
    design = torch.cat([reduced, torch.ones_like(reduced[..., :1])], dim=2)
    contrasts = _contrasts(ways).to(features)
    penalty = torch.full_like(design[0, 0], ridge)
    penalty[-1] = 0  # intercepts are free
    problem = _Problem(design, labels, contrasts, penalty)

    solution = torch.zeros(episodes, ways - 1, design.shape[2], dtype=torch.float64, device=features.device)
    objective, gradient = problem.objective(solution), problem.gradient(solution)
    steps = torch.zeros(episodes, dtype=torch.int64, device=features.device)
    # Rounding makes gradients no smaller than this; what is not finite is not active.
    tolerance = _TOLERANCE * images * _largest(reduced).clamp(min=1)
    active = _largest(gradient) > tolerance
    while active.any() and int(steps.max()) < MOST_STEPS:
        direction = problem.newton_direction(solution, gradient, active)
        proposed, reached, moved = problem.searched(solution, objective, gradient, direction, active)
        solution, objective = proposed, reached
        gradient = problem.gradient(solution)
        steps += moved
        # Where rounding lets no step improve any more, the minimum is reached.
        active = moved & (_largest(gradient) > tolerance)
    coefficients = torch.einsum("km,emr->ekr", contrasts, solution)
    weights, intercepts = coefficients[..., :-1], coefficients[..., -1]
    if basis is not None:
        weights = weights @ basis.mT
    broken = ~features.sum(dim=(1, 2)).isfinite()
    weights = torch.where(broken[:, None, None], torch.nan, weights)
    intercepts = torch.where(broken[:, None], torch.nan, intercepts)
    return weights, intercepts, steps, torch.where(broken, torch.nan, _largest(gradient) / images)


@dataclass(frozen=True, eq=False)
class _Problem:
    """The objective in coordinates in which nothing is left free: contrasts of the classes, the span of the images.

    Attributes:
        design: Reduced features and a 1 for the intercept, ``[e, n, r + 1]``.
        labels: ``[e, n]``.
        contrasts: Orthonormal columns that sum to 0, ``[k, m]``.
        penalty: Ridge of each column of the design, ``[r + 1]``.
    """

    design: Tensor
    labels: Tensor
    contrasts: Tensor
    penalty: Tensor

    def objective(self, solution: Tensor) -> Tensor:
        """Return the sum of cross-entropies and the penalty, ``[e]``."""
        losses = -self._log_probabilities(solution).gather(2, self.labels[..., None]).sum(dim=(1, 2))
        return losses + (self.penalty * solution.square()).sum(dim=(1, 2)) / 2

    def gradient(self, solution: Tensor) -> Tensor:
        """Return the gradient of the objective, ``[e, m, r + 1]``."""
        residuals = self._log_probabilities(solution).exp()
        residuals = residuals - torch.nn.functional.one_hot(self.labels, len(self.contrasts))
        return (residuals @ self.contrasts).mT @ self.design + self.penalty * solution

    def newton_direction(
        self, solution: Tensor, gradient: Tensor, active: Bool[Tensor, " e"]
    ) -> Float64[Tensor, "e m r1"]:
        """Return about minus the inverse Hessian times the gradient; a direction of descent wherever it ends.

        Conjugate gradients never form the Hessian. They start from the Hessian where all classes are equally likely,
        which is the same for all contrasts, and near enough for features of length 1 that about 5 products suffice.
        """
        probabilities = self._log_probabilities(solution).exp()
        size = gradient.square().sum(dim=(1, 2)).sqrt()
        enough = size * size.clamp(max=0.1)  # ever more exact towards the minimum: steps then converge quadratically
        direction = torch.zeros_like(gradient)
        residual = -gradient
        preconditioned = self._preconditioned(residual)
        conjugate = preconditioned
        product = (residual * preconditioned).sum(dim=(1, 2))
        going = active
        for _ in range(gradient[0].numel()):
            image = self._hessian_times(conjugate, probabilities)
            curvature = (conjugate * image).sum(dim=(1, 2))
            going = going & (curvature > 0)
            length = torch.where(going, product / curvature, 0)[:, None, None]
            direction = direction + length * conjugate
            residual = residual - length * image
            going = going & (residual.square().sum(dim=(1, 2)).sqrt() > enough)
            if not going.any():
                break
            preconditioned = self._preconditioned(residual)
            before, product = product, (residual * preconditioned).sum(dim=(1, 2))
            conjugate = preconditioned + (product / before)[:, None, None] * conjugate
        return direction

    def _hessian_times(self, direction: Tensor, probabilities: Tensor) -> Tensor:
        moved = (self.design @ direction.mT) @ self.contrasts.mT  # of the logits of each image
        moved = probabilities * (moved - (probabilities * moved).sum(dim=2, keepdim=True))
        return (moved @ self.contrasts).mT @ self.design + self.penalty * direction

    def _preconditioned(self, gradient: Tensor) -> Tensor:
        return torch.cholesky_solve(gradient.mT, self._factor).mT

    @cached_property
    def _factor(self) -> Tensor:
        """Cholesky factor of a contrast's Hessian where all classes are equally likely, ``[e, r + 1, r + 1]``."""
        hessian = self.design.mT @ self.design / len(self.contrasts) + self.penalty.diag()
        return torch.linalg.cholesky_ex(hessian).L  # never refuses: what is not finite stays so

    def searched(
        self, solution: Tensor, objective: Tensor, gradient: Tensor, direction: Tensor, active: Bool[Tensor, " e"]
    ) -> tuple[Tensor, Tensor, Bool[Tensor, " e"]]:
        """Return where halving the step first lowers the objective enough, its value, and which episodes moved."""
        slope = (gradient * direction).sum(dim=(1, 2))
        waiting = active & (slope < 0)
        moved = torch.zeros_like(active)
        step = torch.ones_like(objective)
        while waiting.any():
            proposed = solution + step[:, None, None] * direction
            reached = self.objective(proposed)
            # Next to the minimum the decrease is lost in rounding: there the full step is taken as it is.
            rounding = 4 * torch.finfo(torch.float64).eps * objective.abs()
            good = waiting & (reached <= objective + _SUFFICIENT * step * slope + rounding)
            solution = torch.where(good[:, None, None], proposed, solution)
            objective = torch.where(good, reached, objective)
            moved, waiting = moved | good, waiting & ~good
            step = torch.where(waiting, step / 2, step)
            waiting = waiting & (step > _SHORTEST)
        return solution, objective, moved

    def _log_probabilities(self, solution: Tensor) -> Tensor:
        return ((self.design @ solution.mT) @ self.contrasts.mT).log_softmax(dim=2)


def _contrasts(ways: int) -> Float64[Tensor, "k m"]:
    """Return k - 1 orthonormal directions in which entries sum to 0 (Helmert's)."""
    columns = torch.zeros(ways, ways - 1, dtype=torch.float64)
    for m in range(ways - 1):
        columns[: m + 1, m] = 1
        columns[m + 1, m] = -(m + 1)
    return columns / columns.norm(dim=0)


def _largest(gradient: Tensor) -> Tensor:
    return gradient.abs().amax(dim=(1, 2))
