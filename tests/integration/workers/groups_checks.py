"""What a process holds after many groups have come and gone, and groups that are used at once."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from checklib import check, expect_equal, main, note, values

WARM_UP, GROUPS = 20, 1000
NUM_THREADS, ROUNDS = 4, 100


def total(count: int, shift: int) -> torch.Tensor:
    return sum(values(r, count, shift=shift) for r in range(dist.get_world_size()))


def held() -> dict[str, int]:
    """Count what groups could leak."""
    return {
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
        "mappings": len(Path("/proc/self/maps").read_text().splitlines()),
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }


def use_a_group(number: int) -> None:
    group = dist.new_group()
    x = values(dist.get_rank(), 100, shift=number)
    dist.all_reduce(x, group=group)
    expect_equal(x, total(100, number))
    dist.destroy_process_group(group)


@check
def a_thousand_groups_one_after_another_leave_nothing(_group):
    for number in range(WARM_UP):
        use_a_group(number)
    before, began = held(), time.monotonic()
    for number in range(GROUPS):
        use_a_group(number)
    after = held()
    note(before=before, after=after, ms_a_group=(time.monotonic() - began) * 1000 / GROUPS)
    # The allocator of libc maps a little more now and then; a group that leaked would add 1000.
    for name, count in after.items():
        assert count <= before[name] + 10, (name, before, after)


@check
def fifty_groups_at_once_are_all_there_and_all_go(_group):
    before = held()
    groups = [dist.new_group() for _ in range(50)]
    for number, group in enumerate(groups):
        x = values(dist.get_rank(), 100, shift=number)
        dist.all_reduce(x, group=group)
        expect_equal(x, total(100, number))
    for group in groups:
        dist.destroy_process_group(group)
    after = held()
    for name, count in after.items():
        assert count <= before[name] + 10, (name, before, after)


def in_threads(work: Callable[[int], None]) -> None:
    """Run it in each of some threads, and raise what one of them raised."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(NUM_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@check
def groups_are_used_from_as_many_threads_at_once(_group):
    groups = [dist.new_group() for _ in range(NUM_THREADS)]
    rank, world = dist.get_rank(), dist.get_world_size()

    def work(number: int) -> None:
        group = groups[number]
        for turn in range(ROUNDS):
            count, shift = 1 + 997 * (turn % 7) * (number + 1), number + turn
            x = values(rank, count, shift=shift)
            dist.all_reduce(x, group=group)
            expect_equal(x, total(count, shift))
            out = torch.empty(count * world)
            works = [
                dist.all_gather_into_tensor(
                    out, values(rank, count, shift=shift), group=group, async_op=True
                ),
                dist.barrier(group, async_op=True),
            ]
            for w in reversed(works):
                w.wait()
            expect_equal(out, torch.cat([values(r, count, shift=shift) for r in range(world)]))

    in_threads(work)
    for group in groups:
        dist.destroy_process_group(group)


@check
def threads_pass_messages_of_one_group_by_tag(group):
    rank = dist.get_rank()
    other = 1 - rank

    def work(tag: int) -> None:
        for turn in range(ROUNDS):
            count = 1 + 501 * (turn % 5)
            sent = dist.isend(values(rank, count, shift=turn), other, group=group, tag=tag)
            found = torch.empty(count)
            dist.recv(found, other, group=group, tag=tag)
            sent.wait()
            expect_equal(found, values(other, count, shift=turn))

    in_threads(work)


if __name__ == "__main__":
    main()
