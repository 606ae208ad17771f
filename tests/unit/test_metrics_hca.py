# SPDX-License-Identifier: Apache-2.0
"""Counters of RDMA ports, as a real machine's sysfs has them."""

from pathlib import Path

import pytest

from rdmatrain.metrics.hca import read_ports

ROOT = Path(__file__).resolve().parents[2]
FIXTURE = ROOT.parent / "shared/fixtures/sysfs_infiniband_h100_gpud/sys-class-infiniband-h100.0"


def test_a_real_machine() -> None:
    if not FIXTURE.is_dir():
        pytest.skip("../shared/fixtures is not there")
    values = read_ports(FIXTURE).values
    where = ("mlx5_0", "1")
    # PortXmitData and PortRcvData of the fixture, in words of 4 bytes.
    assert values["rdmatrain_hca_transmitted_bytes_total", where] == 230442669431839 * 4
    assert values["rdmatrain_hca_received_bytes_total", where] == 230539874932483 * 4
    assert values["rdmatrain_hca_transmitted_packets_total", where] == 315487941081
    assert values["rdmatrain_hca_received_packets_total", where] == 317548853677
    assert values["rdmatrain_hca_errors_total", (*where, "port_rcv_errors")] == 14
    assert values["rdmatrain_hca_errors_total", (*where, "roce_adp_retrans")] == 3
    assert values["rdmatrain_hca_congestion_total", (*where, "port_xmit_wait")] == 2489603687
    assert values["rdmatrain_hca_up", where] == 1
    ups = {labels for name, labels in values if name == "rdmatrain_hca_up"}
    assert ups == {(path.name, "1") for path in FIXTURE.iterdir()}
    # These count work, not trouble.
    assert not [key for key in values if "rx_write_requests" in key[1] or "lifespan" in key[1]]


@pytest.fixture
def port(tmp_path: Path) -> Path:
    folder = tmp_path / "mlx5_3/ports/2"
    (folder / "counters").mkdir(parents=True)
    (folder / "state").write_text("1: DOWN\n")
    return folder


def test_a_port_that_is_down_without_hardware_counters(port: Path) -> None:
    (port / "counters/port_xmit_data").write_text("10\n")
    assert read_ports(port.parents[2]).values == {
        ("rdmatrain_hca_up", ("mlx5_3", "2")): 0,
        ("rdmatrain_hca_transmitted_bytes_total", ("mlx5_3", "2")): 40,
    }


@pytest.mark.parametrize("text", ["", "N/A (no PMA)", "-1", "1.5", "x"])
def test_a_counter_that_is_no_number_is_left_out(port: Path, text: str) -> None:
    (port / "counters/symbol_error").write_text(text)
    assert list(read_ports(port.parents[2]).values) == [("rdmatrain_hca_up", ("mlx5_3", "2"))]


def test_a_counter_that_cannot_be_read_is_left_out(port: Path) -> None:
    (port / "counters/symbol_error").mkdir()  # EISDIR, as a driver may say EINVAL
    assert list(read_ports(port.parents[2]).values) == [("rdmatrain_hca_up", ("mlx5_3", "2"))]


def test_no_devices(tmp_path: Path) -> None:
    assert read_ports(tmp_path / "infiniband").values == {}
