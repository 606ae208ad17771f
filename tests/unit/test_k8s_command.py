# SPDX-License-Identifier: Apache-2.0
"""``rdmatrain k8s``: its options, what it writes, and how it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from rdmatrain.cli import cli
from rdmatrain.errors import SettingError
from rdmatrain.k8s import command
from rdmatrain.k8s.cluster import Cluster, read_cluster, supported
from rdmatrain.k8s.command import field_names
from rdmatrain.k8s.reading import read_file
from rdmatrain.k8s.render import render
from rdmatrain.k8s.targets.target import TARGETS

EXAMPLE = str(Path(__file__).parents[2] / "k8s/example.yaml")
SPEC = """\
name: llm
image: train:1
command: [rdmatrain, run, train.py]
nodes: 2
network: {devices: tcp}
"""


@pytest.fixture
def spec(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(SPEC)
    return str(path)


def k8s(*args, text=None):
    return CliRunner().invoke(cli, ["k8s", *args], input=text)


def refused(*args, code=2):
    result = k8s(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    return result.stderr.splitlines()


def test_render_writes_one_stream_of_all_objects_in_order(spec):
    result = k8s("render", spec, "--for", "lws")
    assert result.exit_code == 0, result.output
    objects = list(yaml.safe_load_all(result.stdout))
    assert tuple(objects) == render(read_file(spec), "lws", Cluster()).objects
    kinds = [each["kind"] for each in objects]
    assert kinds[-1] == "LeaderWorkerSet"
    assert kinds.index("NetworkPolicy") < kinds.index("LeaderWorkerSet")
    assert len({*kinds}) == len(kinds)


def test_with_cluster_adds_what_an_administrator_applies(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(SPEC.replace("{devices: tcp}", "{vfs: 2, pfs: [eth0]}"))
    job, both = (
        [each["kind"] for each in yaml.safe_load_all(k8s(*words).stdout)]
        for words in (
            ("render", str(path), "--for", "lws"),
            ("render", str(path), "--for", "lws", "--with-cluster"),
        )
    )
    assert {*job} < {*both}
    assert "SriovNetwork" in {*both} - {*job}
    assert both.index("SriovNetwork") < both.index("LeaderWorkerSet")


@pytest.mark.parametrize("name", TARGETS)
def test_the_example_is_rendered_for_every_target_or_names_what_to_leave_out(name, tmp_path):
    file = EXAMPLE
    if name in {"indexed-job", "podgroup"}:
        (line,) = refused("render", file, "--for", name, code=64)
        assert f"for {name}: queue: 'research'" in line
        text = Path(file).read_text()
        assert "# Leave out queue for indexed-job and podgroup" in text
        file = tmp_path / "job.yaml"
        file.write_text(text.replace("\nqueue:", "\n# queue:"))
    result = k8s("render", str(file), "--for", name)
    assert result.exit_code == 0, result.output
    if name != "slurm":
        objects = yaml.safe_load_all(result.stdout)
        namespaces = {each["metadata"].get("namespace") for each in objects}
        assert namespaces == {"train"}


def test_files_sort_as_they_are_to_be_applied(spec, tmp_path):
    with Path(spec).open("a") as file:
        file.write("secret: {create: true}\n")
    folder = tmp_path / "out"
    result = k8s("render", spec, "--for", "mpijob", "-o", str(folder))
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    paths = sorted(folder.iterdir())
    told = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert told == [str(path) for path in paths]
    found = [yaml.safe_load(path.read_text()) for path in paths]
    assert found[-1]["kind"] == "MPIJob"
    assert paths[-1].name.endswith("-mpijob-llm.yaml")
    modes = {
        each["kind"]: path.stat().st_mode & 0o777 for each, path in zip(found, paths, strict=True)
    }
    assert modes["Secret"] == 0o600
    assert modes["MPIJob"] & 0o044 == 0o044
    secret = found[0]["stringData"]["secret"]
    assert k8s("render", spec, "--for", "mpijob", "-o", str(folder)).exit_code == 0
    again = yaml.safe_load(paths[0].read_text())["stringData"]["secret"]
    assert again != secret


def test_a_folder_that_cannot_be_written_is_refused(spec, tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = refused("render", spec, "--for", "mpijob", "-o", str(tmp_path / "file"))
    assert line.startswith(f"Error: cannot write to {tmp_path / 'file'}: File exists")


def test_slurm_is_a_script_and_no_yaml(spec, tmp_path):
    result = k8s("render", spec, "--for", "slurm")
    assert result.stdout.startswith("#!/usr/bin/env bash\n")
    folder = tmp_path / "out"
    k8s("render", spec, "--for", "slurm", "-o", str(folder))
    assert (folder / "llm.sbatch").read_text() == result.stdout


def test_standard_input_is_read(monkeypatch, spec):
    monkeypatch.setattr(command, "read_file", lambda name: read_file({"-": spec}[name]))
    assert k8s("render", "-", "--for", "lws").exit_code == 0


def test_the_hosts_network_is_told_with_its_reason(spec):
    network = "{devices: tcp, host-network: true, host-network-reason: no CNI}"
    Path(spec).write_text(SPEC.replace("{devices: tcp}", network))
    result = k8s("render", spec, "--for", "lws")
    assert result.exit_code == 0
    assert "host's network" in result.stderr
    assert "no CNI" in result.stderr
    assert "rdmatrain/host-network-reason: no CNI" in result.stdout


@pytest.mark.parametrize(
    ("name", "queue", "told"),
    [
        ("indexed-job", "", True),
        ("jobset", "", True),
        ("jobset", "research", False),
        ("lws", "", True),
        ("lws", "research", False),
        ("podgroup", "", False),
        ("volcano", "", False),
        ("kueue", "research", False),
    ],
)
def test_what_is_no_gang_is_told(spec, name, queue, told):
    text = SPEC + f"queue: {queue}\n" * bool(queue)
    for nodes in (2, 1):
        Path(spec).write_text(text.replace("nodes: 2", f"nodes: {nodes}"))
        result = k8s("render", spec, "--for", name)
        assert result.exit_code == 0, result.output
        said = "Nothing starts the 2 pods together" in result.stderr
        assert said == (told and nodes > 1)
        assert "together" not in result.stdout


VFS = "{vfs: 2, networks: [a, b]}"
DATA = "volumes: {/data: ds, /m: more, /n: ds}"


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("indexed-job", "", "kubectl -n default create secret generic llm-secret --from-literal"),
        ("indexed-job", "checkpoint: {claim: ckpt}", "claim ckpt is to be there, ReadWriteMany"),
        ("pytorchjob", "", "operator runs with --gang-scheduler-name"),
        ("pytorchjob", "", "Burstable"),
        ("mpijob", "", "operator runs with --gang-scheduling"),
        ("mpijob", "max-restarts: 2", "An MPIJob knows no exit codes"),
        ("lws", "", "delete it when the job is done"),
        (
            "trainjob",
            "",
            "plugin coscheduling of this scheduler",
        ),
        ("volcano", "topology: {tier: 2}", "HyperNode"),
        ("trainjob", "topology: {tier: 2}", "HyperNode"),
        ("volcano", f"network: {VFS}", "Any function may end up in any of these networks"),
        ("indexed-job", DATA, "claims are to be there for all nodes, or no pod starts: ds, more."),
        ("pytorchjob", DATA, "claims are to be there for all nodes, or no pod starts: ds, more."),
        ("mpijob", "pull-secrets: [a, b]", "is to be there, a, b: kubectl -n default create"),
        ("jobset", "priority: high", "The PriorityClass high is to be there, or no pod is made."),
        ("slurm", DATA, "To be there on all nodes, or the container does not start: /data, /m"),
        ("slurm", "checkpoint: {claim: a}", "the container does not start: /checkpoints."),
        ("slurm", "pull-secrets: [a]", ".credentials: what is in a is to be there."),
        ("slurm", "node-selector: {a/b: c, d: e}", "not only on those with a/b=c, d=e: say it"),
    ],
)
def test_what_a_person_must_do_or_know_is_told_once_and_explained(spec, name, more, said):
    text = SPEC.replace("network: {devices: tcp}\n", "") if "network" in more else SPEC
    Path(spec).write_text(f"{text}{more}\n")
    result = k8s("render", spec, "--for", name)
    assert result.exit_code == 0, result.output
    (line,) = [each for each in result.stderr.splitlines() if said in each]
    notes = json.loads(k8s("explain", spec, "--for", name, "--json").stdout)
    assert line in {f"note: {each['why']}" for each in notes if each["urgent"]}


QUEUE = "The queue research is to be there"
NETWORKS = "NetworkAttachmentDefinitions are to be there, or no pod starts: a, b."


@pytest.mark.parametrize(
    ("target", "words", "told"),
    [
        ("volcano", (), {QUEUE, NETWORKS}),
        ("volcano", ("--with-cluster",), set()),
        # Whose queue it is nobody says: only the target kueue makes one of Kueue.
        ("jobset", ("--with-cluster",), {QUEUE}),
        ("kueue", ("--with-cluster",), set()),
    ],
)
def test_what_an_administrator_has_to_make_is_told_if_it_is_not_rendered(spec, target, words, told):
    Path(spec).write_text(f"{SPEC.replace('{devices: tcp}', VFS)}queue: research\n")
    lines = k8s("render", spec, "--for", target, *words).stderr
    assert {each for each in (QUEUE, NETWORKS) if each in lines} == told


@pytest.mark.parametrize(
    ("target", "there"), [("volcano", True), ("mpijob", True), ("kueue", False), ("jobset", False)]
)
def test_the_queue_that_volcano_makes_itself_is_there(spec, target, there):
    Path(spec).write_text(f"{SPEC}queue: default\n")
    told = "The queue default is to be there" in k8s("render", spec, "--for", target).stderr
    assert told == (not there), "Kueue makes none itself"


def test_a_claim_that_is_rendered_need_not_be_there(spec):
    checkpoint = "checkpoint: {claim: made, size: 1Ti}\n"
    for volumes, told in (("/data: made", False), ("/data: made, /m: other", True)):
        Path(spec).write_text(f"{SPEC}{checkpoint}volumes: {{{volumes}}}\n")
        lines = k8s("render", spec, "--for", "lws").stderr.splitlines()
        found = [line for line in lines if "claims are to be there" in line]
        assert [line.endswith("starts: other.") for line in found] == [True] * told


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ("{vfs: 2, pfs: [eth0]}", True),
        ("{vfs: 2}", True),
        ("{vfs: 2, pfs: [eth0], mtu: 4220}", False),
        ("{vfs: 2, pfs: [ib0], link: infiniband}", False),
        ("{devices: tcp}", False),
    ],
)
def test_small_packets_are_told_before_check_finds_them(spec, tmp_path, network, told):
    Path(spec).write_text(SPEC.replace("{devices: tcp}", network))
    result = k8s("render", spec, "--for", "lws", "--with-cluster")
    assert any("network.mtu" in line for line in result.stderr.splitlines()) == told
    (tmp_path / "out.yaml").write_text(result.stdout)
    found = json.loads(k8s("check", str(tmp_path / "out.yaml"), "--json").stdout)
    (mtu,) = [each for each in found["checks"] if each["id"] == "mtu"]
    assert (mtu["verdict"] == "WARN") == (told and "pfs" in network)
    # Who gives the networks to others to make has a job with small packets all the same.
    assert ("network.mtu" in k8s("render", spec, "--for", "lws").stderr) == told


def test_what_is_no_object_is_told_in_a_line_where_it_is_not_written(tmp_path):
    path = tmp_path / "job.yaml"
    network = "{devices: dra, vfs: 8}\ngpus: 8\nqueue: research"
    path.write_text(SPEC.replace("{devices: tcp}", network))
    words = ("render", str(path), "--for", "kueue", "--with-cluster")
    first, *others = k8s(*words).stderr.splitlines()
    names = ["network-operator.values", "gpu-operator.values", "dra-driver-nvidia-gpu.values",
             "dra-driver-sriov.values", "kueue.configuration"]  # fmt: skip
    assert first == (
        f"note: written with --output alone, as they are no objects: {', '.join(names)}"
    )
    assert not any(".values" in line for line in others)
    (merge,) = [line for line in others if "kueue.configuration" in line]
    # True before and after it is written: it has to be merged.
    assert "merge kueue.configuration into it" in merge
    folder = tmp_path / "out"
    lines = k8s(*words, "-o", str(folder)).stderr.splitlines()
    assert {str(folder / name) for name in names} <= {*lines}
    assert not any("--output" in line for line in lines)


@pytest.mark.parametrize("name", [each for each in TARGETS if each not in {"podgroup", "kueue"}])
def test_a_job_of_one_node_that_needs_nothing_is_told_nothing(spec, name):
    queue = "queue: default\n" if name == "trainjob" else ""
    Path(spec).write_text(SPEC.replace("nodes: 2", "nodes: 1") + queue)
    told = k8s("render", spec, "--for", name).stderr.splitlines()
    assert len(told) == (name in {"lws", "mpijob"}), told


def test_all_that_is_wrong_with_a_spec_is_a_line_each(spec):
    Path(spec).write_text(SPEC + "nodez: 1\ngrace: 1\n")
    assert refused("render", spec, "--for", "lws", code=64) == [
        f"Error: {spec}:6: nodez is no field of a spec: did you mean nodes?",
        f"Error: {spec}:7: grace is 1: give whole numbers with s, m, h or d, such as 120s or 1h30m",
    ]


def test_what_a_target_cannot_honour_is_refused(spec):
    with Path(spec).open("a") as file:
        file.write("topology: {tier: 2}\n")
    (line,) = refused("render", spec, "--for", "lws", code=64)
    assert f"{spec} for lws: topology.tier: 2" in line


def test_control_characters_of_a_spec_reach_no_terminal(spec):
    Path(spec).write_text(SPEC + '"a\\e[31m": 1\n')
    (line,) = refused("render", spec, "--for", "lws", code=64)
    assert "\x1b" not in line
    assert "\\x1b[31m" in line


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--for", "volcno"), "--for volcno is no target: did you mean volcano?"),
        (("--for", "x"), "--for x is no target: give volcano, trainjob,"),
        (
            ("--for", "lws", "--kubernetes", "1.30"),
            "too old: objects are rendered for 1.34 to 1.37",
        ),
        (("--for", "lws", "--kubernetes", "1.99"), "newer than what is known"),
        (("--for", "lws", "--kubernetes", "new"), "is no version: give one such as 1.34 to 1.37"),
        (("--for", "lws", "--kubernetes", ""), "--kubernetes is empty"),
        (("--for", "lws", "--version", "volcano=1.2"), "too old: objects are rendered for 1.15"),
        (("--for", "lws", "--version", "volcano"), "is no version"),
        (("--for", "lws", "--version", "vulcano=1.15"), "did you mean volcano?"),
        (("--for", "lws", "--version", "kubernetes=1.37"), "--kubernetes has that of Kubernetes"),
        (("--for", "lws", "--version", "a=1"), "give volcano, trainer, training-operator, jobset"),
        (("--for", "lws", "-o", ""), "is empty: give a value"),
    ],
)
def test_a_wrong_option_is_one_line(spec, args, said):
    (line,) = refused("render", spec, *args)
    assert line.startswith("Error: ")
    assert said in line


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    (line,) = refused("render", str(tmp_path / "none"), "--for", "lws")
    assert line == f"Error: cannot read {tmp_path / 'none'}: No such file or directory"


def test_versions():
    assert read_cluster() == Cluster()
    old = read_cluster("v1.34.2", ["training-operator=1.9.4", "jobset=0.12"])
    assert old.kubernetes == (1, 34)
    assert old.training_operator == (1, 9)
    assert old.gang_api == ""
    assert read_cluster("1.37.0+k3s1") == Cluster()
    assert read_cluster(addons=["lws=0.10", "lws=0.10.1"]) == Cluster()
    assert supported("kueue") == "0.19"
    with pytest.raises(SettingError, match=r"1\.34"):
        read_cluster("1.33")


def test_explain_names_every_field_and_why(spec):
    result = k8s("explain", spec, "--for", "lws", "--json")
    assert result.exit_code == 0, result.output
    notes = json.loads(result.stdout)
    assert all(each["why"].strip() for each in notes)
    assert list(dict.fromkeys(each["field"] for each in notes)) == [*field_names(), ""]


def test_explain_shows_the_fields_that_are_asked_for(spec):
    result = k8s("explain", spec, "--for", "lws", "grace", "checkpoint", "max_restarts")
    lines = result.stdout.splitlines()
    shown = [line for line in lines if line and not line.startswith(" ")]
    known = ["checkpoint.claim", "checkpoint.path", "checkpoint.size", "checkpoint.storage-class"]
    assert shown == [*known, "grace", "max-restarts"]
    assert "terminationGracePeriodSeconds: 150" in " ".join(result.stdout.split())


def silent(spec, network, *words, target="lws"):
    """Why there is nothing of fields of the network, by field."""
    Path(spec).write_text(SPEC.replace("{devices: tcp}", network))
    result = k8s("explain", spec, "--for", target, "network", "--json", *words)
    assert result.exit_code == 0, result.output
    notes = json.loads(result.stdout)
    return {each["field"]: each["why"] for each in notes if each["became"] == "nothing"}


def test_explain_says_why_nothing_has_a_field(spec):
    claims = {f"network.{each}" for each in ("device-class", "gpu-class", "aligned")}
    nics = {f"network.{each}" for each in ("link", "mtu", "pfs", "subnet")}
    reason = {"network.host-network-reason"}
    found = silent(spec, "{vfs: 2, mtu: 4220}")
    assert found.keys() == claims | nics | reason
    assert {found[each] for each in claims} == {
        "Only a claim of DRA has it, and network.devices is sriov."
    }
    assert all("--with-cluster" in found[each] for each in nics)
    found = silent(spec, "{vfs: 2, mtu: 4220, pfs: [eth0]}", "--with-cluster")
    assert found.keys() == claims | reason
    infiniband = "{vfs: 2, mtu: 4092, link: infiniband}"
    unsaid = silent(spec, infiniband.replace("mtu: 4092, ", ""), "--with-cluster")
    assert "is not given" in unsaid["network.mtu"]
    assert (
        "none is rendered without network.pfs"
        in (silent(spec, infiniband, "--with-cluster")["network.mtu"])
    )
    bare = "{vfs: 2, mtu: 4092, link: infiniband, networks: [], resource: rdma/ib}"
    found = silent(spec, bare, "--with-cluster")
    assert found.keys() == claims | reason | {"network.mtu", "network.subnet"}
    assert "No network is rendered" in found["network.subnet"]
    assert silent(spec, "{devices: dra, vfs: 2}").keys() == nics | reason
    assert all("TCP" in silent(spec, "{devices: tcp}")[each] for each in nics)
    assert silent(spec, "{vfs: 2}", target="slurm") == {}


def test_explain_knows_what_was_meant(spec):
    (line,) = refused("explain", spec, "--for", "lws", "network.vf")
    assert line == "Error: network.vf is no field of a spec: did you mean network.vfs?"


def test_targets_are_listed():
    lines = k8s("targets").stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(TARGETS)


def test_fields_are_those_of_the_example():
    """So that whoever copies it sees all that there is, but what excludes others."""
    text = Path(EXAMPLE).read_text()
    left_out = {
        "gpu-resource", "network.device-class", "network.gpu-class", "network.aligned",
        "network.host-network", "network.host-network-reason", "secret.create", "user", "ipc-lock",
    }  # fmt: skip
    known = yaml.safe_load(text)
    found = set()
    for key, value in known.items():
        section = isinstance(value, dict) and key not in {"env", "node-selector", "volumes"}
        found |= {f"{key}.{name}" for name in value} if section else {key}
    assert found == set(field_names()) - left_out


def test_help_imports_no_yaml_and_none_of_the_renderer():
    code = (
        "import sys; from rdmatrain.cli import cli\n"
        "try: cli(['k8s', 'render', '--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "names = [each for each in sys.modules if each.startswith(('yaml', 'rdmatrain.k8s.'))]\n"
        "print('LOADED', *sorted(names))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "--with-cluster" in result.stdout
    assert result.stdout.splitlines()[-1] == "LOADED rdmatrain.k8s.commands"
