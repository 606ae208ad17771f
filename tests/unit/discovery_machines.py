# SPDX-License-Identifier: Apache-2.0
"""Machines as data, with the pairs that are right for them, for the tests of pairing."""

from dataclasses import replace

from rdmatrain.discovery.model import Gpu, Machine, Nic, Node


def switch(root: str, top: str, *devices: str) -> list[tuple[str, ...]]:
    """Return paths below one switch as sysfs has them: each device at a port of its own."""
    return [
        (f"pci{root}", f"{root}:01.0", top, f"{top[:-4]}{port:02x}.1", device)
        for port, device in enumerate(devices)
    ]


def gpu_at(index: int, path: tuple[str, ...], numa: int | None = None, model: str = "") -> Gpu:
    return Gpu(index, f"GPU{index}", path[-1], path, numa, "nvidia", model=model)


def nic_at(name: str, path: tuple[str, ...], numa: int | None = None, gbps: float = 400.0) -> Nic:
    return Nic(name, path[-1], path, numa, gbps=gbps)


def alone(address: str) -> tuple[str, ...]:
    """Return the path of a device at a root of its own, as Hyper-V has it."""
    return (f"pci{address[:7]}", address)


def hgx_h100() -> Machine:
    """Eight GPUs, each with its NIC below a switch, and four NICs for other things beside them."""
    gpus, nics = [], []
    for i in range(8):
        bus = 0x10 + 0x18 * i
        root = f"0000:{bus:02x}"
        gpu, nic = switch(root, f"0000:{bus + 1:02x}:00.0",
                          f"0000:{bus + 5:02x}:00.0", f"0000:{bus + 4:02x}:00.0")  # fmt: skip
        gpus.append(gpu_at(i, gpu, i // 4))
        nics.append(nic_at(f"mlx5_{(i * 5) % 12}", nic, i // 4))
    spare = [
        name for name in (f"mlx5_{i}" for i in range(12)) if name not in {n.name for n in nics}
    ]
    for i, name in enumerate(spare):
        root = f"0000:{0xE0 + 4 * i:02x}"
        path = (f"pci{root}", f"{root}:01.0", f"0000:{0xE1 + 4 * i:02x}:00.0")
        nics.append(nic_at(name, path, i // 2))
    return Machine("an HGX H100", tuple(gpus), tuple(sorted(nics, key=lambda nic: nic.name)))


def hgx_h100_pairs() -> dict[int, str]:
    return {i: f"mlx5_{(i * 5) % 12}" for i in range(8)}


def dgx_a100() -> Machine:
    """Two GPUs and two NICs at each of four switches, which are two deep."""
    gpus, nics = [], []
    for i in range(4):
        root = f"0000:{0x20 + 0x30 * i:02x}"
        top = (f"pci{root}", f"{root}:01.1", f"{root[:-2]}{0x21 + 0x30 * i:02x}:00.0")
        for j in range(2):
            below = (*top, f"{top[-1][:-4]}{j:02x}.0", f"0000:{0x24 + 0x30 * i + 8 * j:02x}:00.0")
            base = 0x25 + 0x30 * i + 8 * j
            ports = [(*below, f"{below[-1][:-4]}{port:02x}.0") for port in range(2)]
            gpus.append(gpu_at(2 * i + j, (*ports[0], f"0000:{base:02x}:00.0"), i))
            nics.append(nic_at(f"mlx5_{2 * i + j}", (*ports[1], f"0000:{base + 1:02x}:00.0"), i))
    return Machine("a DGX A100", tuple(gpus), tuple(nics))


def ndv4() -> Machine:
    """Azure ND A100 v4, whose PCI tree Hyper-V hides; GPUs of two NUMA nodes in each pair."""
    gpus = [f"{domain:04x}:00:00.0" for domain in (1, 2, 3, 4, 0xB, 0xC, 0xD, 0xE)]
    nics = [f"{domain:04x}:00:00.0" for domain in range(0x101, 0x109)]
    return Machine(
        "a virtual machine",
        tuple(gpu_at(i, alone(pci), model="NVIDIA A100") for i, pci in enumerate(gpus)),
        tuple(nic_at(f"mlx5_{i}", alone(pci), gbps=200) for i, pci in enumerate(nics)),
        virtual=True,
    )


def gb200() -> Machine:
    """Four GPUs and eight NICs, each at a root of its own; only NICs say their NUMA node."""
    gpus = ["0008:06:00.0", "0009:06:00.0", "0018:06:00.0", "0019:06:00.0"]
    nics = [f"{domain}:03:00.{port}" for domain in ("0000", "0002", "0010", "0012")
            for port in range(2)]  # fmt: skip
    return Machine(
        "a resource slice",
        tuple(gpu_at(i, alone(pci), model="NVIDIA GB200") for i, pci in enumerate(gpus)),
        tuple(nic_at(f"rdma{i}", alone(pci), i // 4) for i, pci in enumerate(nics)),
    )


def eight_gpus_four_nics() -> Machine:
    """Two GPUs and a NIC at each of four switches."""
    gpus, nics = [], []
    for i in range(4):
        root = f"0000:{0x20 + 0x30 * i:02x}"
        bus = 0x21 + 0x30 * i
        paths = switch(root, f"0000:{bus:02x}:00.0", *(f"0000:{bus + 2 + j:02x}:00.0"
                                                       for j in range(3)))  # fmt: skip
        gpus += [gpu_at(2 * i, paths[0], i // 2), gpu_at(2 * i + 1, paths[2], i // 2)]
        nics.append(nic_at(f"mlx5_{3 - i}", paths[1], i // 2))
    return Machine("eight GPUs and four NICs", tuple(gpus), tuple(nics))


def four_gpus_eight_nics() -> Machine:
    """All behind roots of one NUMA node: no NIC is nearer than another."""
    gpus = [(f"pci0000:{i:02x}", f"0000:{i:02x}:01.0", f"0000:{i + 1:02x}:00.0")
            for i in range(0x10, 0x50, 0x10)]  # fmt: skip
    nics = [(f"pci0000:{i:02x}", f"0000:{i:02x}:01.0", f"0000:{i + 1:02x}:00.0")
            for i in range(0x60, 0xE0, 0x10)]  # fmt: skip
    return Machine(
        "four GPUs and eight NICs",
        tuple(gpu_at(i, path, 0) for i, path in enumerate(gpus)),
        tuple(nic_at(f"mlx5_{i}", path, 0) for i, path in enumerate(nics)),
    )


def only_cpus() -> Machine:
    """Two NUMA nodes with hyper-threads and a NIC each; the second NIC is at the first node."""
    nics = (
        replace(nic_at("mlx5_0", ("pci0000:80", "0000:80:01.0", "0000:81:00.0"), 1)),
        replace(nic_at("mlx5_1", ("pci0000:10", "0000:10:01.0", "0000:11:00.0"), 0)),
    )
    nodes = (
        Node(0, (*range(8), *range(16, 24))),
        Node(1, (*range(8, 16), *range(24, 32))),
    )
    return Machine("CPUs only", (), nics, nodes=nodes, cpus=tuple(range(32)))
