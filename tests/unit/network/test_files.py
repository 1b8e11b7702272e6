"""The files of the isolated network and of a placement, as systemd and nft read them."""

from __future__ import annotations

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network import guest_of, network_of
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network_files import guest_files, network_files
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_units import (
    PlacementError,
    placement_drop_in,
    ranges,
)

OPEN = network_of({"uplink": "eth0.100", "dns": ["192.0.2.53"], "clients": ["192.0.2.0/24"], "gateway_udp": [123]})
CLOSED = network_of({"bridge": "br-x", "subnet": "172.20.0.0/16"})
GUEST = guest_of(OPEN, "smollm2", "10.213.0.9", [{"to": "0.0.0.0/0", "tcp": [443, 80], "udp": [443]}])


def sections(text: str) -> dict[str, dict[str, str]]:
    """A systemd file as its settings."""
    parser = configparser.ConfigParser(strict=True, interpolation=None, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {name: dict(parser[name]) for name in parser.sections()}


def test_a_runtimes_port_is_isolated_and_its_tap_is_the_units_users() -> None:
    files = guest_files(OPEN, GUEST, "vllmd")
    assert sections(files["/etc/systemd/network/55-vllmd-smollm2.netdev"]) == {
        "NetDev": {"Name": GUEST.tap, "Kind": "tap"},
        "Tap": {"User": "vllmd", "VNetHeader": "yes"},
    }
    network = sections(files["/etc/systemd/network/55-vllmd-smollm2.network"])
    assert network["Match"] == {"Name": GUEST.tap}
    assert network["Network"]["Bridge"] == "vllmd0"
    assert network["Bridge"] == {"Isolated": "yes", "HairPin": "no"}
    unit = sections(files["/etc/systemd/system/vllmd-hypervisor@smollm2.service.d/15-network.conf"])
    assert unit["Unit"]["Requires"] == "vllmd-network-policy.service"
    assert unit["Service"] == {"CapabilityBoundingSet": "", "AmbientCapabilities": ""}


def test_only_bridge_and_uplink_forward_and_only_with_an_uplink() -> None:
    files = network_files(OPEN)
    settings = [line for line in files["/etc/sysctl.d/50-vllmd-network.conf"].splitlines() if not line.startswith("#")]
    assert settings == ["-net.ipv4.conf.vllmd0.forwarding = 1", "-net.ipv4.conf.eth0/100.forwarding = 1"]
    assert not [path for path in network_files(CLOSED) if "sysctl" in path]
    assert sections(network_files(CLOSED)["/etc/systemd/network/50-vllmd-bridge.network"])["Network"]["Address"] == (
        "172.20.0.1/16"
    )


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="checks with systemd's own program")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    unit = tmp_path / "vllmd-network-policy.service"
    unit.write_text(network_files(OPEN)[f"/etc/systemd/system/{unit.name}"].replace("/usr/sbin/nft", "/bin/true"))
    runtime = tmp_path / "vllmd-hypervisor@smollm2.service"
    runtime.write_text("[Service]\nExecStart=/bin/true\n")
    directory = tmp_path / f"{runtime.name}.d"
    directory.mkdir()
    files = guest_files(OPEN, GUEST, "vllmd")
    (directory / "15-network.conf").write_text(files[f"/etc/systemd/system/{directory.name}/15-network.conf"])
    (directory / "20-placement.conf").write_text(placement_drop_in([0, 1, 2, 8], [0]))
    for path in (unit, runtime):
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        said = [line for line in done.stderr.splitlines() if str(tmp_path) in line or path.name in line]
        assert (done.returncode, said) == (0, [])


def test_a_placement_is_cpus_and_nodes() -> None:
    assert sections(placement_drop_in([9, 0, 1, 2, 8], [1]))["Service"] == {
        "AllowedCPUs": "0-2,8-9",
        "CPUAffinity": "0-2,8-9",
        "AllowedMemoryNodes": "1",
        "NUMAPolicy": "bind",
        "NUMAMask": "1",
    }
    assert placement_drop_in([], []) == ""
    for wrong in (-1, True, "0"):
        with pytest.raises(PlacementError, match="is no number of a CPU or NUMA node"):
            placement_drop_in([wrong], [])  # type: ignore[list-item]


@given(st.sets(st.integers(0, 300)))
def test_ranges_name_exactly_the_numbers(numbers: set[int]) -> None:
    found: set[int] = set()
    for part in filter(None, ranges(numbers).split(",")):
        first, _dash, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    assert found == numbers
