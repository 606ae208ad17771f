"""A process that has run callbacks forks one that runs its own."""

import multiprocessing

import torch
import torch.distributed as dist
from checklib import note

CALLS = 3


def count_callbacks() -> int:
    """Of a group of one rank: calls of its hook, which are made by threads of the library."""
    dist.init_process_group("rdmatrain", store=dist.HashStore(), rank=0, world_size=1)
    infos: list[object] = []
    dist.group.WORLD._register_on_completion_hook(infos.append)
    for _ in range(CALLS):
        dist.all_reduce(torch.ones(1))
    dist.group.WORLD._wait_for_pending_works()
    return len(infos)


def be_child(sender: object) -> None:
    dist.destroy_process_group()
    sender.send(count_callbacks())


def main() -> None:
    note(parent=count_callbacks())
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=be_child, args=(sender,), daemon=True)
    child.start()
    note(child=receiver.recv() if receiver.poll(20) else "hangs")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
