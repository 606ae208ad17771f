# SPDX-License-Identifier: Apache-2.0
"""Writes ``golden_torchrun.json``: what torchrun's workers see, for many command lines.

Run it where torch is installed; it takes two minutes. With ``--check`` it writes nothing, and fails
if the table is not what torchrun does.
"""

import argparse
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

from golden_rows import MAY_DIFFER, TABLE, Row, Seen, run_row

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
S = "{script}"
PORT = "--master-port={port}"
STORE = {"MASTER_ADDR": "outer", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "False"}
TWO = "--nproc-per-node=2"
STATIC = ["--nnodes=2", "--node-rank={node}", "--master-addr=127.0.0.1", PORT]
C10D = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:{port}"]

ROWS = (
    # How many
    Row("a script alone", [S]),
    Row("two workers, a word", ["--nproc-per-node", "2", S]),
    Row("two workers, a sign", ["--nproc-per-node=2", S]),
    Row("two workers, underscores", ["--nproc_per_node", "2", S]),
    Row("two workers, underscores and a sign", ["--nproc_per_node=2", S]),
    Row("three workers", ["--nproc-per-node=3", S]),
    Row("a worker for each CPU", ["--nproc-per-node=cpu", S], cpus=1),
    Row("a worker for each GPU or CPU", ["--nproc_per_node=auto", S], cpus=1),
    Row("one node", ["--nnodes=1", S]),
    Row("one node as a range", ["--nnodes", "1:1", TWO, S]),
    Row("a later option wins", [TWO, "--nproc-per-node=1", S]),
    # The rendezvous
    Row("standalone", ["--standalone", S]),
    Row("standalone with two", ["--standalone", TWO, S]),
    Row("standalone ignores the id", ["--standalone", "--rdzv-id=job7", S]),
    Row("an id without a backend", ["--rdzv-id=job7", S]),
    Row("c10d with an id", ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0",
                            "--rdzv-id=j", S]),
    Row("c10d, underscores", ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0",
                              "--rdzv_id", "j", S]),
    Row("c10d without an id", [*C10D, S]),
    Row("c10d with two workers", [*C10D, "--rdzv-id=8", TWO, S]),
    Row("static with an endpoint", ["--rdzv-backend=static", "--rdzv-endpoint=127.0.0.1:{port}",
                                    "--rdzv-id=job7", S]),
    Row("settings of the rendezvous", [*C10D, "--rdzv-conf=timeout=60,last_call_timeout=1", S]),
    Row("settings, underscores", [*C10D, "--rdzv_conf", "join_timeout=60", S]),
    Row("a range of nodes with one", [*C10D, "--nnodes=1:2", "--rdzv-id=e",
                                      "--rdzv-conf=last_call_timeout=1", TWO, S]),
    Row("a port", [PORT, S]),
    Row("a port and two workers", ["--master_port", "{port}", TWO, S]),
    Row("a port and an id", [PORT, "--rdzv-id=job7", S]),
    Row("a port and an address", ["--master-addr=127.0.0.1", PORT, S]),
    Row("an address by name, underscores", ["--master_addr", "localhost", PORT, TWO, S]),
    Row("an address without a port", ["--master-addr=127.0.0.1", S]),
    Row("a node's number", ["--nnodes=1", "--node-rank=0", PORT, S]),
    Row("this node's address", ["--local-addr=127.0.0.1", S]),
    Row("this node's address, underscores", ["--local_addr", "127.0.0.1", *C10D, S]),
    # Several nodes
    Row("two nodes", [*STATIC, S], nodes=2),
    Row("two nodes with two workers", [*STATIC, TWO, "--rdzv-id=job7", S], nodes=2),
    Row("two nodes with other numbers", [*STATIC, "--nproc-per-node", "{next}", S], nodes=2),
    Row("two nodes by variables", [S], nodes=2, env={
        "PET_NNODES": "2", "PET_NODE_RANK": "{node}", "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": "{port}", "PET_MAX_RESTARTS": "1"}),
    Row("two nodes by c10d", ["--nnodes=2", *C10D, "--rdzv-id=job7", TWO, S], nodes=2),
    # What is run
    Row("a module", ["-m", "{module}"]),
    Row("a module, the long option", ["--module", "{module}", "-m", "x"]),
    Row("a program", ["--no-python", "{python}", S, "x"]),
    Row("a program, underscores", ["--no_python", "{python}", S]),
    Row("a path to run", ["--run-path", S, "x", "--y"]),
    Row("a path to run, underscores", ["--run_path", TWO, S]),
    Row("a path from the working folder", ["worker.py"]),
    Row("arguments that look like options", [TWO, S, "--nproc-per-node=9", "-m", "--help"]),
    Row("arguments that are odd", [S, "", "a b", "--", "-", "*", "ü"]),
    Row("arguments with the local rank", [TWO, S, "--gpu=${local_rank}", "$5", "$$", "${other}"]),
    # Names
    Row("a role", ["--role=trainer", TWO, S]),
    Row("a role with a space", ["--role", "the trainer", S]),
    # Output
    Row("a folder for logs", ["--log-dir={folder}/logs", TWO, S]),
    Row("no logs", ["--log_dir", "/dev/null", S]),
    Row("output to files", ["-r", "3", TWO, S]),
    Row("output to files, no blank", ["-r3", "--log-dir={folder}/logs", S]),
    Row("output to files by rank", ["--redirects=0:1,1:2", TWO, S]),
    Row("output to both", ["-t", "3", S]),
    Row("output to both by rank", ["--tee=0:3", "--redirects=1:3", TWO, S]),
    Row("output of one rank", ["--local-ranks-filter=0", TWO, S]),
    Row("output of two ranks", ["--local_ranks_filter", "0,1", "--tee=3", TWO, S]),
    Row("lines that are copied", ["--duplicate-stdout-filters=a,b", "--duplicate_stderr_filters",
                                  "c", "--tee=3", S]),
    Row("a prefix", ["--tee=3", S],
        env={"TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": "[${role_name}${rank}]: "}),
    # Faults and signals
    Row("restarts", ["--max-restarts=3", TWO, S]),
    Row("restarts, underscores", ["--max_restarts", "0", S]),
    Row("signals", ["--signals-to-handle=SIGTERM,SIGUSR1", S]),
    Row("signals, underscores", ["--signals_to_handle", "SIGINT", TWO, S]),
    Row("the time to stop", ["--shutdown-timeout=3", S]),
    Row("how often to look", ["--monitor-interval=0.5", S]),
    Row("how often to look, underscores", ["--monitor_interval", "1", S]),
    Row("how to start", ["--start-method=fork", "--event-log-handler=null", S]),
    Row("how to start, underscores", ["--start_method", "spawn", "--event_log_handler", "null", S]),
    # GPUs
    Row("virtual local ranks", ["--virtual-local-rank", TWO, S]),
    Row("virtual local ranks of some GPUs", ["--virtual_local_rank", TWO, S],
        env={"CUDA_VISIBLE_DEVICES": "6, 4"}),
    Row("some GPUs", [TWO, S], env={"CUDA_VISIBLE_DEVICES": "6,4"}),
    # Variables in place of options
    Row("PET workers", [S], env={"PET_NPROC_PER_NODE": "2"}),
    Row("PET workers and an option", [TWO, S], env={"PET_NPROC_PER_NODE": "1"}),
    Row("PET standalone", [TWO, S], env={"PET_STANDALONE": "1"}),
    Row("PET standalone, off", [S], env={"PET_STANDALONE": "0"}),
    Row("PET rendezvous", [S], env={"PET_RDZV_BACKEND": "c10d", "PET_RDZV_ID": "job7",
                                    "PET_RDZV_ENDPOINT": "localhost:0",
                                    "PET_RDZV_CONF": "timeout=60"}),
    Row("PET port", [TWO, S], env={"PET_MASTER_PORT": "{port}", "PET_MASTER_ADDR": "localhost"}),
    Row("PET role and restarts", [S], env={"PET_ROLE": "r", "PET_MAX_RESTARTS": "2"}),
    Row("PET module", ["{module}", "x"], env={"PET_MODULE": "1"}),
    Row("PET program", ["{python}", S], env={"PET_NO_PYTHON": "1"}),
    Row("PET path to run", [S], env={"PET_RUN_PATH": "1"}),
    Row("PET output", [S], env={"PET_TEE": "3", "PET_LOG_DIR": "{folder}/logs",
                                "PET_REDIRECTS": "0", "PET_LOCAL_RANKS_FILTER": "0"}),
    Row("PET signals", [S], env={"PET_SIGNALS_TO_HANDLE": "SIGTERM", "PET_SHUTDOWN_TIMEOUT": "4"}),
    Row("PET virtual local rank", [TWO, S], env={"PET_VIRTUAL_LOCAL_RANK": "1"}),
    Row("PET what has no meaning here", [S], env={
        "PET_START_METHOD": "fork", "PET_MONITOR_INTERVAL": "1", "PET_EVENT_LOG_HANDLER": "null",
        "PET_LOCAL_ADDR": "127.0.0.1", "PET_NODE_RANK": "0"}),
    # What is inherited
    Row("own threads", [TWO, S], env={"OMP_NUM_THREADS": "3"}),
    Row("own threads, one worker", [S], env={"OMP_NUM_THREADS": "3"}),
    Row("own error handling of NCCL", [TWO, S], env={"TORCH_NCCL_ASYNC_ERROR_HANDLING": "3"}),
    Row("no error handling of NCCL", [S], env={"TORCH_NCCL_ASYNC_ERROR_HANDLING": ""}),
    Row("within another torchrun", ["--standalone", TWO, S], env={
        **STORE, "RANK": "7", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4",
        "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "ROLE_RANK": "7", "ROLE_WORLD_SIZE": "8",
        "ROLE_NAME": "outer", "TORCHELASTIC_RUN_ID": "outer", "TORCHELASTIC_RESTART_COUNT": "5",
        "TORCHELASTIC_MAX_RESTARTS": "6", "TORCHELASTIC_SIGNALS_TO_HANDLE": "SIGUSR2",
        "TORCHELASTIC_ERROR_FILE": "/outer/error.json"}),
    Row("others' variables", [S], env={"NCCL_DEBUG": "WARN", "EMPTY": "", "TWO_LINES": "a\nb"}),
)  # fmt: skip


def main() -> None:
    """Write the table, or say what would change in it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        saved = list(pool.map(lambda row: save(row, measure(row)), ROWS))
    text = as_text(saved)
    if not args.check:
        TABLE.write_text(text, "utf-8")
    elif text != TABLE.read_text("utf-8"):
        sys.exit(f"{TABLE.name} is not what torchrun {version('torch')} does")


def measure(row: Row) -> Seen:
    """Run torchrun on a row."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        return run_row(TORCHRUN, row, Path(folder), {})


def save(row: Row, seen: Seen) -> dict[str, Any]:
    """Write a row with what all of its workers see and what only some do."""
    common = dict(set.intersection(*(set(each["env"].items()) for each in seen)))
    saved: dict[str, Any] = {"name": row.name, "args": list(row.args)}
    saved |= {"env": dict(row.env)} if row.env else {}
    saved |= {"nodes": row.nodes} if row.nodes > 1 else {}
    saved |= {"cpus": row.cpus} if row.cpus else {}
    return saved | {
        "all": dict(sorted(common.items())),
        "workers": [
            {"argv": each["argv"]}
            | {name: each["env"][name] for name in sorted(each["env"].keys() - common.keys())}
            for each in seen
        ],
    }


def as_text(saved: list[dict[str, Any]]) -> str:
    """Write the table as JSON, a line for each part of a row."""
    about = {
        "about": "what torchrun's workers see: what the launcher added, changed or removed (null). "
        "Made by make_golden_torchrun.py; <...> differs from run to run",
        "torch": version("torch").partition("+")[0],
        "may differ": MAY_DIFFER,
    }
    head = json.dumps(about, indent=1)[:-2]
    rows = [",\n".join(_lines(row)) for row in saved]
    return head + ',\n "rows": [\n' + ",\n".join(f"{{\n{row}\n}}" for row in rows) + "\n ]\n}\n"


def _lines(row: dict[str, Any]) -> list[str]:
    lines = [f' "{key}": {_json(value)}' for key, value in row.items() if key != "workers"]
    workers = ",\n".join("  " + _json(each) for each in row["workers"])
    return [*lines, f' "workers": [\n{workers}\n ]']


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
