# SPDX-License-Identifier: Apache-2.0
"""The text says everything once, in 100 columns, and steers no terminal."""

from dataclasses import replace

from fake_survey import GPUS, OWN, SURVEY, gpu, nic

from rdmatrain.discovery.model import Complaint, Machine
from rdmatrain.discovery.pod_model import Pod
from rdmatrain.discovery.survey import Survey
from rdmatrain.topo.text import topology_text

EXPECTED = """\
this machine, Acme Box, virtual
  NUMA 0  CPUs 0-3
    root complex pci0000:07
      switch 0000:08:00.0
        GPU0  0000:10:00.0, H100
        bridge 0000:09:02.0
          mlx5_0  0000:0c:00.0
          mlx5_2  0000:0c:00.2, VF of 0000:0c:00.0, port 1 Ethernet 400 Gbit/s ACTIVE, net1
  NUMA 1  CPUs 4-7
    root complex pci0000:80
      GPU1  0000:11:00.0, H100
      mlx5_3  0000:8c:00.0, port 1 Ethernet 400 Gbit/s ACTIVE

      mlx5_2  mlx5_3  NUMA  CPUs
GPU0  PIX*    SYS     0     0-3
GPU1  SYS*    PHB*    1     4-7

PIX   below one PCIe switch
PXB   over several PCIe switches
PHB   over the host bridge of one root complex
NODE  between root complexes of one NUMA node
SYS   between NUMA nodes, or not known
*     the GPU's own, see below

Pairs
  GPU0 - mlx5_2  PIX: both below one switch
  GPU1 - mlx5_2, mlx5_3  SYS: nothing nearer

This pod has
  GPU0  0000:10:00.0, H100
      PCIDEVICE_X in /proc/1/environ: 0000:0c:00.2
  GPU1  0000:11:00.0, H100
  mlx5_2  0000:0c:00.2, port 1, gid 3 RoCE v2 10.0.0.2 on net1, network default/net1
      PCIDEVICE_X in /proc/1/environ: 0000:0c:00.2
  mlx5_3  0000:8c:00.0, no port that works
  RDMA network namespaces: shared

Not for this pod
  mlx5_0: its GIDs are of another network namespace

Local ranks
  0: GPU0, mlx5_2 port 1 gid 3, NUMA 0, CPUs 0-1: by its GPU
  1: GPU1, mlx5_2 port 1 gid 3, mlx5_3 without a port, NUMA 1: by its GPU
      UCX_NET_DEVICES=mlx5_9:1

Variables
  NCCL_IB_HCA==mlx5_2:1  by whole names
  NCCL_IB_GID_INDEX=1  the user's; else unset: NCCL chooses better
  UCX_NET_DEVICES=mlx5_9:1  the user's; else mlx5_2:1: the rank's own

Complaints
  nic-foreign: mlx5_0: is not for this pod"""


def test_everything_is_said_and_complaints_come_last() -> None:
    assert topology_text(SURVEY) == EXPECTED


def test_a_pod_without_devices_is_told_so() -> None:
    assert topology_text(Survey(Machine("this machine"), pod=Pod())) == (
        "this machine\n  no GPUs and no RDMA devices\n\nThis pod has\n  no GPU and no RDMA device"
    )


def test_a_file_says_nothing_of_a_pod() -> None:
    text = topology_text(Survey(SURVEY.machine, pairs=SURVEY.pairs))
    assert "This pod" not in text
    assert "rank" not in text
    # All NICs are candidates.
    assert "      mlx5_0  mlx5_2  mlx5_3  NUMA" in text


def test_unfit_nics_are_in_the_matrix_only_where_there_are_no_others() -> None:
    bond = replace(OWN, name="bond0", unfit="is a bond")
    machine = replace(SURVEY.machine, nics=(bond, OWN))
    assert "      mlx5_2  NUMA  CPUs" in topology_text(Survey(machine))
    assert "      bond0  NUMA  CPUs" in topology_text(Survey(replace(machine, nics=(bond,))))


def test_many_nics_are_shown_in_blocks_of_the_terminal_s_width() -> None:
    nics = tuple(nic(f"mlx5_{number}", f"0000:{number:02x}:00.0") for number in range(64))
    lines = topology_text(Survey(Machine("x", gpus=GPUS, nics=nics))).splitlines()
    assert max(map(len, lines)) <= 100
    heads = [line for line in lines if line.startswith("      mlx5_")]
    assert " ".join(heads).split() == [each.name for each in nics] + ["NUMA", "CPUs"]
    assert len(heads) > 1
    assert sum(line.startswith("GPU0 ") for line in lines) == len(heads)


def test_long_texts_are_wrapped_and_words_stay_whole() -> None:
    words = ["word-" + "x" * (number % 30) for number in range(60)]
    told = Complaint("unreadable", "/a/" + "b" * 120, " ".join(words))
    lines = topology_text(replace(SURVEY, complaints=(told,))).split("Complaints\n")[1].splitlines()
    assert " ".join(lines).split() == ["unreadable:", told.source + ":", *words]
    assert all(len(line) <= 100 or "bbb" in line for line in lines)


def test_no_name_steers_the_terminal() -> None:
    evil = "\x1b[31mred\x07\n\u202e\udcff\x9b"
    odd = nic(evil, "0000:01:00.0", evil, numa=0, netdevs=(evil,), unfit=evil)
    machine = Machine(evil, gpus=(replace(gpu(0), name=evil, model=evil),), nics=(odd,))
    survey = Survey(machine, complaints=(Complaint("x", evil, evil),))
    text = topology_text(survey)
    assert all(line.isprintable() for line in text.split("\n"))
    assert r"\x1b[31mred\x07\n\u202e\udcff\x9b" in text
