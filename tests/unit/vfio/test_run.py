"""A whole run over a server with eight GPUs: services, files, check mode, and a kill at every write."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, OpenHandle
from ansible_collections.vllmd.platform.plugins.module_utils.vfio import persist
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.outcome import Options, Outcome, Outside
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.plan import Request
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.record import FileStore
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.run import STATE_DIRECTORY, Run
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.services import ServiceError
from tests.support.healthy_host import GPU, GPUS, changed_device, healthy_host, other, with_devices
from tests.support.simulated_sysfs import Deaths, Killed, SimulatedSysfs

AUDIO = GPU[:-1] + "1"
UNIT = "nvidia-persistenced.service"
TWO = (GPUS[0], GPUS[1])


class Server:
    """The server's kernel, services and disk; `outside` is what a run gets of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        host = healthy_host()
        devices = {
            bdf: replace(device, driver="nvidia") if bdf in GPUS else device for bdf, device in host.pci.devices.items()
        }
        audio = replace(other(AUDIO, 0x040300, "snd_hda_intel", 20), vendor_id="10de", device_id="22ba")
        self.host = with_devices(host, {**devices, AUDIO: audio})
        self.sysfs = SimulatedSysfs.of(self.host)
        self.deaths = Deaths()
        self.running = {UNIT}
        self.history: list[str] = []
        self.handles: dict[str, tuple[OpenHandle, ...]] = {}

    def outside(self, check: bool = False) -> Outside:
        self.sysfs.deaths = self.deaths
        store = FileStore(self.root / STATE_DIRECTORY / "record.json")
        return Outside(self.sysfs, store, self.read, self, self.root, check)

    def read(self) -> Host:
        devices = {}
        for bdf, device in self.host.pci.devices.items():
            function = self.sysfs.functions[bdf]
            # A service opens the devices that its driver has, and closes them when it ends.
            handles = tuple(
                each
                for each in self.handles.get(bdf, ())
                if each.unit is None or (each.unit in self.running and function.driver == "nvidia")
            )
            devices[bdf] = replace(device, driver=function.driver, driver_override=function.override, handles=handles)
        return replace(self.host, pci=replace(self.host.pci, devices=devices))

    def stop(self, unit: str) -> None:
        with self.deaths.moment():
            self.history.append(f"stop {unit}")
            self.running.discard(unit)

    def start(self, unit: str) -> None:
        with self.deaths.moment():
            self.history.append(f"start {unit}")
            self.running.add(unit)

    def files(self) -> dict[str, str]:
        """All files by path, without the record's own directory."""
        found = {}
        for path in self.root.rglob("*"):
            name = f"/{path.relative_to(self.root)}"
            if (path.is_symlink() or path.is_file()) and not name.startswith(f"/{STATE_DIRECTORY}"):
                found[name] = str(path.readlink()) if path.is_symlink() else path.read_text()
        return found

    def bind(self, *devices: str, check: bool = False, **options: Any) -> Outcome:
        return Run(self.outside(check), Options(Request(devices or TWO), **options)).bind()

    def give_back(self, *devices: str, check: bool = False) -> Outcome:
        return Run(self.outside(check), Options(Request(devices))).give_back()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_bind_keep_and_give_back(server: Server) -> None:
    before = server.sysfs.state()
    outcome = server.bind("all")
    assert outcome.errors == []
    assert (outcome.changed, outcome.initramfs_stale, len(outcome.groups)) == (True, True, 8)
    assert outcome.groups[0] == {"group": 20, "node": "/dev/vfio/20", "devices": [GPU, AUDIO], "action": "bound"}
    files = server.files()
    rule = f'KERNEL=="{GPU}", ATTR{{vendor}}=="0x10de", ATTR{{device}}=="0x2330", ATTR{{driver_override}}="vfio-pci"'
    assert rule in files[persist.RULES]
    assert "softdep nvidia pre: vfio_pci\n" in files[persist.MODPROBE]
    assert "softdep snd_hda_intel pre: vfio_pci\n" in files[persist.MODPROBE]
    assert files[persist.WANTS] == persist.UNIT
    again = server.bind("all")
    assert (again.changed, again.diff, again.initramfs_stale) == (False, [], True)
    (server.root / STATE_DIRECTORY / "initramfs-stale").unlink()
    assert server.bind("all").initramfs_stale is False
    back = server.give_back()
    assert (back.changed, back.errors, back.initramfs_stale) == (True, [], True)
    (server.root / STATE_DIRECTORY / "initramfs-stale").unlink()
    assert (server.sysfs.state(), server.files()) == (before, {})
    assert server.give_back().changed is False
    assert [path for path in server.root.rglob("*") if not path.is_dir()] == []


def test_check_mode_predicts_exactly_and_changes_nothing(server: Server) -> None:
    said = server.bind(check=True)
    assert (server.sysfs.writes, list(server.root.iterdir())) == ([], [])
    done = server.bind()
    assert (said.diff, said.messages, said.groups) == (done.diff, done.messages, done.groups)
    assert {"before_header": "devices", "after_header": "devices"}.items() <= done.diff[0].items()
    assert f"{GPU}: driver nvidia, driver_override none\n" in done.diff[0]["before"]
    assert f"{GPU}: driver vfio-pci, driver_override vfio-pci\n" in done.diff[0]["after"]
    files, writes = server.files(), len(server.sysfs.writes)
    said = server.give_back(check=True)
    assert (server.files(), len(server.sysfs.writes)) == (files, writes)
    done = server.give_back()
    assert (said.diff, said.messages) == (done.diff, done.messages)


def test_a_part_is_given_back_and_the_files_follow(server: Server) -> None:
    server.bind()
    outcome = server.give_back(GPUS[1])
    assert [group["devices"] for group in outcome.groups] == [[GPUS[1]]]
    rules = server.files()[persist.RULES]
    assert GPU in rules
    assert GPUS[1] not in rules
    assert server.sysfs.state()[GPUS[1]] == ("nvidia", None)


def test_devices_of_an_earlier_task_stay(server: Server) -> None:
    server.bind(GPUS[0])
    server.bind(GPUS[1])
    assert GPUS[0] in server.files()[persist.RULES]
    assert server.sysfs.state()[GPUS[0]] == ("vfio-pci", "vfio-pci")


def test_open_handles_are_refused_with_pid_and_command(server: Server) -> None:
    server.handles = {GPU: (OpenHandle(4242, "python3", "/dev/nvidia0"),)}
    outcome = server.bind()
    assert outcome.errors == [f"{GPU} is open in process 4242 (python3, /dev/nvidia0); stop them first"]
    assert server.sysfs.writes == []


def test_a_wait_for_handles_ends_when_they_are_closed(server: Server) -> None:
    server.handles = {GPU: (OpenHandle(4242, "python3", "/dev/nvidia0"),)}
    sleep = server.sysfs.sleep

    def close_at_ten(seconds: float) -> None:
        sleep(seconds)
        if server.sysfs.now() >= 10:
            server.handles = {}

    server.sysfs.sleep = close_at_ten  # type: ignore[method-assign]
    assert "is open in process 4242" in server.bind(handles_seconds=5).errors[0]
    assert server.bind(handles_seconds=20).errors == []


def test_a_known_service_is_stopped_and_started_again_for_the_other_gpus(server: Server) -> None:
    server.handles = {GPU: (OpenHandle(77, "nvidia-persiste", "/dev/nvidia0", UNIT),)}
    assert server.bind().errors != []
    assert server.bind(stop_services=("nvidia-persistenced",), check=True).errors == []
    assert server.history == []
    outcome = server.bind(stop_services=("nvidia-persistenced",))
    assert outcome.errors == []
    assert server.history == [f"stop {UNIT}", f"start {UNIT}"]


def test_a_stopped_service_stays_stopped_until_its_devices_are_back(server: Server) -> None:
    server.handles = {GPU: (OpenHandle(77, "nvidia-persiste", "/dev/nvidia0", UNIT),)}
    server.bind("all", stop_services=("nvidia-persistenced",))
    assert server.history == [f"stop {UNIT}"]
    server.give_back(GPUS[5])
    assert server.history == [f"stop {UNIT}", f"start {UNIT}"]


def test_a_service_that_fails_to_start_is_a_warning(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.handles = {GPU: (OpenHandle(77, "nvidia-persiste", "/dev/nvidia0", UNIT),)}

    def start(unit: str) -> None:
        raise ServiceError(f"{unit} would not start: no GPU")

    monkeypatch.setattr(server, "start", start)
    assert server.bind(stop_services=("nvidia-persistenced",)).warnings == [f"{UNIT} would not start: no GPU"]


def test_a_running_virtual_machine_keeps_its_devices(server: Server) -> None:
    server.bind()
    server.handles = {GPU: (OpenHandle(99, "vllmd-hyperviso", "/dev/vfio/20"),)}
    assert server.bind().changed is False, "a bound group in use is no reason against binding what is bound"
    outcome = server.give_back()
    assert "is open in process 99 (vllmd-hyperviso, /dev/vfio/20)" in outcome.errors[0]
    assert server.sysfs.state()[GPUS[1]] == ("vfio-pci", "vfio-pci"), "nothing was given back"


def test_one_group_that_fails_leaves_the_others_bound_and_kept(server: Server) -> None:
    before = server.sysfs.state()
    server.sysfs.functions[AUDIO].refused_by = {"vfio-pci": errno.EBUSY}
    outcome = server.bind()
    assert [group["action"] for group in outcome.groups] == ["rolled_back", "bound"]
    assert "the whole group was rolled back" in outcome.errors[0]
    assert {bdf: server.sysfs.state()[bdf] for bdf in (GPU, AUDIO)} == {bdf: before[bdf] for bdf in (GPU, AUDIO)}
    assert GPU not in server.files()[persist.RULES]
    assert GPUS[1] in server.files()[persist.RULES]


def test_a_device_that_is_gone_can_be_given_back(server: Server) -> None:
    server.bind()
    server.sysfs.functions[GPU].identity = "ffff:ffff"
    server.host = changed_device(GPU, vendor_id="ffff", device_id="ffff")(server.host)
    assert server.give_back(GPU).errors == []
    assert GPU not in server.files()[persist.RULES]


@pytest.fixture
def mortal_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Deaths]]:
    """Every write, link and removal of a file is a moment to die at; the list holds the deaths in force."""
    force = [Deaths()]

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with force[0].moment():
                return real(*arguments, **named)

        return call

    with monkeypatch.context() as patch:
        for name in ("write_file", "write_link"):
            patch.setattr(atomic, name, wrapped(getattr(atomic, name)))
        for name in ("unlink", "rmdir"):
            patch.setattr(Path, name, wrapped(getattr(Path, name)))
        yield force


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("then", ["bound", "unbound"])
@pytest.mark.parametrize("way", ["bind", "give_back"])
def test_a_kill_at_every_write_each_once(
    way: str, then: str, after: bool, scratch: Path, mortal_files: list[Deaths]
) -> None:
    options = {"stop_services": ("nvidia-persistenced",), "node_group": "vllmd"}
    for at in range(1, 200):
        server = Server(scratch / str(at))
        server.root.mkdir()
        before = server.sysfs.state()
        server.handles = {GPU: (OpenHandle(77, "nvidia-persiste", "/dev/nvidia0", UNIT),)}
        mortal_files[0] = Deaths()
        if way == "give_back":
            server.bind(**options)
        server.deaths = mortal_files[0] = Deaths(at, after)
        try:
            server.bind(**options) if way == "bind" else server.give_back()
        except Killed:
            pass
        else:
            break
        server.deaths = mortal_files[0] = Deaths()
        if then == "bound":
            assert server.bind(**options).errors == []
            assert server.bind(**options).changed is False
            assert all(server.sysfs.functions[bdf].driver == "vfio-pci" for bdf in (*TWO, AUDIO))
            assert set(server.files()) >= {persist.RULES, persist.UNIT, persist.WANTS, persist.NODE_RULES}
        server.give_back()
        assert (server.sysfs.state(), server.files()) == (before, {}), f"killed at write {at}"
        assert UNIT in server.running
        left = [path.name for path in server.root.rglob("*") if not path.is_dir()]
        assert left in ([], ["initramfs-stale"]), "what is left is that the initramfs must be made again"
    else:
        pytest.fail("it never came to its end")
    assert at > 20, "it was killed at every write, each once"
