# SPDX-License-Identifier: Apache-2.0
"""A survey with something of everything, made by hand."""

from rdmatrain.discovery.environment import Choice, Environment
from rdmatrain.discovery.model import (
    Complaint,
    Distance,
    Evidence,
    Gid,
    Gpu,
    Machine,
    Netdev,
    Nic,
    Node,
    Port,
)
from rdmatrain.discovery.pod_model import Allocation, Binding, GrantedGpu, GrantedNic, Pair, Pod
from rdmatrain.discovery.survey import Survey

LEFT, RIGHT = "pci0000:07", "pci0000:80"


def gpu(index: int, *above: str, numa: int | None = None) -> Gpu:
    pci = f"0000:{0x10 + index:02x}:00.0"
    path = (*above, pci) if above else ()
    return Gpu(index, f"GPU{index}", pci, path, numa, "nvidia", f"GPU-{index}", index, "H100")


def nic(name: str, pci: str, *above: str, numa: int | None = None, **fields: object) -> Nic:
    return Nic(name, pci, (*above, pci) if above else (), numa, **fields)  # type: ignore[arg-type]


def port(device: str, *gids: Gid) -> Port:
    return Port(device, 1, "ACTIVE", "Ethernet", gids, 400.0)


GID = Gid(3, "10.0.0.2", "RoCE v2", "net1")
GPUS = (
    gpu(0, LEFT, "0000:07:01.0", "0000:08:00.0", "0000:09:00.0", numa=0),
    gpu(1, RIGHT, "0000:80:01.0", numa=1),
)
OWN = nic(
    "mlx5_2", "0000:0c:00.2", LEFT, "0000:07:01.0", "0000:08:00.0", "0000:09:02.0", numa=0,
    netdevs=("net1",), ports=(port("mlx5_2", GID),), pf="0000:0c:00.0", is_vf=True,
    uverbs="uverbs2", gbps=400.0, vendor="15b3:101e", board="MT_1 28.39",
)  # fmt: skip
FAR = nic("mlx5_3", "0000:8c:00.0", RIGHT, "0000:80:05.0", numa=1, ports=(port("mlx5_3"),))
FOREIGN = nic(
    "mlx5_0", "0000:0c:00.0", LEFT, "0000:07:01.0", "0000:08:00.0", "0000:09:02.0", numa=0
)
SAID = Evidence("PCIDEVICE_X in /proc/1/environ", "0000:0c:00.2")

SURVEY = Survey(
    machine=Machine(
        origin="this machine",
        gpus=GPUS,
        nics=(FOREIGN, OWN, FAR),
        netdevs=(Netdev("net1", "0000:0c:00.2", "02:00:00:00:00:01", 4200, "up", ("10.0.0.2",)),),
        nodes=(Node(0, (0, 1, 2, 3)), Node(1, (4, 5, 6, 7))),
        cpus=(0, 1, 2, 3, 4, 5, 6, 7),
        product="Acme Box",
        virtual=True,
    ),
    pod=Pod(),
    allocation=Allocation(
        gpus=(GrantedGpu(GPUS[0], (SAID,)), GrantedGpu(GPUS[1], ())),
        nics=(
            GrantedNic(OWN, 1, GID, "default/net1", (SAID,)),
            GrantedNic(FAR, 0, None, "", ()),
        ),
        others=((FOREIGN, "its GIDs are of another network namespace"),),
        namespaces="shared",
    ),
    pairs=(
        Pair(GPUS[0], OWN, (), Distance.PIX, "PIX: both below one switch"),
        Pair(GPUS[1], OWN, (FAR,), Distance.SYS, "SYS: nothing nearer"),
    ),
    bindings=(
        Binding(0, GPUS[0], (OWN,), (1,), (3,), 0, (0, 1), "by its GPU"),
        Binding(1, GPUS[1], (OWN, FAR), (1, 0), (3, None), 1, (), "by its GPU"),
    ),
    environment=Environment(
        common=(
            Choice("NCCL_IB_HCA", "=mlx5_2:1", "=mlx5_2:1", False, "by whole names"),
            Choice("NCCL_IB_GID_INDEX", "1", "", True, "NCCL chooses better"),
            Choice("NCCL_TOPO_FILE", "", "", False, "not needed"),
        ),
        ranks={1: (Choice("UCX_NET_DEVICES", "mlx5_9:1", "mlx5_2:1", True, "the rank's own"),)},
    ),
    complaints=(Complaint("nic-foreign", "mlx5_0", "is not for this pod"),),
)
