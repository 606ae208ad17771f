"""Collectives between two hosts over tcp, rdmatrain beside Gloo, in the same run.

The hosts are two network namespaces joined by a cable, with two ranks each; root makes them. Rounds
alternate between the two backends. Prints a table, appends records to a JSON lines
file, and fails where Gloo is faster, where rdmatrain is not 1.5 times as fast from 1 MiB on, or
where a result is wrong.
"""

import argparse
import contextlib
import itertools
import os
import secrets
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

from common import Case, Command, append_records, commit, machine, pin, run_job, where

SIZES = [8 << 3 * shift for shift in range(8)] + [1 << 20, 64 << 20]
DTYPES = ("float32", "bfloat16")
ADDRESSES = ("10.213.78.1", "10.213.78.2")
CABLE_END = "cable"
WORD_BYTES = 4
LARGE_BYTES, LARGE_RATIO = 1 << 20, 1.5
SECRET = secrets.token_hex(16)
PORT = 29531  # in namespaces that nobody else is in
TIMEOUT_SECONDS = 600.0
HEADER = "#             op     dtype      bytes   rdmatrain        gloo    ratio  wrong"


def main() -> int:
    """Make the hosts and start the ranks, or be one of them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nproc", type=int, default=2, help="ranks of each host (default: 2)")
    parser.add_argument(
        "--op",
        action="append",
        help="an operation of rdmatrain bench, of many that are given (default: all_reduce)",
    )
    parser.add_argument("--dtype", choices=DTYPES, help="this one alone")
    parser.add_argument("--bytes", type=int, help="this size alone")
    parser.add_argument(
        "--json", type=Path, help="append one record a case and backend to this file"
    )
    args = parser.parse_args()
    if "RANK" in os.environ:
        return run_rank(args)
    with hosts() as names:
        out = run_job(
            [command(name, node, args.nproc) for node, name in enumerate(names)], TIMEOUT_SECONDS
        )
    lines = [line.rpartition("│ ")[2] for line in out.splitlines()]
    print("\n".join(lines))
    return int(not any("in every case" in line for line in lines))


def ip(*args: str) -> None:
    """Run ``ip``; its own text says what it could not do."""
    subprocess.run(["ip", *args], check=True)


@contextlib.contextmanager
def hosts() -> Iterator[tuple[str, str]]:
    """Make two network namespaces with a cable between them; yield their names."""
    tag = uuid.uuid4().hex[:6]
    names = (f"bench0-{tag}", f"bench1-{tag}")
    with contextlib.ExitStack() as cleanup:
        for name in names:
            ip("netns", "add", name)
            cleanup.callback(ip, "netns", "delete", name)  # the cable goes with it
        ends = ["name", CABLE_END, "netns", names[0], "type", "veth"]
        ip("link", "add", *ends, "peer", "name", CABLE_END, "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", CABLE_END)
            ip("-n", name, "link", "set", CABLE_END, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names


def command(host: str, node: int, nproc: int) -> Command:
    """Return what starts the ranks of one host, with this program's own arguments."""
    where_to = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", str(nproc)]
    master = ["--master-addr", ADDRESSES[0], "--master-port", str(PORT)]
    run = [sys.executable, "-m", "rdmatrain.cli", "run", *where_to, *master]
    env = {"PYTHONWARNINGS": "ignore::FutureWarning", "GLOO_SOCKET_IFNAME": CABLE_END}
    env["RDMATRAIN_SECRET"] = SECRET
    return ["ip", "netns", "exec", host, *run, __file__, *sys.argv[1:]], env


def run_rank(args: argparse.Namespace) -> int:
    """Measure all cases; whether they met their lines is for the last line to say."""
    import torch  # noqa: PLC0415 - the process that only starts the ranks needs none
    import torch.distributed as dist  # noqa: PLC0415

    pin(int(os.environ["RANK"]))  # before the backends start threads
    torch.set_num_threads(1)
    dist.init_process_group("rdmatrain")
    rank, world = dist.get_rank(), dist.get_world_size()
    groups = {"rdmatrain": dist.group.WORLD, "gloo": dist.new_group(backend="gloo")}
    if rank == 0:
        print(f"# 2 hosts of {world // 2} ranks, torch {torch.__version__}, {machine()}")
        print(f"# commit {commit()}, p50 in us over alternating rounds, ranks pinned")
        print(HEADER, flush=True)
    missed = [str(case) for case in cases_of(args, world) if not compare(case, groups, args.json)]
    if rank == 0:
        verdict = f"missed its line in {missed}" if missed else "met its line in every case"
        print(f"# rdmatrain {verdict}")
    dist.destroy_process_group()
    return 0


def cases_of(args: argparse.Namespace, world: int) -> Iterator[Case]:
    """Yield what is asked for; but of shards those that leave something for each rank."""
    for op, dtype, nbytes in itertools.product(
        args.op or ["all_reduce"],
        [args.dtype] if args.dtype else DTYPES,
        [args.bytes] if args.bytes else sorted(SIZES),
    ):
        if op == "all_reduce" or nbytes >= WORD_BYTES * world:
            yield Case(op, dtype, nbytes)


def compare(case: Case, groups: dict[str, object], json_path: Path | None) -> bool:
    """Check and time a case over both backends; tell whether it met its line."""
    import torch  # noqa: PLC0415
    import torch.distributed as dist  # noqa: PLC0415
    from torch_collectives import interleave, prepare  # noqa: PLC0415

    prepared = {name: prepare(case, group) for name, group in groups.items()}
    wrong = torch.tensor([nwrong for _, nwrong in prepared.values()])
    dist.all_reduce(wrong)
    times = interleave({name: call for name, (call, _) in prepared.items()})
    ratio = times["gloo"] / times["rdmatrain"]
    if dist.get_rank() == 0:
        ours, theirs = (times[name] * 1e6 for name in ("rdmatrain", "gloo"))
        print(
            f"{case.op:>16} {case.dtype:>9} {case.nbytes:10d} {ours:11.2f} {theirs:11.2f} "
            f"{ratio:7.2f}x {int(wrong.sum()):6d}",
            flush=True,
        )
        record(json_path, case, times, dict(zip(groups, wrong.tolist(), strict=True)))
    least = LARGE_RATIO if case.nbytes >= LARGE_BYTES else 1.0
    return ratio >= least and not wrong.any()


def record(path: Path | None, case: Case, times: dict[str, float], wrong: dict[str, int]) -> None:
    """Append a case's records to the file."""
    import torch.distributed as dist  # noqa: PLC0415

    if path is None:
        return
    world = dist.get_world_size()
    argv = f"benchmarks/two_hosts.py --nproc {world // 2}"
    common = case._asdict() | {"ranks": world, "hosts": 2, "argv": argv}
    append_records(
        path,
        [
            {"backend": name, "seconds_p50": seconds, "nwrong": wrong[name]} | common | where()
            for name, seconds in times.items()
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
