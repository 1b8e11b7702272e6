"""Selectors, expansion and every refusal, on a healthy server that is spoiled in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host import model as m
from ansible_collections.vllmd.platform.plugins.module_utils.vfio import refuse
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.choose import SelectionError, choose, normalise_bdf
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.groups import CHOSEN, FUNCTION, expand, order
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.refuse import Policy
from tests.support.healthy_host import (
    BMC,
    GPU,
    GPUS,
    NIC,
    NVME,
    added_device,
    both,
    changed,
    changed_device,
    healthy_host,
    other,
)

Change = Callable[[m.Host], m.Host]
AUDIO, USB = GPU[:-1] + "1", GPU[:-1] + "2"
SWITCH = "0000:05:00.0"
NVSWITCH = added_device(replace(other(SWITCH, 0x068000, "nvidia-nvswitch", 60), vendor_id="10de", device_id="22a3"))
WITH_AUDIO = added_device(replace(other(AUDIO, 0x040300, "snd_hda_intel", 20), vendor_id="10de"))


def chosen(host: m.Host, *selectors: str, **options: Any) -> tuple[str, ...]:
    return choose(host, selectors, **options).chosen


@pytest.mark.parametrize(
    ("selectors", "options", "found"),
    [
        (("all",), {}, GPUS),
        (("ALL",), {}, GPUS),
        (("all",), {"exclude": (GPU, "21:00.0")}, GPUS[2:]),
        (("all",), {"nvswitches": True}, tuple(sorted((*GPUS, SWITCH)))),
        (("all",), {"vendor": "1a03"}, (BMC,)),
        (("11:00.0",), {}, (GPU,)),
        (("0000:C1:00.0",), {}, (GPUS[7],)),
        (("10de:2330",), {}, GPUS),
        (("10DE:22A3",), {}, (SWITCH,)),
        (("class:0302",), {}, GPUS),
        (("class:01",), {}, (NVME,)),
        (("class:010802",), {}, (NVME,)),
        ((GPU, "class:0302", "all"), {}, GPUS),
    ],
)
def test_selectors(selectors: tuple[str, ...], options: dict[str, Any], found: tuple[str, ...]) -> None:
    assert chosen(NVSWITCH(healthy_host()), *selectors, **options) == found


@pytest.mark.parametrize(
    ("selectors", "options", "said"),
    [
        (
            ("0000:77:00.0",),
            {},
            "0000:77:00.0 matches no device; displays and accelerators here: 0000:04",
        ),
        (("all",), {"vendor": "1002"}, "all (vendor 1002) matches no device"),
        (("10de:ffff",), {}, "10de:ffff matches no device"),
        (("nvidia",), {}, "'nvidia' selects no device; write an address"),
        (("class:3",), {}, "'class:3' selects no device"),
        (("class:0604",), {}, "class:0604 matches no device"),
        (("",), {}, "'' selects no device"),
        (("all\n",), {"exclude": ("10de:2330",)}, "nothing is left to bind: 10de:2330 excludes all of all"),
        (("all",), {"vendor": "nvidia"}, "vendor 'nvidia' is no PCI vendor id"),
        (("all",), {"exclude": ("the first",)}, "'the first' selects no device"),
    ],
)
def test_selectors_that_mean_nothing(selectors: tuple[str, ...], options: dict[str, Any], said: str) -> None:
    with pytest.raises(SelectionError) as refused:
        chosen(healthy_host(), *selectors, **options)
    assert str(refused.value).startswith(said)


def test_virtual_functions_are_not_meant_by_all() -> None:
    virtual = replace(other("0000:11:00.4", 0x030200, "nvidia", 61), vendor_id="10de", physical_function=GPU)
    host = added_device(virtual)(healthy_host())
    assert chosen(host, "all") == GPUS
    members = expand(host, choose(host, ("0000:11:00.4",)))
    assert [each.devices for each in members] == [("0000:11:00.4",)], "a virtual function is a card of its own"
    assert [each.devices for each in expand(host, choose(host, (GPU,)))] == [(GPU,)]


def test_addresses() -> None:
    assert normalise_bdf(" 41:00.0 ") == "0000:41:00.0"
    assert normalise_bdf("10000:01:1F.7") == "10000:01:1f.7"
    assert normalise_bdf("41:00") is normalise_bdf("41:20.0") is normalise_bdf("41:00.8") is None


def test_functions_and_groups_go_together_and_bridges_stay() -> None:
    usb = replace(other(USB, 0x0C0330, "xhci_hcd", 62), vendor_id="10de")
    port = changed_device("0000:10:01.0", iommu_group=20)
    host = both(WITH_AUDIO, added_device(usb), port)(healthy_host())
    members = expand(host, choose(host, (GPU,)))
    assert [(each.group, each.reasons) for each in members] == [
        (20, {GPU: CHOSEN, AUDIO: FUNCTION}),
        (62, {USB: FUNCTION}),
    ]
    assert order(host, (GPU, AUDIO)) == (AUDIO, GPU)


def test_consumers_are_taken_before_what_they_need() -> None:
    host = both(WITH_AUDIO, changed_device(AUDIO, consumers=(GPU,)))(healthy_host())
    assert order(host, (GPU, AUDIO)) == (GPU, AUDIO)
    circle = changed_device(GPU, consumers=(AUDIO,))(host)
    assert sorted(order(circle, (GPU, AUDIO))) == [GPU, AUDIO]


def codes(host: m.Host, *selectors: str, policy: Policy | None = None, exclude: tuple[str, ...] = ()) -> list[str]:
    """The rules that speak against it; each of their sentences is one line with a remedy."""
    choice = choose(host, selectors or (GPU,), exclude)
    found = refuse.refuse(host, expand(host, choice), choice, policy or Policy())
    for each in found:
        assert len(str(each).splitlines()) == 1
        assert each.remedy
    return [each.code for each in found]


IN_GROUP = added_device(other("0000:06:00.0", 0x020000, "igb", 20))
HANDLE = m.OpenHandle(1, "python3", "/dev/nvidia0")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda host: host, []),
        (WITH_AUDIO, []),
        (changed_device("0000:10:01.0", iommu_group=20), []),
        (changed("iommu", units=()), [refuse.NO_IOMMU]),
        (changed_device(GPU, iommu_group=None), [refuse.NO_IOMMU]),
        (changed("iommu", interrupt_remapping=False), [refuse.NO_INTERRUPT_REMAPPING]),
        (changed("iommu", interrupt_remapping=None, interrupt_chip=None), [refuse.NO_INTERRUPT_REMAPPING]),
        (changed_device(GPU, boot_vga=True), [refuse.BOOT_DISPLAY]),
        (changed("graphics", claims=(m.BarClaim(GPU, "efifb", 0, 4096),)), [refuse.BOOT_DISPLAY]),
        (changed("graphics", boot_display=GPU), [refuse.BOOT_DISPLAY]),
        (changed_device(GPU, class_code=0x030000, boot_vga=None), [refuse.BOOT_DISPLAY]),
        (changed_device(NVME, iommu_group=20), [refuse.CRITICAL, refuse.SHARED_GROUP]),
        (changed_device(NIC, iommu_group=20), [refuse.CRITICAL, refuse.SHARED_GROUP]),
        (IN_GROUP, [refuse.SHARED_GROUP]),
        (added_device(other("0000:06:00.0", 0x060100, "lpc_ich", 20)), [refuse.CRITICAL, refuse.SHARED_GROUP]),
        (added_device(other("0000:06:00.0", 0x0C0500, "i801_smbus", 20)), [refuse.CRITICAL, refuse.SHARED_GROUP]),
        (changed_device(GPU, class_code=None), [refuse.CRITICAL]),
        (changed_device(GPU, vendor_id=None), [refuse.UNKNOWN]),
        (changed("iommu", groups={20: m.IommuGroup(20, (GPU,), ("arm-smmu-test",))}), [refuse.UNKNOWN]),
        (changed("iommu", groups={20: m.IommuGroup(20, (GPU, "0000:99:00.0"))}), [refuse.UNKNOWN]),
        (changed_device(GPU, handles=(HANDLE,)), [refuse.IN_USE]),
        (both(WITH_AUDIO, changed_device(AUDIO, handles=(HANDLE,))), [refuse.IN_USE]),
        (changed_device(GPU, sriov=m.PciSriov(16, 4)), [refuse.VIRTUAL_FUNCTIONS]),
        (changed_device(GPU, sriov=m.PciSriov(16, None, ("0000:11:00.4",))), [refuse.VIRTUAL_FUNCTIONS]),
        (changed_device(GPU, consumers=(NVME,)), [refuse.CRITICAL]),
        (changed_device(GPU, driver="vfio-pci", handles=(HANDLE,)), []),
    ],
)
def test_refusals(change: Change, expected: list[str]) -> None:
    assert codes(change(healthy_host()), GPU) == expected


def test_an_excluded_function_of_a_chosen_card_is_a_contradiction() -> None:
    assert codes(WITH_AUDIO(healthy_host()), GPU, exclude=(AUDIO,)) == [refuse.EXCLUDED]
    assert codes(IN_GROUP(healthy_host()), GPU, exclude=("0000:06:00.0",)) == [refuse.EXCLUDED]


def test_a_bridge_is_never_chosen() -> None:
    assert refuse.BRIDGE in codes(healthy_host(), "0000:10:01.0")


def test_the_operator_may_allow_two_things() -> None:
    allowed = Policy(boot_display=True, shared_groups=True)
    assert codes(changed_device(GPU, boot_vga=True)(healthy_host()), GPU, policy=allowed) == []
    assert codes(IN_GROUP(healthy_host()), GPU, policy=allowed) == []
    assert codes(changed_device(NVME, iommu_group=20)(healthy_host()), GPU, policy=allowed) == [refuse.CRITICAL]
    assert codes(IN_GROUP(healthy_host()), GPU, "0000:06:00.0") == [], "a device that is chosen, too, is no surprise"


def test_nvswitches_may_be_bound_though_they_are_bridges_of_the_system_class() -> None:
    host = NVSWITCH(healthy_host())
    assert codes(host, SWITCH) == []
    assert codes(host, SWITCH, policy=Policy(vendor="1002")) == [refuse.CRITICAL]


@pytest.mark.parametrize(
    ("change", "selector", "why"),
    [
        (lambda host: host, NVME, "carries nvme0n1"),
        (changed("storage", uses=()), NVME, "what is mounted as / cannot be told"),
        (changed("storage", uses=(m.BlockUse("mount /", "rpool/root", "zfs"),)), NVME, "may carry rpool/root"),
        (
            changed(
                "storage",
                devices={"dm-0": m.BlockDevice("dm-0", "253:0", pci_devices=(NVME,))},
                uses=(m.BlockUse("mount /", "/dev/sda1", "ext4", "sda1", ("0000:09:00.0",)),),
            ),
            NVME,
            "carries a part of dm-0",
        ),
        (lambda host: host, NIC, "carries the default route"),
        (changed("network", default_route_interfaces=(), ssh_interfaces=("eno1",)), NIC, "carries an ssh connection"),
        (changed("network", default_route_interfaces=(), ssh_interfaces=()), NIC, "no default route can be told"),
        (changed("network", interfaces={}), NIC, "what is under interface eno1 cannot be told"),
    ],
)
def test_what_cannot_be_told_is_critical(change: Change, selector: str, why: str) -> None:
    host = change(healthy_host())
    choice = choose(host, (selector,))
    found = refuse.refuse(host, expand(host, choice), choice, Policy())
    assert [each.code for each in found] == [refuse.CRITICAL]
    assert why in found[0].reason


def test_many_handles_are_listed_by_process() -> None:
    handles = tuple(m.OpenHandle(pid, f"worker{pid}", "/dev/nvidia0") for pid in range(1, 9) for _twice in range(2))
    host = changed_device(GPU, handles=handles)(healthy_host())
    choice = choose(host, (GPU,))
    (found,) = refuse.refuse(host, expand(host, choice), choice, Policy())
    assert "process 1 (worker1, /dev/nvidia0), process 2 (worker2, /dev/nvidia0)" in found.reason
    assert found.reason.endswith("and 3 more")
