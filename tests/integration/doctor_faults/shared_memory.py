# SPDX-License-Identifier: Apache-2.0
"""A /dev/shm that ranks of one pod cannot talk through."""

from doctor_faults.sandbox import live

TMPFS = "mount -t tmpfs -o {} none /dev/shm"
# devtmpfs is this machine's: a /dev without shm is another tmpfs.
WITHOUT = """
mkdir "$HERE/dev"; mount -t tmpfs none "$HERE/dev"
for each in null zero full random urandom tty; do
    touch "$HERE/dev/$each"; mount --bind "/dev/$each" "$HERE/dev/$each"
done
ln -s /proc/self/fd "$HERE/dev/fd"
mount --move "$HERE/dev" /dev
"""

FAULTS = [
    live("/dev/shm of 1 MiB", "shm", shell=TMPFS.format("size=1m")),
    live("/dev/shm as containers have it", "shm", shell=TMPFS.format("size=64m")),
    live("/dev/shm is missing", "shm", shell=WITHOUT),
    live("/dev/shm is read-only", "shm", shell=TMPFS.format("size=1g,ro")),
    live(
        "/dev/shm is full",
        "shm",
        shell=TMPFS.format("size=1g") + "; fallocate -l 1023m /dev/shm/left_by_another_job",
    ),
    live("/dev/shm has no inodes left", "shm", shell=TMPFS.format("size=1g,nr_inodes=1")),
    live(
        "/dev/shm is root's alone",
        "shm",
        shell=TMPFS.format("size=1g,mode=755"),
        user=1000,
    ),
]
