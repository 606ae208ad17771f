"""Nothing that waits holds the GIL, and no end of anything deadlocks with Python callbacks."""

from pathlib import Path

from integration_jobs import run, write_worker

LATE_S = 0.6


def test_other_threads_run_while_a_rank_waits(tmp_path: Path) -> None:
    body = f"""
dist.init_process_group("rdmatrain")
counts = {{}}
def counted(name, call):
    count, stop = [0], threading.Event()
    def tick():
        while not stop.is_set():
            count[0] += 1
            time.sleep(0.001)
    thread = threading.Thread(target=tick)
    dist.barrier()
    if RANK == 1:
        time.sleep({LATE_S})
        call()
        return
    thread.start()
    began = time.monotonic()
    call()
    counts[name] = [time.monotonic() - began, count[0]]
    stop.set()
    thread.join()
peer = 1 - RANK
sync = lambda: dist.all_reduce(torch.ones(1 << 20))
counted("all_reduce", sync)
counted("barrier", dist.barrier)
counted("wait", lambda: dist.all_reduce(torch.ones(4), async_op=True).wait())
counted("future", lambda: dist.all_reduce(torch.ones(4), async_op=True).get_future().wait())
counted("recv", lambda: dist.recv(torch.ones(4), 1) if RANK == 0 else dist.send(torch.ones(4), 0))
large = torch.ones(4000)  # a small send would not wait
counted("send", lambda: dist.send(large, 1) if RANK == 0 else dist.recv(large, 0))
counted("new_group", lambda: dist.new_group())
note(counts=counts)
dist.destroy_process_group()
"""
    ended = run(write_worker(tmp_path, body))
    assert ended.code == 0, ended.out
    counts = ended.of(0)["counts"]
    assert len(counts) == 7
    for name, (seconds, count) in counts.items():
        assert seconds > 0.8 * LATE_S, (name, seconds)
        assert count > 30, f"{name}: another thread ran {count} times in {seconds:.1f} s"


def test_destroying_a_group_does_not_deadlock_with_callbacks_in_python(tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
ran, errors = [], []
def add(future):
    try:
        ran.append(sum(t.sum().item() for t in future.value()))
    except RuntimeError as error:
        errors.append(str(error))
for turn in range(20):
    group = dist.new_group()
    works = []
    try:
        for i in range(8):
            works.append(dist.all_reduce(torch.ones(1 + 1000 * i), group=group, async_op=True))
            works[-1].get_future().then(add)
        if turn % 2:
            works[-1].wait()
    except dist.DistBackendError as error:
        errors.append(str(error))  # the peer has destroyed its end already
    works.clear()
    dist.destroy_process_group(group)
dist.barrier()
note(turns=turn + 1, ran=len(ran), errors=sorted(set(errors)))
dist.destroy_process_group()
"""
    ended = run(write_worker(tmp_path, body))
    assert ended.code == 0, ended.out
    for rank in range(2):
        assert ended.of(rank)["turns"] == 20
        assert ended.of(rank)["ran"] >= 80  # all of the turns that waited
        for error in ended.of(rank)["errors"]:
            assert "destroyed" in error or "left the group" in error, error


def test_a_group_collected_as_garbage_with_pending_works_does_not_deadlock(tmp_path: Path) -> None:
    body = """
import gc
dist.init_process_group("rdmatrain")
if RANK == 0:
    backend = dist.new_group([0, 1])._get_backend(torch.device("cpu"))
    work = dist.all_reduce(torch.ones(10), group=dist.group.WORLD, async_op=True)
    errors = []
    pending = backend.allreduce([torch.ones(10)])
    pending.get_future().then(lambda f: errors.append(1))
    from torch.distributed import distributed_c10d as c10d
    group = next(g for g in c10d._world.pg_map if g is not dist.group.WORLD)
    dist.destroy_process_group(group)
    del backend, group
    gc.collect()
    try:
        pending.wait()
        note(pending="ok")
    except dist.DistBackendError as error:
        note(pending=str(error))
    work.wait()
else:
    dist.new_group([0, 1])
    time.sleep(0.5)
    dist.all_reduce(torch.ones(10))
dist.barrier()
note(done=True)
dist.destroy_process_group()
"""
    ended = run(write_worker(tmp_path, body))
    assert ended.code == 0, ended.out
    assert "destroyed" in ended.of(0)["pending"]
    assert ended.of(0)["done"] and ended.of(1)["done"]
