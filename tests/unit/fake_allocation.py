# SPDX-License-Identifier: Apache-2.0
"""NICs that a pod was given, in few words."""

from hypothesis import strategies as st

from rdmatrain.discovery.model import Gid, Machine, Netdev, Nic, Port
from rdmatrain.discovery.pod_model import Binding, GrantedNic


def nic(name: str, *gids: Gid, layer: str = "Ethernet", port: int = 1, **more: object) -> Nic:
    ports = () if layer == "EFA" else (Port(name, port, "ACTIVE", layer, gids, 400.0),)
    return Nic(name, ports=ports, **more)  # type: ignore[arg-type]


def granted(each: Nic, gid: Gid | None = None, port: int = 1) -> GrantedNic:
    return GrantedNic(each, port, gid, "", ())


def table(address: str, netdev: str, v2_at: int) -> tuple[Gid, ...]:
    """A table as mlx5 makes it: both versions of each address, the second one being v2."""
    return (
        Gid(0, "fe80::1", "RoCE v1", netdev),
        Gid(1, "fe80::1", "RoCE v2", netdev),
        Gid(v2_at - 1, address, "RoCE v1", netdev),
        Gid(v2_at, address, "RoCE v2", netdev),
    )


def roce(name: str, address: str, netdev: str, v2_at: int = 3) -> GrantedNic:
    gids = table(address, netdev, v2_at)
    return granted(nic(name, *gids, netdevs=(netdev,)), gids[-1])


def bind(rank: int, *nics: GrantedNic, reason: str = "PIX to its GPU") -> Binding:
    return Binding(
        local_rank=rank,
        gpu=None,
        nics=tuple(each.nic for each in nics),
        ports=tuple(each.port for each in nics),
        gid_indexes=tuple(each.gid.index if each.gid else None for each in nics),
        numa=None,
        cpus=(),
        reason=reason,
    )


def machine(*nics: GrantedNic, netdevs: tuple[Netdev, ...] = ()) -> Machine:
    return Machine("a test", nics=tuple(each.nic for each in nics), netdevs=netdevs)


TEXT = st.text(st.sampled_from("^=,:*mlx5_01 ,~é\ud800\0[") | st.characters(), max_size=40)
NAMES = ("NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_DISABLE", "NCCL_SOCKET_IFNAME",
         "NCCL_IB_ADDR_RANGE", "UCX_NET_DEVICES", "UCX_IB_GID_INDEX", "RDMATRAIN_DEVICES",
         "RDMATRAIN_GID_INDEX", "FI_VERBS_DEVICE_NAME", "FI_PROVIDER")  # fmt: skip
GIDS = st.builds(
    Gid,
    st.integers(0, 300),
    st.sampled_from(["10.0.0.1", "fe80::1%eth0", "fd00::1", "garbage", "", "0.0.0.0", "::"]),
    st.sampled_from(["RoCE v1", "RoCE v2", "", "RoCE v3"]),
    st.sampled_from(["", "net1"]),
)


@st.composite
def granted_nics(draw: st.DrawFn) -> GrantedNic:
    name = draw(st.sampled_from(["mlx5_0", "mlx5_1", "mlx5_10", "rdmap0s1"]) | TEXT)
    gids = tuple(draw(st.lists(GIDS, max_size=4)))
    layer = draw(st.sampled_from(["Ethernet", "InfiniBand", "", "EFA"]))
    gid = draw(st.sampled_from([None, *gids]))
    each = nic(name, *gids, layer=layer, efa=layer == "EFA", unfit=draw(st.sampled_from(["", "x"])))
    return granted(each, gid, draw(st.integers(0, 2)))
