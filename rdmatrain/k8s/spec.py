"""The description of a job: what ``job.yaml`` may say, with units and defaults.

``reading.py`` makes it of YAML and has refused whatever cannot be satisfied, so whoever has a
:class:`Spec` need not ask again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

MIB, GIB = 1 << 20, 1 << 30
# How ranks of different hosts are joined.
SRIOV, SHARED, DRA, TCP = "sriov", "shared", "dra", "tcp"
DEVICES = (SRIOV, SHARED, DRA, TCP)
ETHERNET, INFINIBAND = "roce", "infiniband"
LINKS = (ETHERNET, INFINIBAND)


@dataclass(frozen=True)
class Network:
    """What joins the pods.

    Attributes:
        devices: SR-IOV virtual functions of a device plugin, one device that pods share, devices
            that DRA allocates, or none: tcp over the pods' own network.
        vfs: virtual functions of a node; of a shared device 1, of tcp 0.
        resource: what the device plugin calls them.
        networks: names of NetworkAttachmentDefinitions, one for each VF in order; one name alone
            stands for all of them.
        link: link layer of the fabric.
        mtu: of the netdevs, in bytes; 0 leaves it as it is.
        pfs: names of the physical functions on the nodes, for the operator's policy.
        subnet: of IPv4, whose addresses the interfaces get, in a part of it for each network.
        device_class: of DRA, the DeviceClass of the NICs; ``gpu_class`` that of the GPUs.
        aligned: with DRA, ``pcie`` demands that each GPU's NIC is under its PCIe root, ``numa``
            that it is of its NUMA node, ``prefer`` takes the nearest there is.
        host_network: the host's own network; ``host_network_reason`` is printed with it.

    """

    devices: str = SRIOV
    vfs: int = 0
    resource: str = "nvidia.com/rdma-vf"
    networks: tuple[str, ...] = ("rdma-vf",)
    link: str = ETHERNET
    mtu: int = 0
    pfs: tuple[str, ...] = ()
    subnet: str = "192.168.0.0/16"
    device_class: str = "sriovnetwork.k8snetworkplumbingwg.io"
    gpu_class: str = "gpu.nvidia.com"
    aligned: str = "pcie"
    host_network: bool = False
    host_network_reason: str = ""


@dataclass(frozen=True)
class Topology:
    """Where the pods are to be: near each other.

    Attributes:
        label: of the nodes, whose value all pods are to share; empty: anywhere.
        required: they must, or they should.
        tier: for Volcano, the highest tier of its HyperNodes; 0: not said.

    """

    label: str = ""
    required: bool = True
    tier: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """Where checkpoints go.

    Attributes:
        claim: name of a PersistentVolumeClaim; empty: no volume.
        path: where it is mounted.
        size_bytes: of the claim, if it is to be made; 0: it is there.
        storage_class: of the claim, if it is to be made; empty: the cluster's.

    """

    claim: str = ""
    path: str = "/checkpoints"
    size_bytes: int = 0
    storage_class: str = ""


@dataclass(frozen=True)
class JobSecret:
    """What the launchers prove to each other.

    Attributes:
        name: of the Secret, whose key ``secret`` holds it; empty: ``<job>-secret``.
        create: render it, with a new value each time. Otherwise it is to be there.

    """

    name: str = ""
    create: bool = False


@dataclass(frozen=True)
class Monitoring:
    """How Prometheus gets at the metrics.

    Attributes:
        port: of each pod's metrics; 0: none are served.
        namespace: where Prometheus runs, which may reach that port.
        labels: by which Prometheus finds monitors and rules.

    """

    port: int = 9400
    namespace: str = "monitoring"
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A training job.

    Attributes:
        name: of the job, a DNS label; pods' names are made of it, so that targets limit it further.
        namespace: where it runs.
        image: what its pods run.
        command: the whole command line, exec form; ``rdmatrain run`` and what follows it.
        nodes: pods, each on a node of its own as long as there are enough with room.
        gpus: of a node; 0 trains on CPUs.
        gpu_resource: what the device plugin calls GPUs.
        workers: processes of a node; 0: one for each GPU, or one.
        cpus: of a node, whole ones, so that the pod is Guaranteed and its CPUs are its own.
        memory_bytes: of a node, the whole of what the pod may use, ``shm_bytes`` included.
        shm_bytes: of ``/dev/shm``.
        env: variables of the workers.
        network: what joins the pods.
        queue: of Volcano or Kueue; empty: none.
        priority: PriorityClass; empty: none.
        topology: where the pods are to be.
        node_selector: labels of the nodes that pods may be put on.
        tolerations: taints of nodes that pods may be put on all the same, as kubectl writes them:
            ``KEY=VALUE:EFFECT``, of which all but the key may be left out. That of nodes with GPUs,
            ``gpu_taint``, is always among them.
        pull_secrets: names of the Secrets that the image is pulled with.
        volumes: names of PersistentVolumeClaims that are there, by the paths to mount them at.
        checkpoint: where checkpoints go.
        grace_s: from SIGTERM to SIGKILL, seconds, in which the workers save.
        join_timeout_s: how long the gang may take to be complete, seconds.
        max_restarts: in place, by the launcher; and again by the scheduler for what may be retried.
        secret: what the launchers prove to each other.
        monitoring: how Prometheus gets at the metrics.
        preflight: ask the doctor in an initContainer.
        user: uid and gid of the pods.
        ipc_lock: add the capability IPC_LOCK, which Pod Security refuses from ``baseline`` on.

    """

    name: str
    image: str
    command: tuple[str, ...]
    namespace: str = "default"
    nodes: int = 1
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    workers: int = 0
    cpus: int = 4
    memory_bytes: int = 16 * GIB
    shm_bytes: int = 4 * GIB
    env: Mapping[str, str] = field(default_factory=dict)
    network: Network = field(default_factory=Network)
    queue: str = ""
    priority: str = ""
    topology: Topology = field(default_factory=Topology)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    volumes: Mapping[str, str] = field(default_factory=dict)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    grace_s: int = 120
    join_timeout_s: int = 600
    max_restarts: int = 3
    secret: JobSecret = field(default_factory=JobSecret)
    monitoring: Monitoring = field(default_factory=Monitoring)
    preflight: bool = True
    user: int = 1000
    ipc_lock: bool = True

    @property
    def secret_name(self) -> str:
        """Name of its Secret."""
        return self.secret.name or f"{self.name}-secret"

    @property
    def nproc(self) -> int:
        """Processes of a node."""
        return self.workers or self.gpus or 1

    @property
    def gpu_vendor(self) -> str:
        """Whose the GPUs are, by the name that they are asked for: ``amd.com``; empty: none."""
        name = self.network.gpu_class if self.network.devices == DRA else self.gpu_resource
        return ".".join(name.partition("/")[0].split(".")[-2:]) if self.gpus else ""

    @property
    def has_nvidia_gpus(self) -> bool:
        """Whether there are GPUs of NVIDIA."""
        return self.gpu_vendor == "nvidia.com"

    @property
    def gpu_field(self) -> str:
        """The field by which GPUs are asked for."""
        return "network.gpu_class" if self.network.devices == DRA else "gpu_resource"

    @property
    def gpu_taint(self) -> str:
        """Key of the taint that keeps others off nodes with GPUs: what a plugin calls them.

        A claim does not say that: ``amd.com/gpu`` for its DeviceClass ``gpu.amd.com``.
        """
        by_class = self.network.devices == DRA and "." in self.gpu_vendor
        return f"{self.gpu_vendor}/gpu" if by_class else self.gpu_resource

    @property
    def labels(self) -> dict[str, str]:
        """What its pods, and only they, are labelled with."""
        return {"app.kubernetes.io/name": "rdmatrain", "app.kubernetes.io/instance": self.name}
