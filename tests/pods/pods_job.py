# SPDX-License-Identifier: Apache-2.0
"""A job in pods: from a spec to a gang that can be looked at, shot at and waited for."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pods_kubelet import Pod, claim, job_of, make_pod
from pods_podman import Podman, PodmanError

from rdmatrain.k8s.cluster import Cluster
from rdmatrain.k8s.reading import read_spec
from rdmatrain.k8s.render import render

NETWORK, SUBNET = "gang", "10.97.7"
PORT = 9400
SECRET = "0123456789abcdef0123456789abcdef"
T = TypeVar("T")

SPEC = {
    "nodes": 2,
    "workers": 1,
    "cpus": 1,
    "memory": "2Gi",
    "shm": "256Mi",
    "network": {"devices": "tcp"},
    "ipc-lock": False,  # none of the capabilities is left
    "grace": "60s",
    "monitoring": {"port": PORT},
}
SMALL = ["--layers", "1", "--width", "48", "--seq-len", "32", "--global-batch", "8"]


@dataclass
class Machine:
    """Where pods run."""

    podman: Podman
    image: str
    jobs: int = field(default=0)

    def start(self, *script: str, **fields: Any) -> "Gang":
        """Render a job of the demo, and start its pods.

        Args:
            script: arguments of the demo.
            fields: of the spec.

        """
        self.jobs += 1
        name = f"llm{self.jobs}"
        demo = ["/opt/rdmatrain/share/train_gpt.py", *SMALL, "--log-every", "20"]
        demo += ["--checkpoint", "/checkpoints/saved", "--out", "/checkpoints/out", *script]
        document = SPEC | {
            "name": name,
            "image": self.image,
            "command": ["rdmatrain", "run", *demo],
            "checkpoint": {"claim": name},
            **fields,
        }
        rendered = render(read_spec(json.dumps(document), "job"), "indexed-job", Cluster())
        gang = Gang(self.podman, job_of(rendered.objects), self.podman.state / name)
        try:
            for index in range(SPEC["nodes"]):
                gang.start(index)
        except PodmanError as error:
            told = "".join(self.podman.logs(pod.container("preflight")) for pod in gang.pods)
            gang.remove()
            raise AssertionError(f"{error}\n{told}") from error
        return gang


@dataclass
class Gang:
    """The pods of a job.

    Attributes:
        job: as it was rendered.
        folder: of the host, for what it keeps of them.
        pods: those that were started last, by their numbers.

    """

    podman: Podman
    job: dict[str, Any]
    folder: Path
    pods: list[Pod] = field(default_factory=list)
    _made: int = 0

    @property
    def claim(self) -> Path:
        """Where the host keeps what is in the job's claim."""
        return claim(self.folder)

    def start(self, index: int) -> None:
        """Start a pod, at an address that none of them had before."""
        files, address = self.folder / str(self._made), f"{SUBNET}.{10 + self._made}"
        self._made += 1
        pod = make_pod(self.job, index, SECRET, files, address)
        self.pods[index : index + 1] = [pod]
        for place, size in pod.memory.items():
            self.podman.mount_memory(place, size)
        names = ",".join(f"alias={each}" for each in pod.names)
        self.podman.play(pod.object, f"{NETWORK}:{names}", pod.address)

    def replace(self, index: int) -> None:
        """Kill a pod, and start another one in its place as the Job's controller does."""
        self.podman.run("kill", "-s", "KILL", self.pods[index].container())
        self.podman.run("pod", "rm", "-f", "-t", "0", self.pods[index].name)
        self.start(index)

    def until(self, what: Callable[[], T], why: str, timeout_s: float = 240) -> T:
        """Ask until the answer is true; what the pods printed is the reason if it never is."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if found := what():
                return found
            time.sleep(0.5)
        raise AssertionError(f"{why} in {timeout_s:.0f} s:\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(f"== {pod.name}\n{self.log(i)}" for i, pod in enumerate(self.pods))

    def log(self, index: int) -> str:
        return self.podman.logs(self.pods[index].container())

    def step(self) -> int:
        """The last step that rank 0 told of."""
        words = [
            line.split("step")[1].split()[0]
            for line in self.log(0).splitlines()
            if " loss " in line
        ]
        return int(words[-1]) if words else 0

    def saved_step(self) -> int:
        """The step of the newest checkpoint that is whole."""
        manifests = (self.claim / "saved").glob("generation-*/manifest.json")
        newest = max(manifests, default=None)
        return int(json.loads(newest.read_text("utf-8"))["step"]) if newest else 0

    def python(self, index: int, code: str) -> Any:
        """Run Python beside the trainer, as its user; it prints JSON."""
        name = self.pods[index].container()
        return json.loads(
            self.podman.run("exec", name, "python3", "-c", f"import json, os\n{code}")
        )

    def scrape(self, index: int) -> dict[str, float]:
        """Ask for the metrics of a pod as Prometheus does, from outside of it."""
        url = f"http://{self.pods[index].address}:{PORT}/metrics"
        code = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=20).read().decode())"
        line = self.podman.inside(sys.executable, "-c", code)
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr[-2000:] + self.logs()
        samples = (each for each in done.stdout.splitlines() if each and not each.startswith("#"))
        return {name: float(value) for name, _, value in (each.rpartition(" ") for each in samples)}

    def codes(self) -> list[int]:
        """Wait for all pods; their exit codes."""
        return [self.podman.exit_code(pod.container(), 300) for pod in self.pods]

    def remove(self) -> None:
        for pod in self.pods:
            self.podman.run("pod", "rm", "-f", "-i", "-t", "0", pod.name)
