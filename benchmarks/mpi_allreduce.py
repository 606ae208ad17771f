"""One rank of an MPI job: times mpi4py's ``Allreduce(IN_PLACE)``; rank 0 prints JSON lines.

Runs in a peer's environment, which ``rdmatrain bench peers`` makes. Usage:
mpi_allreduce.py BUDGET CASE...
"""

import json
import os
import sys

from common import Case, p50_seconds, pin

# Before MPI starts, which reads the affinity and may start threads.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")
pin(int(next(os.environ[name] for name in RANK_VARIABLES if name in os.environ)))

import numpy as np  # noqa: E402
from mpi4py import MPI  # noqa: E402

COMM = MPI.COMM_WORLD


def main() -> int:
    """Check and time every case; the first wrong sum ends the job."""
    budget, cases = float(sys.argv[1]), [Case.parse(text) for text in sys.argv[2:]]
    for case in cases:
        seconds = time_case(case, budget)
        if COMM.Get_rank() == 0:
            print(json.dumps(case._asdict() | {"seconds_p50": seconds}), flush=True)
    return 0


def time_case(case: Case, budget: float) -> float:
    """Return the median seconds of one call of the slowest rank."""
    rank, world = COMM.Get_rank(), COMM.Get_size()
    index = np.arange(case.nbytes // 4, dtype=np.float32) % 1021
    buffer = index + np.float32(3 * rank)
    COMM.Allreduce(MPI.IN_PLACE, buffer)
    if (buffer != world * index + 3 * world * (world - 1) // 2).any():
        print(f"rank {rank}: wrong sum, {case}", file=sys.stderr, flush=True)
        COMM.Abort(1)
    buffer.fill(0)  # repeated sums would overflow
    return p50_seconds(
        lambda: COMM.Allreduce(MPI.IN_PLACE, buffer),
        COMM.Barrier,
        lambda value: COMM.allreduce(value, op=MPI.MAX),
        budget,
    )


if __name__ == "__main__":
    sys.exit(main())
