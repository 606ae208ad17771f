"""What is alive is left alone: a rank that computes for long, a child forked from a rank."""

from pathlib import Path

from integration_jobs import run, write_worker

# Longer than a kernel waits for unread data of a peer (10 s), with more data than a socket holds.
BUSY = """
dist.init_process_group("rdmatrain")
x = torch.full((6_000_000,), RANK + 1.0)
end = time.monotonic() + 13
while RANK == 0 and time.monotonic() < end:
    pass  # asleep it would be taken for a rank that hangs
dist.all_reduce(x)
note(sum=x[-1].item())
dist.destroy_process_group()
"""
FORK = """
dist.init_process_group("rdmatrain")
x = torch.full((10,), RANK + 1.0)
dist.all_reduce(x)
pending = dist.all_reduce(torch.ones(10), async_op=True)
faulthandler.cancel_dump_traceback_later()  # a child with its lock but not its thread never ends
child = os.fork()
if child == 0:
    errors = []
    for call in (lambda: dist.all_reduce(x), lambda: pending.is_completed() or pending.wait()):
        try:
            call()
        except RuntimeError as error:
            errors.append(str(error))
    sys.exit(0 if errors and all("forked" in error for error in errors) else 1)
status = os.waitpid(child, 0)[1]
pending.wait()
dist.all_reduce(x)
note(status=status, sum=x[-1].item())
dist.destroy_process_group()
"""


def test_a_rank_that_is_busy_for_long_is_not_taken_for_dead_over_tcp(tmp_path: Path) -> None:
    job = run(write_worker(tmp_path, BUSY), env={"RDMATRAIN_TRANSPORT": "tcp"})
    assert job.code == 0, job.out
    assert [job.of(rank)["sum"] for rank in range(2)] == [3.0, 3.0]


def test_a_forked_child_cannot_speak_for_its_rank(tmp_path: Path) -> None:
    job = run(write_worker(tmp_path, FORK))
    assert job.code == 0, job.out
    assert [job.of(rank)["status"] for rank in range(2)] == [0, 0]
    assert [job.of(rank)["sum"] for rank in range(2)] == [6.0, 6.0]
