# SPDX-License-Identifier: Apache-2.0
"""A spec in YAML becomes a Spec; what cannot be is refused with field, value and remedy."""

import io
import os
from dataclasses import fields, is_dataclass

import pytest

from rdmatrain.errors import SettingError
from rdmatrain.k8s.reading import SpecError, read_file, read_spec, spelled
from rdmatrain.k8s.spec import Checkpoint, JobSecret, Monitoring, Network, Spec, Topology
from rdmatrain.k8s.values import duration_text, seconds, size, size_text

WHOLE = """\
name: llm
namespace: train
image: registry.example:5000/team/train@sha256:%s
command: [rdmatrain, run, -m, train, --lr, 1e-3]
nodes: 16
gpus: 8
gpu-resource: amd.com/gpu
workers: 16
cpus: 96
memory: 1.5Ti
shm: 64Gi
env: {DEBUG: on, PCI: 0000:16:00.0, LR: 1e3, OCTAL: 08, EMPTY: ""}
network:
  devices: dra
  vfs: 8
  resource: example.com/vf
  networks: [fabric/rail-0, rail-1, rail-2, rail-3, rail-4, rail-5, rail-6, rail-7]
  link: infiniband
  mtu: 4092
  pfs: [ib0, "ib1#0-3"]
  subnet: 10.64.0.0/12
  device-class: nic.example.com
  gpu-class: gpu.example.com
  aligned: numa
queue: research
priority: high
topology: {label: topology.kubernetes.io/rack, required: false, tier: 2}
node-selector: {pool: "08"}
tolerations: [dedicated=training:NoSchedule, spot]
pull-secrets: [registry.example]
volumes: {/data: datasets}
checkpoint: {claim: ckpt, path: /data/ckpt, size: 1Ti, storage-class: fast}
grace: 5m
join-timeout: 1h30m
max-restarts: 5
secret: {name: shared, create: true}
monitoring: {port: 9500, namespace: observe, labels: {release: prometheus}}
preflight: false
user: 2000
ipc-lock: false
""" % ("0" * 64)
SPEC = Spec(
    name="llm",
    namespace="train",
    image="registry.example:5000/team/train@sha256:" + "0" * 64,
    command=("rdmatrain", "run", "-m", "train", "--lr", "1e-3"),
    nodes=16,
    gpus=8,
    gpu_resource="amd.com/gpu",
    workers=16,
    cpus=96,
    memory_bytes=1536 << 30,
    shm_bytes=64 << 30,
    env={"DEBUG": "on", "PCI": "0000:16:00.0", "LR": "1e3", "OCTAL": "08", "EMPTY": ""},
    network=Network(
        devices="dra",
        vfs=8,
        resource="example.com/vf",
        networks=("fabric/rail-0", *(f"rail-{number}" for number in range(1, 8))),
        link="infiniband",
        mtu=4092,
        pfs=("ib0", "ib1#0-3"),
        subnet="10.64.0.0/12",
        device_class="nic.example.com",
        gpu_class="gpu.example.com",
        aligned="numa",
    ),
    queue="research",
    priority="high",
    topology=Topology("topology.kubernetes.io/rack", required=False, tier=2),
    node_selector={"pool": "08"},
    tolerations=("dedicated=training:NoSchedule", "spot"),
    pull_secrets=("registry.example",),
    volumes={"/data": "datasets"},
    checkpoint=Checkpoint("ckpt", "/data/ckpt", 1 << 40, "fast"),
    grace_s=300,
    join_timeout_s=5400,
    max_restarts=5,
    secret=JobSecret("shared", create=True),
    monitoring=Monitoring(9500, "observe", {"release": "prometheus"}),
    preflight=False,
    user=2000,
    ipc_lock=False,
)
BASE = {
    "name": "llm",
    "image": "train:1",
    "command": "[rdmatrain, run, train.py]",
    "network": "{devices: tcp}",
}
SRIOV = "{vfs: 4}"


def text(**changes):
    lines = {**BASE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return "".join(f"{name}: {value}\n" for name, value in lines.items() if value is not None)


def complaints(yaml):
    with pytest.raises(SpecError) as error:
        read_spec(yaml, "job.yaml")
    assert "; ".join(error.value.problems) == str(error.value)
    assert all("\n" not in line for line in error.value.problems)
    return list(error.value.problems)


def complaint(yaml):
    (line,) = complaints(yaml)
    return line


def test_every_field_is_read():
    assert read_spec(WHOLE, "job.yaml") == SPEC


def names_of(made, path=""):
    for each in fields(made):
        value, name = getattr(made, each.name), path + spelled(each.name)
        yield from names_of(value, name + ".") if is_dataclass(value) else [(name, value)]


def test_the_sample_has_every_field_but_those_that_exclude_others():
    # So that the test above is about all of them.
    usual = dict(names_of(Spec("llm", "x", ())))
    same = {name for name, value in names_of(SPEC) if usual[name] == value}
    assert same == {"name", "network.host-network", "network.host-network-reason"}


@pytest.mark.parametrize("entry", ["{key: a}", "a=b:Never"])
def test_an_entry_of_a_list_has_its_line(entry):
    above = f"{text()}tolerations:\n- a=b:NoSchedule\n"
    line = complaint(f"{above}- {entry}\n")
    assert line.startswith(f"job.yaml:{above.count(chr(10)) + 1}: tolerations[1] ")


def test_what_is_left_out_is_the_default():
    spec = read_spec(text(), "job.yaml")
    command = ("rdmatrain", "run", "train.py")
    assert spec == Spec("llm", "train:1", command, network=Network(devices="tcp"))


def test_json_is_read_too():
    json = (
        '{"name": "llm", "image": "x", "command": ["rdmatrain", "run", "a"], "nodes": 2,'
        ' "network": {"devices": "tcp"}, "preflight": false}'
    )
    spec = read_spec(json, "job.json")
    assert (spec.nodes, spec.preflight, spec.command) == (2, False, ("rdmatrain", "run", "a"))


def test_a_reason_goes_with_the_hosts_network():
    network = "{devices: tcp, host-network: true, host-network-reason: no CNI}"
    spec = read_spec(text(network=network), "job.yaml")
    assert spec.network.host_network
    assert spec.network.host_network_reason == "no CNI"


@pytest.mark.parametrize(
    ("yaml", "field", "value", "remedy"),
    [
        # Types.
        ("nodes: two\n", "nodes", "the text two", "whole number"),
        ("nodes: '2'\n", "nodes", "the text 2", "without quotes"),
        ("nodes: 08\n", "nodes", "08", "leading zeros"),
        ("nodes: 1e3\n", "nodes", "1e3", "whole number"),
        ("nodes: 2.0\n", "nodes", "2.0", "whole number"),
        ("nodes: [2]\n", "nodes", "a list", "whole number"),
        ("nodes: 1:30\n", "nodes", "1:30", "whole number"),
        ("cpus: 500m\n", "cpus", "the text 500m", "whole number"),
        ("cpus: 1.5\n", "cpus", "1.5", "whole number"),
        ("preflight: yes\n", "preflight", "yes", "true or false"),
        ("preflight: 'true'\n", "preflight", "the text true", "true or false"),
        ("memory: 64\n", "memory", "64", "such as 64Gi"),
        ("memory: 64g\n", "memory", "64g", "such as 64Gi"),
        ("memory: 0.3G\nshm: 0.0000000001Gi\n", "shm", "0.0000000001Gi", "such as 64Gi"),
        ("grace: 120\n", "grace", "120", "such as 120s"),
        ("grace: 2 min\n", "grace", "2 min", "such as 120s"),
        ("grace: -30s\n", "grace", "-30s", "such as 120s"),
        ("grace: 1.5m\n", "grace", "1.5m", "whole numbers"),
        ("queue: [a]\n", "queue", "a list", "give a text"),
        ("queue:\n", "queue", "empty", "leave the field out"),
        ("topology: rack\n", "topology", "the text rack", "a mapping"),
        ("topology:\n", "topology", "empty", "leave the field out"),
        ("env: [A]\n", "env", "a list", "a mapping of texts"),
        ("env: {A: {B: c}}\n", "env.A", "a map", "give a text"),
        ("env: {A: }\n", "env.A", "empty", "give a text"),
        # Names.
        ("gpu-resource: gpu\n", "gpu-resource", "gpu", "nvidia.com/gpu"),
        ("gpu-resource: kubernetes.io/gpu\n", "gpu-resource", "kubernetes.io/gpu", "DOMAIN/NAME"),
        ("namespace: My_ns\n", "namespace", "My_ns", "a-z, 0-9 and -"),
        ("queue: a/b\n", "queue", "a/b", "a-z, 0-9 and -"),
        ("priority: -high\n", "priority", "-high", "a letter or digit first"),
        ("secret: {name: A}\n", "secret.name", "A", "a-z"),
        ("topology: {label: a/b/c}\n", "topology.label", "a/b/c", "DOMAIN/NAME"),
        ("topology: {label: -rack}\n", "topology.label", "-rack", "DOMAIN/NAME"),
        ("monitoring: {namespace: a.b}\n", "monitoring.namespace", "a.b", "a-z, 0-9 and -"),
        ("monitoring: {labels: {a b: c}}\n", "monitoring.labels.a b", "no name", "DOMAIN/NAME"),
        ("monitoring: {labels: {a: b c}}\n", "monitoring.labels.a", "b c", "63 letters"),
        # Numbers.
        ("nodes: 0\n", "nodes", "0", "1 to 100000"),
        ("nodes: -1\n", "nodes", "-1", "1 to 100000"),
        ("gpus: 257\n", "gpus", "257", "0 to 256"),
        ("cpus: 0\n", "cpus", "0", "1 to 4096"),
        ("max-restarts: -1\n", "max-restarts", "-1", "0 to 1000"),
        ("user: 0\n", "user", "0", "other than root's"),
        ("gpus: 8\nworkers: 12\n", "workers", "12 for 8 GPUs", "a multiple of 8"),
        ("gpus: 8\nworkers: 4\n", "workers", "4 for 8 GPUs", "a multiple of 8"),
        ("shm: 16Gi\n", "shm", "16Gi", "lower shm, or raise memory"),
        ("shm: 1Mi\n", "shm", "1Mi", "at least 64Mi"),
        ("grace: 29s\n", "grace", "29s", "30s to 1d"),
        ("grace: 25h\n", "grace", "25h", "30s to 1d"),
        ("join-timeout: 0s\n", "join-timeout", "0s", "1s to 1d"),
        ("monitoring: {port: 80}\n", "monitoring.port", "80", "1024 to 65535"),
        ("monitoring: {port: 29500}\n", "monitoring.port", "29500, the leader's", "another"),
        # Variables.
        ("env: {RANK: 0}\n", "env.RANK", "the launcher's", "remove it"),
        ("env: {MASTER_ADDR: a}\n", "env.MASTER_ADDR", "the launcher's", "remove it"),
        ("env: {PET_NNODES: 2}\n", "env.PET_NNODES", "the launcher's", "remove it"),
        ("env: {RDMATRAIN_GRACE: 5}\n", "env.RDMATRAIN_GRACE", "the launcher's", "remove it"),
        ("env: {A-B: c}\n", "env.A-B", "no name of a variable", "letters, digits and _"),
        ("env: {1A: c}\n", "env.1A", "no name of a variable", "no digit first"),
        # Checkpoints.
        ("checkpoint: {size: 1Ti}\n", "checkpoint.claim", "empty", "name the claim"),
        ("checkpoint: {claim: a, storage-class: b}\n", "checkpoint.storage-class", "is of a claim",
         "give checkpoint.size"),
        ("checkpoint: {claim: a, path: data}\n", "checkpoint.path", "data", "an absolute path"),
        ("checkpoint: {claim: a, path: /a/../b}\n", "checkpoint.path", "/a/../b", "absolute path"),
        ("checkpoint: {claim: a, path: /data/}\n", "checkpoint.path", "/data/", "absolute path"),
        ("checkpoint: {claim: a, path: /dev/shm}\n", "checkpoint.path", "/dev/shm", "/checkpoints"),
        (
            "checkpoint: {claim: a, path: /etc/rdmatrain}\n",
            "checkpoint.path",
            "/etc/rdmatrain",
            "/checkpoints",
        ),
        ("checkpoint: {claim: a, path: /tmp}\n", "checkpoint.path", "/tmp", "/checkpoints"),
        ("volumes: {/data: A}\n", "volumes./data", "is A", "253 of a-z"),
        ("volumes: {data: a}\n", "volumes.data", "is data", "an absolute path"),
        ("volumes: {/dev/shm: a}\n", "volumes./dev/shm", "the system's", "such as"),
        (
            "checkpoint: {claim: a}\nvolumes: {/checkpoints: b}\n",
            "volumes./checkpoints",
            "that of checkpoints",
            "another path",
        ),
        ("tolerations: [a=b:Never]\n", "tolerations[0]", "a=b:Never", "NoSchedule"),
        ('tolerations: [""]\n', "tolerations[0]", "empty", "KEY=VALUE:EFFECT"),
        ("node-selector: {a b: c}\n", "node-selector.a b", "no name of a label", "DOMAIN/NAME"),
        ("node-selector: {a: b/c}\n", "node-selector.a", "b/c", "63 letters"),
        ("pull-secrets: [A]\n", "pull-secrets[0]", "is A", "253 of a-z"),
    ],
)  # fmt: skip
def test_what_a_field_cannot_be_is_refused(yaml, field, value, remedy):
    line = complaint(text() + yaml)
    place, said = line.split(f": {field} ", 1)
    assert place.startswith("job.yaml")
    assert value in said
    assert remedy in said


@pytest.mark.parametrize(
    "path",
    [
        "/bin", "/dev/infiniband", "/etc/podinfo", "/lib", "/lib64/a", "/opt", "/opt/rdmatrain",
        "/opt/rdmatrain/bin", "/run/secrets", "/sbin", "/sys/class", "/usr", "/usr/lib", "/var",
    ],
)  # fmt: skip
def test_checkpoints_do_not_hide_what_the_image_has(path):
    assert "the system's: give one such as" in complaint(text() + f"checkpoint: {{path: {path}}}\n")


def test_checkpoints_do_not_hide_the_program():
    command = "[/home/me/venv/bin/rdmatrain, run, train.py]"
    for path in ("/home", "/home/me/venv"):
        said = complaint(text(command=command) + f"checkpoint: {{path: {path}}}\n")
        assert f"is {path}, where a volume hides /home/me/venv/bin/rdmatrain" in said


@pytest.mark.parametrize(
    "path", ["/opt/ml", "/opt/rdmatrain-data", "/library", "/tmp/a", "/var/lib/ckpt", "/home/me/b"]
)
def test_other_places_may_have_checkpoints(path):
    command = "[/home/me/venv/bin/rdmatrain, run, train.py]"
    spec = read_spec(text(command=command) + f"checkpoint: {{path: {path}}}\n", "job.yaml")
    assert spec.checkpoint.path == path


@pytest.mark.parametrize(
    ("network", "field", "said"),
    [
        ("{}", "vfs", "is 0: give how many VFs a node has, 1 to 256, or network.devices: tcp"),
        ("{devices: roce}", "devices", "is roce: give sriov, shared, dra, tcp"),
        ("{vfs: 300}", "vfs", "is 300: give how many VFs a node has, 1 to 256"),
        ("{vfs: 4, networks: []}", "networks", "has 0 names for 4 VFs: give one for all of them"),
        ("{vfs: 4, networks: [a, b]}", "networks", "has 2 names for 4 VFs"),
        ("{vfs: 1, networks: [A]}", "networks[0]", "is A: give at most 253"),
        ("{vfs: 1, networks: [N/a]}", "networks[0]", "is N/a: give at most 63"),
        ("{vfs: 1, resource: rdma}", "resource", "is rdma: give DOMAIN/NAME"),
        ("{vfs: 1, resource: nvidia.com/gpu}", "resource", "that of GPUs"),
        ("{vfs: 1, link: eth}", "link", "is eth: give roce, infiniband"),
        ("{vfs: 1, mtu: 100}", "mtu", "is 100: give 576 to 65520"),
        ("{vfs: 1, pfs: [a-name-that-is-long]}", "pfs[0]", "give an interface, such as eth0"),
        ("{vfs: 1, subnet: 10.1.0.0}", "subnet", "is 10.1.0.0: give its length too"),
        ("{vfs: 1, subnet: 10.1.0.1/16}", "subnet", "is 10.1.0.1/16: give a network of IPv4"),
        ("{vfs: 1, subnet: 'fd00::/64'}", "subnet", "is fd00::/64: give a network of IPv4"),
        ("{vfs: 1, aligned: root}", "aligned", "is root: give pcie, numa, prefer"),
        ("{devices: shared}", "vfs", "is 0: a shared device is one, give 1"),
        ("{devices: shared, vfs: 2}", "vfs", "is 2: a shared device is one, give 1"),
        ("{devices: tcp, vfs: 2}", "vfs", "is 2, and network.devices tcp has none"),
        ("{devices: tcp, host-network: true}", "host-network", "is true without a reason"),
        ("{devices: tcp, host-network-reason: x}", "host-network-reason", "leave out one"),
        ("{vfs: 1, host-network: true, host-network-reason: x}", "host-network",
         "no VF moves into the host's network"),
    ],
)  # fmt: skip
def test_a_network_that_cannot_be_is_refused(network, field, said):
    line = complaint(text(network=network))
    assert f": network.{field} " in line
    assert said in line


@pytest.mark.parametrize(("gpus", "vfs", "fits"), [(8, 8, 1), (8, 4, 1), (4, 8, 1), (8, 3, 0)])
def test_dra_pairs_gpus_and_vfs_evenly(gpus, vfs, fits):
    yaml = text(gpus=gpus, network=f"{{devices: dra, vfs: {vfs}}}")
    if fits:
        assert read_spec(yaml, "job.yaml").network.vfs == vfs
        return
    assert f"network.vfs is {vfs} for {gpus} GPUs" in complaint(yaml)
    prefer = text(gpus=gpus, network=f"{{devices: dra, vfs: {vfs}, aligned: prefer}}")
    assert read_spec(prefer, "job.yaml").network.aligned == "prefer"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("[]", "is empty: give [rdmatrain, run, SCRIPT]"),
        ("[sh, -c, rdmatrain run a.py]", "begins with sh, which loses variables with dashes"),
        ("[/bin/bash, -lc, x]", "give the exec form"),
        ("[python, train.py]", "is python train.py: give [rdmatrain, run, SCRIPT]"),
        ("[rdmatrain, doctor]", "is rdmatrain doctor"),
        ("[rdmatrain, run]", "has no script"),
        ("[rdmatrain, run, --no-bind]", "has no script"),
        ("[rdmatrain, run, --grace, 5, a.py]", "has --grace: the field grace says it"),
        ("[rdmatrain, run, --max_restarts=5, a.py]", "has --max_restarts: the field max-restarts"),
        ("[rdmatrain, run, --node-rank, 0, a.py]", "has --node-rank: every node has its own"),
        ("[rdmatrain, run, --tes, 3, a.py]", "there is no option --tes"),
    ],
)
def test_a_command_that_cannot_be_is_refused(command, said):
    line = complaints(text(command=command))[0]
    assert line.startswith("job.yaml:3: command ")
    assert said in line


@pytest.mark.parametrize(
    "command",
    [
        "[rdmatrain, run, train.py, --grace, 5]",
        "[/opt/venv/bin/rdmatrain, run, -m, train]",
        "[rdmatrain, run, --tee, 3, -r, '0:3', -r3, --no_bind, train.py, --node-rank, 0]",
        "[python, -m, rdmatrain, run, train.py]",
    ],
)
def test_options_of_the_script_are_its_own(command):
    spec = read_spec(text(command=command), "job.yaml")
    assert "run" in spec.command


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("Llm", "a-z, 0-9 and -"),
        ("-a", "no - first or last"),
        ("a.b", "a-z, 0-9 and -"),
        ("1a", "begin with a letter"),
        ("a" * 64, "at most 63"),
        ('""', "a-z"),
    ],
)
def test_a_jobs_name_is_a_label_of_dns(name, remedy):
    assert remedy in complaint(text(name=name))


def test_a_name_at_its_limit_is_taken():
    assert len(read_spec(text(name="a" * 63), "job.yaml").name) == 63


@pytest.mark.parametrize(
    ("image", "remedy"),
    [
        ('""', "name the image"),
        ("https://registry.example/a", "before ://"),
        ("Team/Train", "REGISTRY/NAME:TAG"),
        ("'a b'", "REGISTRY/NAME:TAG"),
        ("a@sha256:12", "NAME@sha256:DIGEST"),
    ],
)
def test_an_image_that_is_none_is_refused(image, remedy):
    assert remedy in complaint(text(image=image))


def test_all_that_is_wrong_is_told_at_once_with_its_line():
    yaml = "name: llm\nimge: x\nnodes: two\nnetwork:\n  hostNetwork: true\n  vfs: 1\n"
    assert complaints(yaml) == [
        "job.yaml:2: imge is no field of a spec: did you mean image?",
        "job.yaml: image is not there: every job has one",
        "job.yaml: command is not there: every job has one",
        "job.yaml:3: nodes is the text two: give a whole number, without quotes and leading zeros",
        "job.yaml:5: network.hostNetwork is no field of a spec: did you mean network.host-network?",
    ]


def test_a_field_that_resembles_none_is_answered_with_all():
    assert "fields are name, create" in complaint(text(secret="{zzz: 1}"))


def test_a_key_that_is_there_twice_is_refused():
    yaml = text(network="\n  devices: tcp\n  devices: tcp") + "nodes: 1\nnodes: 2\n"
    assert [line.partition(": ")[2] for line in complaints(yaml)] == [
        "nodes is there 2 times: leave one",
        "network.devices is there 2 times: leave one",
    ]


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("", "has 0 documents"),
        ("---\n---\n", "has 0 documents"),
        ("a: 1\n---\nb: 2\n", "has 2 documents"),
        ("- a\n", "is no mapping"),
        ("a: 1\nb: c: d\n", "job.yaml:2: mapping values are not allowed"),
        ("a: {{ x }}: y\n", "is it a template?"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n", "Pod a, and no spec of a job"),
        ("a: *b\n", "what *b means is not there"),
    ],
)
def test_a_file_that_is_no_spec_is_refused(yaml, said):
    with pytest.raises(SettingError) as error:
        read_spec(yaml, "job.yaml")
    assert said in str(error.value)
    assert str(error.value).startswith("job.yaml")


def test_a_billion_laughs_are_refused():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 8)]
    with pytest.raises(SettingError, match="more than 200000 values"):
        read_spec("\n".join(lines), "job.yaml")


def test_a_file_is_read(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(text())
    assert read_file(str(path)).name == "llm"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(SettingError, match="no text in UTF-8"):
        read_file(str(path))
    with pytest.raises(SettingError, match="No such file"):
        read_file(str(tmp_path / "none.yaml"))
    with pytest.raises(SettingError, match="Is a directory"):
        read_file(str(tmp_path))


def test_standard_input_is_read():
    read, write = os.pipe()
    saved = os.dup(0)
    try:
        with io.FileIO(write, "w") as pipe:
            pipe.write(text(name="of-a-pipe").encode())
        os.dup2(read, 0)
        assert read_file("-").name == "of-a-pipe"
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(read)


@pytest.mark.parametrize(
    ("written", "number", "again"),
    [("90s", 90, "90s"), ("1h30m", 5400, "90m"), ("2d", 172800, "2d"), ("0s", 0, "0s")],
)
def test_durations(written, number, again):
    assert seconds(written) == number
    assert duration_text(number) == again
    assert seconds(again) == number


@pytest.mark.parametrize(
    ("written", "number", "again"),
    [
        ("64Gi", 64 << 30, "64Gi"),
        ("1024Mi", 1 << 30, "1Gi"),
        ("1.5Ti", 1536 << 30, "1536Gi"),
        ("2G", 2_000_000_000, "1953125Ki"),
        ("1k", 1000, "1000"),
    ],
)
def test_sizes(written, number, again):
    assert size(written) == number
    assert size_text(number) == again
