"""What must not be bound is refused with the reason, each reason for real, and nothing is touched."""

from __future__ import annotations

import pytest

testinfra_hosts = ["ansible://gpus"]
CARD = "/dev/dri/by-path/pci-0000:08:00.0-card"
ASKED = ["00:02.0", "03:00.0", "05:00.0", "06:00.0", "07:00.0", "08:00.0"]


@pytest.fixture(scope="module")
def refused(host, functions, bind) -> dict:
    """Ask for everything that must be refused, at once: {function: refusal}."""
    host.check_output("echo 2 >/sys/bus/pci/devices/0000:05:00.0/sriov_numvfs")
    host.check_output(f"systemd-run --quiet --unit=holder sh -c 'exec 3<{CARD}; exec sleep infinity'")
    before = functions()
    result = bind(devices=ASKED)
    after = functions()
    host.check_output("systemctl stop holder; echo 0 >/sys/bus/pci/devices/0000:05:00.0/sriov_numvfs")
    assert result["failed"], result
    assert after == before, "a refused run has changed a driver"
    assert not result["changed"]
    return {refusal["device"]: refusal for refusal in result["refusals"]}


@pytest.mark.parametrize(
    ("device", "code", "reason"),
    [
        ("0000:00:02.0", "boot_display", "the display the firmware booted on"),
        ("0000:04:00.0", "shared_group", "with 0000:03:00.0 and was not chosen"),
        ("0000:05:00.0", "virtual_functions", "has 2 virtual functions"),
        ("0000:06:00.1", "critical", "carries the default route"),
        ("0000:07:00.1", "critical", "in use as mount /"),
        ("0000:08:00.0", "in_use", "(sleep, /dev/dri/card"),
    ],
)
def test_refused(refused: dict, device: str, code: str, reason: str) -> None:
    assert refused[device]["code"] == code
    assert reason in refused[device]["reason"]
    assert refused[device]["remedy"]


def test_nothing_else_was_a_reason(refused: dict) -> None:
    assert len(refused) == len(ASKED)


def test_a_known_service_is_stopped_where_that_is_allowed(host, functions, bind) -> None:
    before = functions()
    host.check_output(f"systemd-run --quiet --unit=holder sh -c 'exec 3<{CARD}; exec sleep infinity'")
    result = bind(devices=["08:00.0"], stop_services=["holder.service"])
    assert not result["failed"], result["msg"]
    assert not host.service("holder").is_running
    now = functions()
    assert [now[f"0000:08:00.{number}"][0] for number in (0, 1)] == ["vfio-pci"] * 2
    result = bind(state="unbound", devices=["08:00.0"])
    assert not result["failed"], result["msg"]
    assert functions() == before
