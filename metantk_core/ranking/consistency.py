"""How far means repeat themselves: a matrix of draws enters, the reliability of its rows' means leaves.

Axes: n candidates · k draws, which all candidates share.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from pydantic import ConfigDict

from metantk_core.statistics import fisher_quantile


@dataclass(frozen=True)
class Reliability:
    """How much of the differences between candidates is there again when everything is drawn anew.

    Attributes:
        icc: ICC(C,k), the consistency of a mean over ``draws`` draws: 1 is an order without noise, 0 or less is
            nothing but noise.
        low: Lower end of its 95 % interval.
        high: Upper end.
        single: ICC(C,1), the same for one draw alone.
        candidates: Candidates compared, failed ones left out.
        draws: Draws of each.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    icc: float
    low: float
    high: float
    single: float
    candidates: int
    draws: int


def reliability(draws: Float64[np.ndarray, "n k"]) -> Reliability | None:
    r"""Return the reliability of the means of rows, with columns as draws that all rows share.

    Two-way analysis of variance, consistency definition: what a draw adds to all candidates alike does not count. With
    mean squares between rows and of the residual,

    .. math:: ICC(C,k) = (MS_R - MS_E) / MS_R, \qquad ICC(C,1) = (MS_R - MS_E) / (MS_R + (k - 1) MS_E),

    and the interval from :math:`F = MS_R / MS_E` with :math:`n - 1` and :math:`(n - 1)(k - 1)` degrees of freedom.

    Source: McGraw & Wong, "Forming inferences about some intraclass correlation coefficients", 1996, Tables 4 and 7;
    the same numbers as ICC(3,k) and ICC(3,1) of Shrout & Fleiss 1979.

    Args:
        draws: Scores on the scale on which they are averaged.

    Returns:
        None if it is undefined: fewer than two rows or columns, or rows whose means are all equal.
    """
    n, k = draws.shape
    if n < 2 or k < 2:
        return None
    rows = draws.mean(axis=1) - draws.mean()
    residual = draws - draws.mean(axis=1, keepdims=True) - draws.mean(axis=0) + draws.mean()
    freedom = (n - 1) * (k - 1)
    between, within = float(k * (rows**2).sum() / (n - 1)), float((residual**2).sum() / freedom)
    if between <= np.finfo(float).eps * float((draws**2).mean()):
        return None
    ratio = within / between
    low = 1 - ratio * fisher_quantile(0.975, n - 1, freedom)
    high = 1 - ratio / fisher_quantile(0.975, freedom, n - 1)
    return Reliability(1 - ratio, low, high, (1 - ratio) / (1 + (k - 1) * ratio), n, k)


def draws_needed(reliability_single: float, target: float) -> int:
    r"""Return the least number of draws whose mean is expected to be as reliable as wanted.

    The mean of k draws has the reliability :math:`k r / (1 + (k - 1) r)`, r being that of one; solved for k.

    Source: Spearman, "Correlation calculated from faulty data", and Brown, "Some experimental results in the
    correlation of mental abilities", both British Journal of Psychology 3, 1910.

    Args:
        reliability_single: Reliability of one draw, such as ``Reliability.single``.
        target: Reliability that is wanted, above 0 and below 1.

    Raises:
        ValueError: The target is out of range, or one draw has no reliability at all (0 or less, as happens where there
            is nothing but noise): then no number of draws is enough.
    """
    if not 0 < target < 1:
        raise ValueError(f"a target for the reliability lies between 0 and 1, got {target:g}")
    if not reliability_single > 0:
        raise ValueError(f"no number of draws is enough if the reliability of one is {reliability_single:g}")
    if reliability_single >= 1:
        return 1
    exact = target * (1 - reliability_single) / (reliability_single * (1 - target))
    return max(1, math.ceil(exact * (1 - 1e-12)))  # a rounding must not cost a draw
