"""What two ranks say after the handshake, as csrc/transport/verbs_join.c describes it."""

import struct

OFFER = struct.Struct("=IIQ")  # rails, slots, address of the inbox
MAX_RAILS, MAX_GIDS, SLOTS = 4, 8, 8
# GIDs and how many, QPN, PSN, rkey, LID, MTU (enum ibv_mtu), link layer.
RAIL = struct.Struct(f"={16 * MAX_GIDS}sIIIIHBB")
OFFER_BYTES = OFFER.size + MAX_RAILS * RAIL.size
# Verdicts of one who has one rail: whether it could move its queue pair to the pair of GIDs.
CANNOT, JOINED = 0xA0, 0xA1
MTU_1024, INFINIBAND, ETHERNET = 3, 1, 2  # of enum ibv_mtu, and IBV_LINK_LAYER_


def pack_offer(gids: bytes, inbox: int, **changes: int) -> bytes:
    """Of a rank with one rail, and these GIDs. changes: of the other fields, by name."""
    head = {"num_rails": 1, "slots": SLOTS}
    rail = {"num_gids": len(gids) // 16, "qpn": 0, "psn": 7, "rkey": 0, "lid": 0, "mtu": MTU_1024}
    rail["link_layer"] = ETHERNET
    assert changes.keys() <= head.keys() | rail.keys()
    head |= {name: changes[name] for name in changes if name in head}
    rail |= {name: changes[name] for name in changes if name in rail}
    rails = RAIL.pack(gids, *rail.values()) + bytes((MAX_RAILS - 1) * RAIL.size)
    return OFFER.pack(*head.values(), inbox) + rails
