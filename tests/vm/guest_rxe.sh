#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# In a guest: guest_rxe.sh DEVICE MAC ADDRESS/PREFIX makes a software RDMA device on the NIC with that MAC, which is
# called eth0 from then on. "veth" for a MAC stands for a new pair veth0 and veth1, of which nobody uses the second.
set -euo pipefail
device=$1 mac=$2 address=$3

modprobe -a rdma_rxe ib_uverbs rdma_ucm
if [[ $mac == veth ]]; then
    modprobe veth
    ip link add veth0 mtu 9000 type veth peer name veth1 mtu 9000
    ip link set veth1 up
    netdev=veth0
else
    modprobe virtio_net
    udevadm settle --timeout=60 # it gives NICs names of its own
    path=$(grep -l "$mac" /sys/class/net/*/address)
    netdev=eth0
    ip link set "$(basename "$(dirname "$path")")" name "$netdev"
fi
ip addr add "$address" dev "$netdev"
ip link set "$netdev" mtu 9000 up
rdma link add "$device" type rxe netdev "$netdev"

# The kernel fills the table of GIDs on its own time.
for ((i = 0; i < 100; i++)); do
    if grep -qs 0000:0000:0000:0000:0000:ffff "/sys/class/infiniband/$device/ports/1/gids/"*; then
        exit
    fi
    sleep 0.1
done
echo "$device has no IPv4 GID after 10 s; rdma link says: $(rdma link)" >&2
exit 1
