"""What can be wrong with a machine or a pod, by id: stable, for scripts and the doctor."""

from rdmatrain.discovery.model import Complaint

# Sorted. The text of a complaint says what was seen; this says what it means.
MEANING = {
    "env-differs": "a device plugin's variable has another value in an ancestor of this process",
    "env-lost-by-shell": "a shell dropped variables of a device plugin: their names have hyphens",
    "file-contradiction": "a file states two different things of one device; the first counts",
    "gpus-hidden": "the kernel shows GPUs, and this container has no device node for any of them",
    "gpus-unclear": "this container has nodes for some of the GPUs, and nothing says for which",
    "listed-twice": "a device is listed twice, or in two resources: it counts once",
    "lists-differ": "two variables of one plugin do not name the same devices",
    "network-status-late": "fewer networks are attached than were asked for, so far",
    "nic-shared": "there are more GPUs than NICs, so that several use one",
    "no-nic": "there are GPUs and no RDMA device",
    "nvml-failed": "the GPU driver does not answer, or has lost a GPU",
    "pairing-far": "a GPU's NIC is not below its host bridge, while those of other GPUs are",
    "pci-hidden": "some devices' place in the PCI tree is not visible, so that nearness is a guess",
    "rdma-not-told": "the device plugin saw no RDMA device of a function when it allocated it",
    "several-machines": "a file describes several machines; only the first is used",
    "unreadable": "a file, variable or probe has content that cannot be parsed; it was left out",
    "vanished": "a device is listed and cannot be read: it was taken away, or its link is broken",
}


def complaint(what: str, source: str, text: str) -> Complaint:
    """Make a complaint; ``what`` is a key of MEANING.

    Raises:
        KeyError: it is not.

    """
    MEANING[what]
    return Complaint(what, source, text)
