"""Groups go to vfio whole, come back exactly, and survive a kill at any write."""

from __future__ import annotations

import errno

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.vfio.binding import Binder, describe
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.record import BOUND, Device, Group, Record
from tests.support.simulated_sysfs import Deaths, Function, Killed, MemoryStore, SimulatedSysfs

GPU, AUDIO = "0000:41:00.0", "0000:41:00.1"
BOTH_BOUND = {GPU: ("vfio-pci", "vfio-pci"), AUDIO: ("vfio-pci", "vfio-pci")}


def card(**gpu: object) -> list[Function]:
    """A GPU with two drivers that match it, on the second one, and its audio function."""
    return [
        Function(GPU, "10de:2330", "nvidia", None, ("nouveau", "nvidia"), **gpu),  # type: ignore[arg-type]
        Function(AUDIO, "10de:22ba", "snd_hda_intel", None, ("snd_hda_intel",)),
    ]


def group_of(sysfs: SimulatedSysfs, *bdfs: str) -> Group:
    """The functions as they are now, in the order they are taken, to vfio-pci."""
    devices = []
    for bdf in sorted(bdfs or sysfs.functions, reverse=True):
        each = sysfs.functions[bdf]
        devices.append(Device(bdf, each.identity, each.driver, each.driver, each.override, "vfio-pci", "vfio_pci"))
    return Group(7, tuple(devices))


def test_a_group_goes_to_vfio_and_comes_back_exactly() -> None:
    sysfs, store = SimulatedSysfs(card(polls_to_leave=3)), MemoryStore()
    before = sysfs.state()
    binder = Binder(sysfs, store)
    result = binder.bind(group_of(sysfs))
    assert (result.action, sysfs.state()) == ("bound", BOTH_BOUND)
    assert result.steps == (f"{AUDIO}: snd_hda_intel -> vfio-pci", f"{GPU}: nvidia -> vfio-pci")
    assert store.load().groups[0].phase == BOUND
    again = Binder(sysfs, store)
    assert again.recover() == []
    writes = len(sysfs.writes)
    assert again.bind(again.record.groups[0]).action == "unchanged"
    assert len(sysfs.writes) == writes
    assert again.unbind(again.record.groups[0]).action == "unbound"
    assert sysfs.state() == before
    assert store.load() == Record()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"refused_by": {"vfio-pci": errno.EINVAL}}, "0000:41:00.0 would not be taken by vfio-pci: Invalid argument"),
        ({"refused_by": {"vfio-pci": errno.EBUSY}}, "Device or resource busy"),
        ({"polls_to_leave": 10**6}, "0000:41:00.0 is still on nvidia 30 s after it was told to let go"),
    ],
)
def test_one_device_that_refuses_rolls_the_whole_group_back(fault: dict[str, object], said: str) -> None:
    sysfs, store = SimulatedSysfs(card(**fault)), MemoryStore()
    before = sysfs.state()
    result = Binder(sysfs, store).bind(group_of(sysfs))
    assert (result.action, sysfs.state()) == ("rolled_back", before)
    assert said in result.error
    line = describe([result])[0]
    assert "the whole group was rolled back: " in line
    assert f"{AUDIO}: vfio-pci -> snd_hda_intel" in line
    assert store.load() == Record()


def test_a_driver_that_never_lets_go_is_said_and_mended_by_the_next_run() -> None:
    sysfs, store = SimulatedSysfs(card(kept_by=frozenset({"nvidia"}))), MemoryStore()
    before = sysfs.state()
    result = Binder(sysfs, store).bind(group_of(sysfs))
    assert result.action == "stuck"
    assert "the next run tries again" in describe([result])[0]
    assert sysfs.state()[AUDIO] == before[AUDIO]
    sysfs.release(GPU)
    recovered = Binder(sysfs, store).recover()
    assert [each.action for each in recovered] == ["unbound"]
    assert sysfs.state() == before
    assert store.load() == Record()


def test_a_module_that_is_missing_changes_nothing() -> None:
    sysfs, store = SimulatedSysfs(card()), MemoryStore()
    del sysfs.modules["vfio_pci"]
    before = sysfs.state()
    result = Binder(sysfs, store).bind(group_of(sysfs))
    assert (result.action, sysfs.state(), sysfs.writes) == ("rolled_back", before, [])
    assert "module vfio_pci cannot be loaded" in result.error


def test_another_card_at_the_address_is_never_touched() -> None:
    sysfs, store = SimulatedSysfs(card()), MemoryStore()
    group = group_of(sysfs)
    sysfs.functions[GPU].identity = "8086:0a54"
    assert "a card was moved or replaced" in Binder(sysfs, store).bind(group).error
    assert sysfs.functions[GPU].driver == "nvidia"
    sysfs.functions[GPU].identity = "10de:2330"
    Binder(sysfs, store).bind(group)
    sysfs.functions[GPU].identity = "8086:0a54"
    result = Binder(sysfs, store).unbind(group)
    assert "left alone" in " ".join(result.steps)
    assert sysfs.state()[GPU] == ("vfio-pci", "vfio-pci")
    assert sysfs.state()[AUDIO] == ("snd_hda_intel", None)


def test_an_own_driver_that_is_gone_leaves_the_device_without_one() -> None:
    sysfs, store = SimulatedSysfs(card()), MemoryStore()
    binder = Binder(sysfs, store)
    binder.bind(group_of(sysfs))
    del sysfs.drivers["nvidia"]
    del sysfs.modules["nvidia"]
    result = binder.unbind(binder.record.groups[0])
    assert result.action == "unbound"
    assert "nvidia is no longer on this host" in " ".join(result.steps)
    assert sysfs.state()[GPU] == (None, None)


def test_an_own_driver_that_refuses_keeps_the_whole_group_with_vfio() -> None:
    sysfs, store = SimulatedSysfs(card()), MemoryStore()
    binder = Binder(sysfs, store)
    binder.bind(group_of(sysfs))
    sysfs.functions[AUDIO].refused_by = {"snd_hda_intel": errno.ENODEV}
    result = binder.unbind(binder.record.groups[0])
    assert (result.action, sysfs.state()) == ("rolled_back", BOTH_BOUND)
    assert store.load().groups[0].phase == BOUND


def test_a_group_that_was_with_vfio_before_stays_there() -> None:
    functions = [Function(GPU, driver="vfio-pci", override="vfio-pci")]
    sysfs, store = SimulatedSysfs(functions), MemoryStore()
    binder = Binder(sysfs, store)
    assert binder.bind(group_of(sysfs)).action == "unchanged"
    assert binder.unbind(binder.record.groups[0]).action == "unchanged"
    assert sysfs.writes == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", [{}, {"refused_by": {"vfio-pci": errno.EINVAL}}, {"polls_to_leave": 2}])
@pytest.mark.parametrize("way", ["bind", "unbind"])
def test_a_kill_at_any_write_leaves_a_way_to_bound_or_unbound(way: str, fault: dict[str, object], after: bool) -> None:
    for at in range(1, 100):
        sysfs, store = SimulatedSysfs(card(**fault)), MemoryStore()
        before = sysfs.state()
        if way == "unbind":
            Binder(sysfs, store).bind(group_of(sysfs))
        deaths = Deaths(at, after)
        sysfs.deaths = store.deaths = deaths
        try:
            binder = Binder(sysfs, store)
            if way == "bind":
                binder.bind(group_of(sysfs))
            elif binder.record.groups:
                binder.unbind(binder.record.groups[0])
        except Killed:
            pass
        else:
            break
        sysfs.deaths = store.deaths = Deaths()
        binder = Binder(sysfs, store)
        assert all(each.action in ("bound", "unbound") for each in binder.recover())
        groups = store.load().groups
        assert sysfs.state() == (BOTH_BOUND if groups else before), f"killed at write {at}"
        assert all(group.phase == BOUND for group in groups)
        for group in groups:
            binder.unbind(group)
        assert sysfs.state() == before
    else:
        pytest.fail("it never came to its end")
    assert at > 3 or fault.get("refused_by"), "it was killed at every write, each once"
