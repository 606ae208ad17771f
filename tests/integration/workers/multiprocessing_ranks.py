"""Ranks that torch.multiprocessing starts, by the method that is the argument; results come back
as shared tensors.
"""

import sys
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from checklib import note

RANKS = 2


def be_rank(rank: int, folder: str, results: torch.Tensor) -> None:
    dist.init_process_group("rdmatrain", f"file://{folder}/store", rank=rank, world_size=RANKS)
    # Shared memory is no memory of the arena, and is written in place.
    results[rank].fill_(rank + 1)
    dist.all_reduce(results[rank])
    dist.destroy_process_group()


def main() -> None:
    results = torch.zeros(RANKS, 5).share_memory_()
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(
            be_rank, (folder, results), nprocs=RANKS, start_method=sys.argv[1], join=True
        )
    note(sums=results.tolist())


if __name__ == "__main__":
    main()
