# SPDX-License-Identifier: Apache-2.0
"""Runs in a guest and does there what the host asks for; vm_guest.py is the host's side.

Requests come and answers go as lines of JSON on stdin and stdout, which are virtio ports:

    {"id": 1, "argv": [...], "env": {...}, "stdin": false}    start a command
    {"id": 1, "input": "..."}                    to its stdin, if it has one
    {"id": 1, "signal": 9}                       to the command's process group
    {"ready": true}                              once, when the guest is set up
    {"id": 1, "output": "..."}                   stdout and stderr together, as they come
    {"id": 1, "status": 0}                       the end of the command; -9: killed by signal 9

When the host goes away, stdin ends, the agent returns, and with that the guest powers off.
"""

import codecs
import contextlib
import json
import os
import resource
import subprocess
import sys
import sysconfig
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "vm"
HOME = Path("/run/guest")
DEBIAN_MODULES = Path("/usr/lib/python3/dist-packages")
DRAIN_S = 5.0


class Agent:
    """The commands that run, by id; the thread of each sends its output and its end."""

    def __init__(self) -> None:
        self._send_lock = threading.Lock()
        self._commands: dict[int, subprocess.Popen[bytes]] = {}

    def send(self, **answer: object) -> None:
        line = json.dumps(answer).encode() + b"\n"
        with self._send_lock:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def serve(self) -> None:
        for line in sys.stdin.buffer:
            request = json.loads(line)
            if "signal" in request:
                self._signal(request["id"], request["signal"])
            elif "input" in request:
                self._type(request["id"], request["input"])
            else:
                self._start(request["id"], request["argv"], request["env"], request["stdin"])

    def _start(self, number: int, argv: list[str], env: dict[str, str], stdin: bool) -> None:
        try:
            process = subprocess.Popen(
                argv,
                env={**os.environ, **env},
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            self.send(id=number, output=f"{argv[0]}: {error}\n")
            self.send(id=number, status=127)
            return
        self._commands[number] = process
        threading.Thread(target=self._follow, args=(number, process), daemon=True).start()

    def _signal(self, number: int, which: int) -> None:
        process = self._commands.get(number)
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, which)

    def _type(self, number: int, text: str) -> None:
        process = self._commands.get(number)
        if process is not None and process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(text.encode())
                process.stdin.flush()

    def _follow(self, number: int, process: subprocess.Popen[bytes]) -> None:
        reader = threading.Thread(target=self._forward, args=(number, process), daemon=True)
        reader.start()
        status = process.wait()
        # What a command leaves behind may hold its stdout open for ever.
        reader.join(DRAIN_S)
        self.send(id=number, status=status)

    def _forward(self, number: int, process: subprocess.Popen[bytes]) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        assert process.stdout is not None
        while data := os.read(process.stdout.fileno(), 1 << 16):
            self.send(id=number, output=decoder.decode(data))


def mount(tag: str, path: Path, options: str) -> None:
    options = f"version=9p2000.L,trans=virtio,access=any,msize=512000,{options}"
    subprocess.run(["mount", "-t", "9p", "-o", options, tag, path], check=True)


def cache_folders(paths: list[Path]) -> None:
    """Put a cached view of folders over them: the root asks the host again for each page."""
    host = HOME / "host"
    host.mkdir(parents=True)
    mount("host", host, "ro,cache=loose")
    for path in paths:
        subprocess.run(["mount", "--bind", host / path.relative_to("/"), path], check=True)


def set_up() -> None:
    """Make of a booted guest what the tests expect; README.md says what that is."""
    cache_folders([Path(name) for name in sys.argv[1:]])
    mount("out", OUT, "rw")
    os.chdir(ROOT)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    # Of Debian's Python packages pyverbs alone: the others would come before those of .venv.
    modules = HOME / "modules"
    modules.mkdir(parents=True)
    (modules / "pyverbs").symlink_to(DEBIAN_MODULES / "pyverbs")
    os.environ |= {
        "HOME": str(HOME),
        "LC_ALL": "C.UTF-8",
        "PATH": f"{sysconfig.get_path('scripts')}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": str(modules),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def main() -> None:
    set_up()
    agent = Agent()
    agent.send(ready=True)
    agent.serve()


if __name__ == "__main__":
    main()
