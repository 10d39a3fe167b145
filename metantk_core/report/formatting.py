"""Numbers for people: plain numbers enter, short texts with digits that the numbers can bear leave."""

import math

from metantk_core.statistics import telling_half_width


def with_error(mean: float | None, standard_error: float | None) -> str:
    """Return ``mean ± standard error``, both with the decimals that give the error two significant digits.

    Args:
        mean: The estimate, or None if there is none.
        standard_error: Its standard error, in the same unit, or None if there was one draw only.

    Returns:
        Such as ``"3.142 ± 0.083"``; the mean alone without a standard error, and a dash without a mean.
    """
    if mean is None or not math.isfinite(mean):
        return "–"
    if standard_error is None or not math.isfinite(standard_error) or standard_error <= 0:
        return significant(mean)
    decimals = _decimals(standard_error)
    return f"{fixed(mean, decimals)} ± {fixed(standard_error, decimals)}"


def fixed(value: float, decimals: int) -> str:
    """Return a number with so many decimals (at least none), a real minus sign, and no minus zero."""
    text = f"{value:.{max(0, min(decimals, 9))}f}"
    if text.startswith("-") and not text.strip("-0."):
        text = text[1:]
    return text.replace("-", "−")


def significant(value: float, digits: int = 4) -> str:
    """Return a number with so many significant digits, as a power of ten where it is very large or small."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    exponent = math.floor(math.log10(abs(value)))
    if -4 <= exponent < 7:
        return fixed(value, max(0, digits - 1 - exponent))
    return f"{fixed(value / 10**exponent, digits - 2)} · {power_of_ten(exponent)}"


def power_of_ten(exponent: int) -> str:
    """Return a power of ten in superscript digits, such as ``10⁻³``."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def count(value: float | int | None) -> str:
    """Return a number of things with three digits and a suffix: ``940``, ``12.3 k``, ``1.35 M``, ``2.10 G``."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    for factor, suffix in ((1.0, ""), (1e3, " k"), (1e6, " M"), (1e9, " G"), (1e12, " T")):
        scaled = size / factor
        decimals = 0 if factor == 1.0 else max(0, 2 - math.floor(math.log10(max(scaled, 1.0))))
        # What rounds up to 1000 belongs to the next suffix.
        if round(scaled, decimals) < 1000 or suffix == " T":
            break
    # A number of things below a thousand is whole; anything else (a mean) keeps one decimal.
    if factor == 1.0 and size != int(size):
        decimals = 1
    return ("−" if value < 0 else "") + f"{scaled:.{decimals}f}{suffix}"


def percent(share: float) -> str:
    """Return a share as per cent with one decimal, such as ``"61.4 %"`` for 0.614."""
    return f"{fixed(100 * share, 1)} %"


def percent_with_interval(share: float, half_width: float | None) -> str:
    """Return a share and the half width of its interval as per cent, such as ``"61.4 ± 0.8 %"``.

    Without an interval, or with one that says nothing (``statistics.telling_half_width``), it is the share alone.
    """
    telling = None if half_width is None else telling_half_width(half_width)
    if telling is None:
        return percent(share)
    return f"{fixed(100 * share, 1)} ± {fixed(100 * telling, 1)} %"


def points(difference: float) -> str:
    """Return a difference of shares as percentage points with a sign, such as ``"+2.4"`` for 0.024."""
    text = fixed(100 * difference, 1)
    return text if text.startswith("−") or not text.strip("0.") else f"+{text}"


def points_with_interval(difference: float, half_width: float) -> str:
    """Return a difference of shares and the half width of its interval as points, such as ``"+2.4 ± 0.8"``.

    An interval that is wider than from -100 to 100 points, between which every difference of shares lies, is left out.
    """
    return f"{points(difference)} ± {fixed(100 * half_width, 1)}" if half_width <= 1 else points(difference)


def _decimals(error: float) -> int:
    """Return the decimals that show two significant digits of an error (after rounding: 0.0996 is 0.10, not 0.100)."""
    exponent = math.floor(math.log10(error))
    if round(error / 10.0 ** (exponent - 1)) >= 100:
        exponent += 1
    return max(0, 1 - exponent)
