"""A rank of ``rdmatrain bench`` whose operations take longer: what compare must find.

Started like ``python -m rdmatrain.bench.rank BACKEND``; RDMATRAIN_SLOWER says how many times as
long a call takes: what is more than the call itself, the rank spends busy.
"""

import os
import sys
import time
from dataclasses import replace

from rdmatrain.bench import rank, torch_ops
from rdmatrain.bench.model import Case

VARIABLE = "RDMATRAIN_SLOWER"


def make(case: Case, place: torch_ops.Place) -> torch_ops.Made:
    """Make a case whose call takes longer."""
    made = fast(case, place)
    extra, clock, call = float(os.environ[VARIABLE]) - 1, time.perf_counter, made.call

    def slow() -> None:
        began = clock()
        call()
        ended = clock()
        until = ended + extra * (ended - began)
        while clock() < until:
            pass

    return replace(made, call=slow)


if __name__ == "__main__":
    fast, torch_ops.make = torch_ops.make, make
    sys.exit(rank.main())
