"""A program that ends while many slow callbacks have yet to run."""

import time

import torch
import torch.distributed as dist
from checklib import note

CALLS = 20
SECONDS_EACH = 0.2  # together longer than the end of a group waits


def main() -> None:
    dist.init_process_group("rdmatrain", store=dist.HashStore(), rank=0, world_size=1)
    infos: list[object] = []

    def late(info: object) -> None:
        time.sleep(SECONDS_EACH)
        infos.append(info)
        if len(infos) == CALLS:
            note(ran=CALLS)

    dist.group.WORLD._register_on_completion_hook(late)
    for _ in range(CALLS):
        dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    main()
