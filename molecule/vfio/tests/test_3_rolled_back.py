"""When the kernel refuses one function of a group, the whole group is what it was before, and the message says so."""

from __future__ import annotations

testinfra_hosts = ["ansible://gpus"]
OVERRIDE = "/sys/bus/pci/devices/0000:08:00.1/driver_override"
UNBIND = "/sys/bus/pci/drivers/bochs-drm/unbind"


def test_when_a_driver_does_not_let_go(functions, bind, read_only) -> None:
    """The audio function is with vfio-pci already when the display's driver keeps its own."""
    before = functions()
    read_only(UNBIND)
    result = bind(devices=["08:00.0"])
    assert result["failed"]
    assert "0000:08:00.0 would not be let go by bochs-drm" in result["msg"]
    assert "rolled back" in result["msg"]
    assert "0000:08:00.1: vfio-pci -> snd_hda_intel" in result["msg"]
    assert functions() == before


def test_when_an_override_cannot_be_written(functions, bind, read_only) -> None:
    before = functions()
    read_only(OVERRIDE)
    result = bind(devices=["08:00.0"])
    assert result["failed"]
    assert "0000:08:00.1" in result["msg"]
    assert "rolled back" in result["msg"]
    assert functions() == before


def test_what_was_bound_before_is_bound_still(functions) -> None:
    now = functions()
    assert [now[address][0] for address in ("0000:01:00.0", "0000:01:00.1", "0000:02:00.0")] == ["vfio-pci"] * 3
