"""What two ranks say after the handshake, as csrc/transport/verbs_join.c describes it."""

import struct

OFFER = struct.Struct("=IIQ")  # rails, slots, address of the inbox
RAIL = struct.Struct("=16sIIIHBB")  # GID, QPN, PSN, rkey, LID, MTU (enum ibv_mtu), link layer
MAX_RAILS, SLOTS = 4, 8
OFFER_BYTES = OFFER.size + MAX_RAILS * RAIL.size
JOINED, NEXT_GID, FAILED = 1, 2, 3  # verdicts
MTU_1024, INFINIBAND, ETHERNET = 3, 1, 2  # of enum ibv_mtu, and IBV_LINK_LAYER_


def pack_offer(gid: bytes, inbox: int, **changes: int) -> bytes:
    """Of a rank with one rail. changes: of the other fields, by name."""
    head = {"num_rails": 1, "slots": SLOTS}
    rail = {"qpn": 0, "psn": 7, "rkey": 0, "lid": 0, "mtu": MTU_1024, "link_layer": ETHERNET}
    assert changes.keys() <= head.keys() | rail.keys()
    head |= {name: changes[name] for name in changes if name in head}
    rail |= {name: changes[name] for name in changes if name in rail}
    rails = RAIL.pack(gid, *rail.values()) + bytes((MAX_RAILS - 1) * RAIL.size)
    return OFFER.pack(*head.values(), inbox) + rails
