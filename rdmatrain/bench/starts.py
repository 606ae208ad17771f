"""How much slower one build is than another, where both were started many times, in turns.

Where memory lies and how the CPUs run differs from start to start, and no number of rounds within
a start shows it; many starts do (Mytkowicz et al., Producing wrong data without doing anything
obviously wrong, ASPLOS 2009; Georges et al., Statistically rigorous Java performance evaluation,
OOPSLA 2007). So the start is the unit here, and nothing is assumed of how much starts differ: of
each, a case's fastest round counts, and the n-th start of one build is compared with the n-th of
the other, beside it in time, so that what the machine does slowly hits both. Of the n differences
an eighth is cut off at each end, for starts that something else disturbed (the trimmed mean and
its t: Tukey and McLaughlin 1963; Yuen 1974).
"""

import numpy as np
import numpy.typing as npt

from rdmatrain.bench.change import Change, Changes

MIN_STARTS, GOOD_STARTS = 8, 24
TRIM = 8  # one of so many differences is cut off at each end
EPSILON = 1e-12  # of a variance: that of rounding

Array = npt.NDArray[np.float64]


def estimate(a: Array, b: Array) -> Changes:
    """Return the change of a group of cases, and of each of them.

    Args:
        a: logarithms of the seconds of the fastest rounds, cases x starts.
        b: of the other build, as many; its n-th start was beside the n-th of ``a``.

    """
    differences = b - a
    # Of a start, the median case: one that is odd in it does not count.
    group = _change(np.median(differences, axis=0))
    return Changes(group, [_change(case) for case in differences], crowd=0.0)


def _change(differences: Array) -> Change:
    """Return the trimmed mean, with its variance and degrees of freedom."""
    ordered = np.sort(differences)
    num = len(ordered)
    cut = num // TRIM
    kept = ordered[cut : num - cut]
    winsorized = np.clip(ordered, kept[0], kept[-1])
    spread = float(np.var(winsorized, ddof=1)) * (num - 1)
    left = len(kept)
    variance = max(spread / (left * (left - 1)), EPSILON)
    return Change(float(kept.mean()), variance, float(left - 1))
