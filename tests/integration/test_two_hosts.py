"""Two network namespaces joined by a cable play two hosts; they share nothing but the kernel."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_hosts import TwoHosts, two_hosts
from integration_jobs import HEARD_OUT, nothing_left_behind, run, write_worker

TRAIN = """
import hashlib
import rdmatrain
from torch import nn
dist.init_process_group("rdmatrain")
torch.manual_seed(1)
net = nn.Sequential(nn.Linear(16, 300), nn.Tanh(), nn.Linear(300, 40), nn.Tanh(), nn.Linear(40, 1))
ddp = nn.parallel.DistributedDataParallel(net, bucket_cap_mb=0.01)
optimizer = torch.optim.AdamW(ddp.parameters(), lr=0.01)
for step in range(30):
    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(1000 * RANK + step))
    loss = ((ddp(x) - x.sum(1, keepdim=True).sin()) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
big = torch.rand(2_000_003, generator=torch.Generator().manual_seed(RANK))
dist.all_reduce(big)
digest = hashlib.sha256()
for tensor in [*net.parameters(), big]:
    digest.update(tensor.detach().numpy().tobytes())
note(digest=digest.hexdigest(), loss=loss.item(), transports=rdmatrain.transports())
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    with two_hosts() as two:
        yield two


def test_two_hosts_over_tcp_train_to_the_same_bits_as_one_over_shm(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    worker = write_worker(tmp_path, TRAIN)
    with nothing_left_behind() as env:
        apart = hosts.run(worker, env=env)
        together = run(worker, env=env)
    for rank in range(2):
        assert apart[rank].code == 0, apart[rank].out
    assert together.code == 0, together.out
    assert apart[0].of(0)["transports"] == ["self", "tcp"]
    assert apart[1].of(1)["transports"] == ["tcp", "self"]
    assert together.of(0)["transports"] == ["self", "shm"]
    found = [apart[0].of(0), apart[1].of(1), together.of(0), together.of(1)]
    assert len({facts["digest"] for facts in found}) == 1, found
    losses = [facts["loss"] for facts in found]
    assert losses[0] == losses[2] and losses[1] == losses[3] and losses[0] != losses[1]


BLOCKS = """
dist.init_process_group("rdmatrain")
for dtype in (torch.float32, torch.bfloat16, torch.int64):
    for n in (1, 7, 1000, 100_003):
        def mine(rank):
            return (torch.arange(n) % 13 + rank * 17).to(dtype)
        def part(rank, of):
            return ((torch.arange(n) + of) % 5 + rank).to(dtype)
        listed = [torch.zeros(n, dtype=dtype) for _ in range(WORLD)]
        if RANK == 3:
            listed = [torch.zeros(n, dtype=dtype)] * WORLD  # wants none of them
        dist.all_gather(listed, mine(RANK))
        if RANK != 3:
            assert all(torch.equal(listed[r], mine(r)) for r in range(WORLD)), (dtype, n)
        whole = torch.zeros(WORLD * n, dtype=dtype)
        dist.all_gather_into_tensor(whole, mine(RANK))
        assert torch.equal(whole, torch.cat([mine(r) for r in range(WORLD)])), (dtype, n)
        given = [part(RANK, of) for of in range(WORLD)]
        wanted = sum(part(r, RANK) for r in range(WORLD))
        sums = torch.zeros(2, n, dtype=dtype)
        dist.reduce_scatter(sums[0], given)
        dist.reduce_scatter_tensor(sums[1], torch.cat(given))
        assert torch.equal(sums[0], wanted) and torch.equal(sums[1], wanted), (dtype, n)
dist.destroy_process_group()
note(done=True)
"""


@pytest.mark.parametrize("tuning", ["", "way=flat"])
def test_blocks_of_every_kind_go_between_hosts(
    hosts: TwoHosts, tmp_path: Path, tuning: str
) -> None:
    worker = write_worker(tmp_path, BLOCKS)
    with nothing_left_behind() as env:
        env["RDMATRAIN_TUNING"] = tuning
        ended = hosts.run("--nproc-per-node", "2", worker, env=env)
    for host in range(2):
        assert ended[host].code == 0, ended[host].out
        for rank in (2 * host, 2 * host + 1):
            assert ended[host].of(rank)["done"]


def test_hosts_with_several_ranks_mix_shm_and_tcp(hosts: TwoHosts, tmp_path: Path) -> None:
    body = """
import rdmatrain
dist.init_process_group("rdmatrain")
x = torch.arange(100_000.) * (RANK + 1)
dist.all_reduce(x)
assert torch.equal(x, torch.arange(100_000.) * sum(r + 1 for r in range(WORLD)))
stats = rdmatrain.get_stats()["peers"]
far = sum(peer["sent_bytes"] for peer in stats if peer["transport"] == "tcp")
note(transports=rdmatrain.transports(), far=far)
dist.destroy_process_group()
"""
    worker = write_worker(tmp_path, body)
    with nothing_left_behind() as env:
        ended = hosts.run("--nproc-per-node", "2", worker, env=env)
    for host in range(2):
        assert ended[host].code == 0, ended[host].out
    assert ended[0].of(0)["transports"] == ["self", "shm", "tcp", "tcp"]
    assert ended[0].of(1)["transports"] == ["shm", "self", "tcp", "tcp"]
    assert ended[1].of(3)["transports"] == ["tcp", "tcp", "shm", "self"]
    # Each host sends one half to the other, and its half of the result: 2n(H-1)/H bytes.
    for host in range(2):
        sent = sum(ended[host].of(2 * host + rank)["far"] for rank in range(2))
        assert 400_000 <= sent <= 1.1 * 400_000, (host, sent)


def test_shm_across_hosts_is_refused_on_both_with_both_named(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    worker = write_worker(tmp_path, "raise reported(dist.init_process_group, 'rdmatrain')")
    with nothing_left_behind() as env:
        ended = hosts.run(worker, env=env | {"RDMATRAIN_TRANSPORT": "shm"})
    for rank in range(2):
        error = ended[rank].of(rank)["error"]
        assert ended[rank].code == 1, ended[rank].out
        assert "RDMATRAIN_TRANSPORT=shm" in error and "share no host" in error, error
        assert "rank 0" in error and "rank 1" in error, error


def test_an_address_that_the_peer_cannot_reach_is_an_error_on_both(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    body = """
if RANK == 0:
    os.environ["RDMATRAIN_ADDR"] = "127.0.0.1"
error = reported(dist.init_process_group, "rdmatrain", timeout=timedelta(seconds=6))
time.sleep(8)  # the first that ends would end the other too
raise error
"""
    with nothing_left_behind() as env:
        ended = hosts.run(write_worker(tmp_path, body), env=env)
    first, second = (ended[rank].of(rank)["error"] for rank in range(2))
    assert "rank 0" in second and "rank 1" in first, (first, second)


def test_a_rank_killed_on_the_other_host_is_named(hosts: TwoHosts, tmp_path: Path) -> None:
    body = """
dist.init_process_group("rdmatrain")
def die():
    time.sleep(0.5)
    note(died=time.monotonic())
    os.kill(os.getpid(), 9)
if RANK == 1:
    threading.Thread(target=die, daemon=True).start()
while True:
    error = reported(dist.all_reduce, torch.ones(100_000))
    if error:
        raise error
"""
    with nothing_left_behind() as env:
        ended = hosts.run(write_worker(tmp_path, HEARD_OUT + body), env=env)
    survivor, victim = ended[0].of(0), ended[1].of(1)
    took_s = survivor["raised"] - victim["died"]
    print(f"rank 0 raised {took_s:.3f} s after the kill on the other host")  # noqa: T201
    assert took_s < 3.0
    assert "rank 1" in survivor["error"] and "tcp" in survivor["error"], survivor
    assert (ended[0].code, ended[1].code) == (137, 137)


@pytest.mark.thorough
def test_the_example_trains_across_hosts_to_the_same_parameters(
    hosts: TwoHosts, tmp_path: Path
) -> None:
    example = Path(__file__).parents[2] / "launch" / "train_gpt.py"
    if not example.exists():
        pytest.skip("there is no launch/train_gpt.py")
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{i} times {i + 1} is {i * (i + 1)}.\n" for i in range(2000)))
    options = ["--data", str(text), "--steps", "3", "--layers", "1", "--width", "24"]
    options += ["--seq-len", "32", "--global-batch", "4"]
    worker = [str(example), *options, "--out"]
    with nothing_left_behind() as env:
        apart = hosts.run(*worker, str(tmp_path / "apart"), env=env)
        together = run(*worker, str(tmp_path / "together"), env=env)
    assert apart[0].code == apart[1].code == 0, apart[0].out + apart[1].out
    assert together.code == 0, together.out
    sums = {
        line.rpartition(" ")[2]
        for out in (apart[0].out, together.out)
        for line in out.splitlines()
        if "parameters sha256" in line
    }
    assert len(sums) == 1, (apart[0].out, together.out)
