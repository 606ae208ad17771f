# SPDX-License-Identifier: Apache-2.0
"""Writes a small machine, or what a pod sees of one, below a folder: sysfs, procfs and /dev."""

import ipaddress
import posixpath
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fake_rdma import Entry, write_port

from rdmatrain.discovery.source import Tree

ROOT = ("pci0000:00",)  # where a function is put that is not told a place
NDR = "400 Gb/sec (4X NDR)"


class Builder:
    """A machine that grows call by call. Paths are absolute, as the machine has them.

    ``pci`` is the address of a function, ``under`` the root and the bridges above it, ``numa`` its
    node. All methods but ``source`` give the builder back.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._networks: list[tuple[str, ipaddress.IPv4Interface | ipaddress.IPv6Interface]] = []
        self._num_uverbs = 0

    def source(self, probes: Mapping[str, Any] | None = None) -> Tree:
        """What has been written, as a source; probes by name, with the answer of each."""
        return Tree(self.root, {name: _always(answer) for name, answer in (probes or {}).items()})

    def file(self, path: str, text: str = "") -> "Builder":
        place = self._at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return self

    def files(self, folder: str, **texts: object) -> "Builder":
        """Attributes of one line each."""
        for name, text in texts.items():
            self.file(f"{folder}/{name}", f"{text}\n")
        return self

    def link(self, path: str, target: str) -> "Builder":
        """A relative symbolic link to what the target is, as sysfs has them."""
        place = self._at(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        # Classes link to devices: a link's own folder is never behind a link here.
        place.symlink_to(posixpath.relpath(target, posixpath.dirname(path)))
        return self

    def function(
        self,
        pci: str,
        under: tuple[str, ...] = ROOT,
        *,
        ids: str,
        pci_class: str = "0x020000",
        numa: int | None = None,
        driver: str = "",
    ) -> "Builder":
        """A PCI function; one that is there stays where and as it is."""
        home = f"/sys/devices/{'/'.join(under)}/{pci}"
        if self._at(f"/sys/bus/pci/devices/{pci}").is_symlink():
            return self
        vendor, _, device = ids.partition(":")
        self.files(home, vendor=f"0x{vendor}", device=f"0x{device}", numa_node=_or(numa, -1))
        self.file(f"{home}/class", f"{pci_class}\n")
        if driver:
            self._at(f"/sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
            self.link(f"{home}/driver", f"/sys/bus/pci/drivers/{driver}")
        return self.link(f"/sys/bus/pci/devices/{pci}", home)

    def nic(
        self,
        name: str,
        pci: str = "",
        under: tuple[str, ...] = ROOT,
        *,
        netdev: str = "",
        gids: Mapping[int, Entry] | None = None,
        pf: str = "",
        numa: int | None = None,
        ids: str = "",
        driver: str = "mlx5_core",
        uverbs: str | None = None,
        node: bool = True,
        rate: str = NDR,
        **port: Any,
    ) -> "Builder":
        """An RDMA device with one port.

        Without ``pci`` it is a soft one, whose parent is ``netdev``. With ``pf`` it is a virtual
        function of that one, which is made where it is not there. ``gids`` are as in
        ``fake_rdma.write_port``, of ``netdev`` unless told otherwise; ``port`` goes there too.
        ``uverbs`` is the next one unless told otherwise, and has a ``node`` in /dev/infiniband.
        """
        if pci:
            self.function(pci, under, ids=ids or _nvidia_nic(pf), numa=numa, driver=driver)
            home = self._home(pci)
            if pf:
                self._virtual(pci, pf, under, numa)
            self.link(f"{home}/infiniband/{name}/device", home)
            if netdev:
                self.netdev(netdev, pci)
        else:
            home = "/sys/devices/virtual"
            if netdev:
                self.files(f"{home}/infiniband/{name}", parent=netdev)
        device = f"{home}/infiniband/{name}"
        self.files(device, fw_ver="28.39.1002", board_id="MT_0000000838", node_type="1: CA")
        self.link(f"/sys/class/infiniband/{name}", device)
        entries = {
            index: entry if len(entry) == 3 else (*entry, netdev)
            for index, entry in (gids or {}).items()
        }
        write_port(self.root, f"{name}/1", entries, **port)
        self.files(f"{device}/ports/1", rate=rate)
        return self._uverbs(name, uverbs, node=node)

    def gpu(
        self,
        pci: str,
        under: tuple[str, ...] = ROOT,
        *,
        minor: int = 0,
        uuid: str = "",
        model: str = "NVIDIA H100 80GB HBM3",
        numa: int | None = None,
        ids: str = "10de:2330",
        pci_class: str = "0x120000",
        node: bool = True,
    ) -> "Builder":
        """A GPU, of AMD if ``ids`` says so, and if ``node`` what it takes to open it.

        NVIDIA's are all of one class.
        """
        if ids.startswith("1002:"):
            self.function(pci, under, ids=ids, pci_class=pci_class, numa=numa, driver="amdgpu")
            home, render = self._home(pci), f"renderD{128 + minor}"
            self.files(home, unique_id=uuid).files(f"{home}/drm/{render}", dev=f"226:{128 + minor}")
            return self.file(f"/dev/dri/{render}").file("/dev/kfd") if node else self
        self.function(pci, under, ids=ids, pci_class="0x030200", numa=numa, driver="nvidia")
        self.file(
            f"/proc/driver/nvidia/gpus/{pci}/information",
            f"Model: \t\t {model}\nIRQ:   \t\t 0\nGPU UUID: \t {uuid}\n"
            f"Bus Type: \t PCIe\nBus Location: \t {pci}\nDevice Minor: \t {minor}\n"
            "GPU Excluded:\t No\n",
        )
        return self.file(f"/dev/nvidia{minor}") if node else self

    def netdev(
        self,
        name: str,
        pci: str = "",
        *,
        mac: str = "02:00:00:00:00:01",
        mtu: int = 1500,
        state: str = "up",
        addresses: tuple[str, ...] = (),
    ) -> "Builder":
        """A network interface, with addresses as in 10.0.0.2/24; one that is there gets them."""
        home = self._home(pci) if pci else "/sys/devices/virtual"
        if not self._at(f"/sys/class/net/{name}").exists():
            if pci:
                self.link(f"{home}/net/{name}/device", home)
            self.link(f"/sys/class/net/{name}", f"{home}/net/{name}")
        self.files(f"{home}/net/{name}", address=mac, mtu=mtu, operstate=state)
        self._networks += [(name, ipaddress.ip_interface(address)) for address in addresses]
        return self._write_addresses()

    def numa(self, number: int, cpus: str) -> "Builder":
        return self.files(f"/sys/devices/system/node/node{number}", cpulist=cpus)

    def environ(self, pid: int | str, variables: Mapping[str, str]) -> "Builder":
        text = "".join(f"{name}={value}\0" for name, value in variables.items())
        return self.file(f"/proc/{pid}/environ", text)

    def _at(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def _home(self, pci: str) -> str:
        place = self._at(f"/sys/bus/pci/devices/{pci}").resolve()
        return f"/{place.relative_to(self.root.resolve())}"

    def _virtual(self, pci: str, pf: str, under: tuple[str, ...], numa: int | None) -> None:
        self.function(pf, under, ids="15b3:1021", numa=numa, driver="mlx5_core")
        parent = self._home(pf)
        number = len(list(self._at(parent).glob("virtfn*")))
        self.files(parent, sriov_totalvfs=16, sriov_numvfs=number + 1)
        self.link(f"{parent}/virtfn{number}", self._home(pci))
        self.link(f"{self._home(pci)}/physfn", parent)

    def _uverbs(self, device: str, name: str | None, *, node: bool) -> "Builder":
        name = f"uverbs{self._num_uverbs}" if name is None else name
        if not name:
            return self
        self._num_uverbs += 1
        self.files(f"/sys/class/infiniband_verbs/{name}", ibdev=device)
        return self.file(f"/dev/infiniband/{name}") if node else self

    def _write_addresses(self) -> "Builder":
        """Routes to connected networks, and addresses, as procfs has them."""
        routes, local, inet6 = (
            ["Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask"],
            [],
            [],
        )
        for name, address in self._networks:
            if isinstance(address, ipaddress.IPv6Interface):
                inet6.append(f"{address.packed.hex()} 02 40 00 80 {name:>8}")
                continue
            local += [f"        |-- {address.ip}", "           /32 host LOCAL"]
            if address.network.prefixlen < 32:
                where, mask = (
                    int.from_bytes(part.packed, "little")
                    for part in (address.network.network_address, address.network.netmask)
                )
                routes.append(f"{name}\t{where:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0")
        self.file("/proc/net/route", "".join(f"{line}\n" for line in routes))
        self.file("/proc/net/fib_trie", "".join(f"{line}\n" for line in local))
        return self.file("/proc/net/if_inet6", "".join(f"{line}\n" for line in inet6))


def _always(answer: Any) -> Callable[[], Any]:
    return lambda: answer


def _or(number: int | None, default: int) -> int:
    return default if number is None else number


def _nvidia_nic(pf: str) -> str:
    """ConnectX's virtual function, or ConnectX-7."""
    return "15b3:101e" if pf else "15b3:1021"
