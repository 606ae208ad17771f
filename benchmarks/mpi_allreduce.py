"""One rank of an MPI job: times mpi4py's ``Allreduce(IN_PLACE)`` and prints JSON lines on rank 0.

Runs in a peer's environment, which ``peers.py`` makes; usage: mpi_allreduce.py BUDGET CASE...
"""

import json
import os
import sys

from common import Case, p50_seconds, pin

RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK")


def main() -> int:
    """Check and time every case; fail on the first wrong sum."""
    # Before MPI starts, which may read the affinity and start threads.
    pin(int(next(os.environ[name] for name in RANK_VARIABLES if name in os.environ)))
    import numpy as np  # noqa: PLC0415
    from mpi4py import MPI  # noqa: PLC0415

    comm = MPI.COMM_WORLD
    rank, world = comm.Get_rank(), comm.Get_size()
    budget, cases = float(sys.argv[1]), [Case.parse(text) for text in sys.argv[2:]]
    if rank == 0:
        print(json.dumps({"library": MPI.Get_library_version().split("\n")[0]}), flush=True)
    for case in cases:
        index = np.arange(case.nbytes // 4, dtype=np.float32) % 1021
        buffer = index + np.float32(3 * rank)
        comm.Allreduce(MPI.IN_PLACE, buffer)
        if (buffer != world * index + 3 * world * (world - 1) // 2).any():
            print(f"rank {rank}: wrong sum, {case}", file=sys.stderr, flush=True)
            comm.Abort(1)
        buffer.fill(0)
        seconds = p50_seconds(
            lambda buffer=buffer: comm.Allreduce(MPI.IN_PLACE, buffer),
            comm.Barrier,
            lambda value: comm.allreduce(value, op=MPI.MAX),
            budget,
        )
        if rank == 0:
            print(json.dumps(case._asdict() | {"seconds_p50": seconds}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
