"""What can be wrong with a machine or a pod, by id: stable, for scripts and the doctor."""

from rdmatrain.discovery.model import Complaint

# Sorted. The text of a complaint says what was seen; this says what it means.
MEANING = {
    "cpus-far": "this process may not run on any CPU of a GPU's NUMA node",
    "elastic-nodes": "the number of nodes is a range; the smallest is what counts",
    "env-differs": "a device plugin's variable has another value in an ancestor of this process",
    "env-lost-by-shell": "a shell dropped variables of a device plugin: their names have hyphens",
    "fabrics-differ": "some GPUs use InfiniBand and others Ethernet, which do not reach each other",
    "file-contradiction": "a file states two different things of one device; the first counts",
    "gpu-missing": "a GPU was granted, or chosen by a variable, that the driver does not show",
    "gpu-more-than-granted": "the driver shows GPUs that were not granted; they are not used",
    "gpus-hidden": "the kernel shows GPUs, and this container has no device node for any of them",
    "gpus-unclear": "this container has nodes for some of the GPUs, and nothing says for which",
    "grants-differ": "a device was attached to a network that the device plugin does not list",
    "identity-conflict": "two sources say different things of this node's place in the job",
    "listed-twice": "a device is listed twice, or in two resources: it counts once",
    "lists-differ": "two variables of one plugin do not name the same devices",
    "maybe-jobset": "an Indexed Job looks like one of several jobs of a JobSet",
    "metadata-late": "a network driver has not said yet what a device became in the pod",
    "metadata-torn": "metadata of a DRA driver was read while it was written",
    "misleading-rank": "RANK and WORLD_SIZE are of the pod, and it runs several processes",
    "mounts-empty": "a variable says that a folder names the GPUs, and there is nothing in it",
    "netdev-differs": "a source gives an interface another PCI address than the kernel does",
    "network-status-late": "fewer networks are attached than were asked for, so far",
    "nic-foreign": "NICs are visible that belong to the host or to other pods; they are not used",
    "nic-missing": "a NIC was granted that is not visible here",
    "nic-not-opened": "libibverbs cannot open a NIC",
    "nic-not-rdma": "a NIC was granted whose interface is here, but whose RDMA device is not",
    "nic-port-down": "no port of a NIC has a link",
    "nic-shared": "there are more GPUs than NICs, so that several use one",
    "nic-unclaimed": "NICs work here that no source grants, though others are; they are not used",
    "nic-without-gid": "no GID of a NIC works in this network namespace",
    "nic-without-node": "the device node of a NIC is not in this container, or not allowed",
    "no-nic": "there are GPUs and no RDMA device",
    "no-subdomain": "the pod has no domain, so that others cannot find it by name",
    "node-forbidden": "a device node is there and the devices cgroup forbids opening it",
    "not-a-number": "a number of nodes, rank or port is none, or is out of its range",
    "not-in-a-step": "the script of a Slurm job runs on the first of its nodes only",
    "not-in-hosts": "this host is not in the list of the hosts of its job",
    "nvml-failed": "the GPU driver does not answer, or has lost a GPU",
    "pairing-far": "a GPU's NIC is not below its host bridge, while those of other GPUs are",
    "pci-hidden": "some devices' place in the PCI tree is not visible, so that nearness is a guess",
    "pf-and-vf": "a physical function and its VF are both visible; only one of them is used",
    "pf-named": "a source names a physical function, where its VF is what works",
    "rank-out-of-range": "the rank of a node is not below the number of nodes",
    "rdma-cm-missing": "the node of the RDMA connection manager is missing beside those of devices",
    "rdma-name-differs": "a source gives an RDMA device another name than the kernel does",
    "rdma-not-told": "the device plugin saw no RDMA device of a function when it allocated it",
    "roce-v1-only": "the only GIDs of a NIC are RoCE v1, which does not cross routers",
    "several-machines": "a file describes several machines; only the first is used",
    "stale-hosts": "a list of hosts is older than the job, or does not tell its hosts apart",
    "unreadable": "a file, variable or probe has content that cannot be parsed; it was left out",
    "vanished": "a device is listed and cannot be read: it was taken away, or its link is broken",
    "variable-device": "the user's own variable names RDMA devices that are missing or foreign",
    "variable-gid": "the user's own GID index is not right for every NIC that it is applied to",
    "variable-interface": "the user's own variable names a network interface that cannot be used",
    "variable-prefix": "the user's own variable takes more names, which begin alike, than one",
    "variable-rdma-off": "the user's own variable turns RDMA off, and there are NICs to use",
    "verbs-unavailable": "libibverbs cannot be used, so nothing was opened",
    "vf-without-network": "more VFs were allocated than networks asked for",
}


def complaint(what: str, source: str, text: str) -> Complaint:
    """Make a complaint; ``what`` is a key of MEANING.

    Raises:
        KeyError: it is not.

    """
    MEANING[what]
    return Complaint(what, source, text)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 GPU``, ``2 GPUs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
