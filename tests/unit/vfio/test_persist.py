"""What keeps a binding over reboots: the files, and the program that runs at boot."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.vfio import boot, persist
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.record import (
    BOUND,
    Device,
    FileStore,
    Group,
    Record,
    RecordError,
    dump,
)
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.sysfs import RealSysfs
from tests.support.simulated_sysfs import Function, SimulatedSysfs

GPU, AUDIO, PORT, GRACE = "0000:41:00.0", "0000:41:00.1", "0000:40:01.0", "0009:01:00.0"
GROUP = Group(
    7,
    (
        Device(AUDIO, "10de:22ba", "snd_hda_intel", "snd_hda_intel", None, "vfio-pci", "vfio_pci"),
        Device(GPU, "10de:2330", "nvidia", "nvidia", None, "vfio-pci", "vfio_pci"),
    ),
    BOUND,
)
VARIANT = Group(
    9,
    (Device(GRACE, "10de:2342", None, None, None, "nvgrace-gpu-vfio-pci", "nvgrace_gpu_vfio_pci"),),
    BOUND,
)


def install(root: Path, record: Record, **options: str) -> dict[str, persist.File]:
    wanted = persist.files(record, **options)
    persist.apply(root, persist.changes(root, wanted))
    return wanted


def test_every_device_is_named_by_address_and_id_with_its_own_driver() -> None:
    files = persist.files(Record((GROUP, VARIANT)))
    lines = [line for line in files[persist.RULES].text.splitlines() if not line.startswith("#")]
    assert lines == [
        f'ACTION=="add", SUBSYSTEM=="pci", KERNEL=="{bdf}", ATTR{{vendor}}=="0x10de", ATTR{{device}}=="0x{device}", '
        f'ATTR{{driver_override}}="{driver}"'
        for bdf, device, driver in (
            (GPU, "2330", "vfio-pci"),
            (AUDIO, "22ba", "vfio-pci"),
            (GRACE, "2342", "nvgrace-gpu-vfio-pci"),
        )
    ]
    assert files[persist.MODULES_LOAD].text.splitlines()[1:] == ["nvgrace_gpu_vfio_pci", "vfio_pci"]
    softdeps = files[persist.MODPROBE].text.splitlines()[1:]
    assert "softdep nouveau pre: nvgrace_gpu_vfio_pci vfio_pci" in softdeps
    assert "softdep snd_hda_intel pre: nvgrace_gpu_vfio_pci vfio_pci" in softdeps
    assert json.loads(files[boot.DEVICES_PATH].text)["groups"][0]["devices"][0]["bdf"] == AUDIO


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({}, None),
        ({"initramfs": "initramfs-tools"}, persist.HOOK),
        ({"initramfs": "dracut"}, persist.DRACUT_CONF),
        ({"initramfs": "mkinitcpio"}, None),
        ({"node_group": "vllmd"}, persist.NODE_RULES),
    ],
)
def test_what_else_is_written(options: dict[str, str], path: str | None) -> None:
    extra = set(persist.files(Record((GROUP,)), **options)) - set(persist.files(Record((GROUP,))))
    assert extra == ({path} if path else set())


def test_files_are_installed_once_and_removed_without_a_trace(scratch: Path) -> None:
    wanted = install(scratch, Record((GROUP,)), node_group="vllmd", initramfs="initramfs-tools")
    assert persist.changes(scratch, wanted) == []
    assert (scratch / persist.HOOK[1:]).stat().st_mode & 0o777 == 0o755
    (scratch / f"{persist.PROGRAM[1:]}/vfio/old.py").write_text("of an older version\n")
    assert [change.path for change in persist.changes(scratch, wanted)] == [f"{persist.PROGRAM}/vfio/old.py"]
    (scratch / persist.RULES[1:]).chmod(0o600)
    assert persist.RULES in [change.path for change in persist.changes(scratch, wanted)]
    persist.apply(scratch, persist.changes(scratch, {}))
    assert [path for path in scratch.rglob("*") if not path.is_dir()] == []
    assert not (scratch / "usr/local/lib/vllmd").exists()


def test_the_hook_is_a_shell_script_that_copies_the_rules(scratch: Path) -> None:
    install(scratch, Record((GROUP,)), initramfs="initramfs-tools")
    hook = scratch / persist.HOOK[1:]
    subprocess.run(["sh", "-n", hook], check=True)
    assert subprocess.run([hook, "prereqs"], check=True, capture_output=True).stdout == b""
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "--exclude=SC1091", hook], check=True)


def test_the_unit_is_one_that_systemd_understands(scratch: Path) -> None:
    install(scratch, Record((GROUP,)))
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.fail("systemd-analyze is missing; install the package systemd")
    program = scratch / persist.PROGRAM[1:]
    unit = scratch / "vllmd-vfio.service"
    text = (scratch / persist.UNIT[1:]).read_text()
    unit.write_text(text.replace(str(Path(persist.PROGRAM).parent), str(program.parent)))
    done = subprocess.run([verify, "verify", "--man=no", unit], check=False, capture_output=True, text=True)
    assert "vllmd-vfio" not in done.stderr, done.stderr


def at_boot(*functions: Function) -> SimulatedSysfs:
    """The kernel early in the boot: nothing bound but what is built in, overrides as the rule sets them."""
    made = functions or (
        Function(GPU, "10de:2330", None, "vfio-pci", ("nvidia",), group=7),
        Function(AUDIO, "10de:22ba", "snd_hda_intel", "vfio-pci", ("snd_hda_intel",), group=7),
        Function(PORT, "8086:352a", "pcieport", None, ("pcieport",), group=7, class_text="0x060400"),
    )
    return SimulatedSysfs(list(made))


def test_a_boot_binds_the_whole_group() -> None:
    sysfs = at_boot()
    lines, good = boot.run(sysfs, Record((GROUP,)))
    assert good
    assert f"{AUDIO}: snd_hda_intel -> vfio-pci" in lines[0]
    assert [sysfs.functions[bdf].driver for bdf in (GPU, AUDIO, PORT)] == ["vfio-pci", "vfio-pci", "pcieport"]
    lines, good = boot.run(sysfs, Record((GROUP,)))
    assert (lines, good) == ([f"{GPU}, {AUDIO}: bound already"], True)


def test_a_moved_card_and_its_group_are_left_to_their_own_drivers() -> None:
    sysfs = at_boot()
    sysfs.functions[GPU].identity, sysfs.functions[GPU].override = "144d:a80a", None
    lines, good = boot.run(sysfs, Record((GROUP,)))
    assert not good
    assert lines[0].startswith(f"{GPU} is 144d:a80a, not 10de:2330: a card was moved, run role vfio again")
    assert (sysfs.functions[GPU].driver, sysfs.functions[GPU].override) == (None, None)
    assert (sysfs.functions[AUDIO].driver, sysfs.functions[AUDIO].override) == ("snd_hda_intel", None)


def test_an_endpoint_that_joined_the_group_keeps_it_from_being_bound() -> None:
    sysfs = at_boot()
    sysfs.functions["0000:42:00.0"] = Function("0000:42:00.0", "144d:a80a", None, None, ("nvme",), group=7)
    lines, good = boot.run(sysfs, Record((GROUP,)))
    assert not good
    assert "0000:42:00.0 has joined the IOMMU group" in lines[0]
    assert "vfio-pci" not in {each.driver for each in sysfs.functions.values()}


def test_a_failure_at_boot_rolls_back_and_other_groups_are_bound() -> None:
    sysfs = at_boot(
        Function(GPU, "10de:2330", None, None, ("nvidia",), {"vfio-pci": errno.EINVAL}),
        Function(AUDIO, "10de:22ba", None, None, ("snd_hda_intel",)),
        Function(GRACE, "10de:2342"),
    )
    sysfs.modules["nvgrace_gpu_vfio_pci"] = ("nvgrace-gpu-vfio-pci",)
    lines, good = boot.run(sysfs, Record((GROUP, VARIANT)))
    assert not good
    assert "the whole group was rolled back" in lines[0]
    assert sysfs.functions[AUDIO].driver == "snd_hda_intel"
    assert sysfs.functions[GRACE].driver == "nvgrace-gpu-vfio-pci"


def start(root: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed program as the unit does."""
    command = [sys.executable, "-B", "-s", "-S", "-m", "vllmd_vfio.vfio.boot", str(root)]
    place = root / Path(persist.PROGRAM).parent.relative_to("/")
    return subprocess.run(command, cwd=place, check=False, capture_output=True, text=True, env={}, timeout=60)


def test_the_installed_program_runs_by_itself(scratch: Path) -> None:
    bound = replace(GROUP, devices=GROUP.devices[1:])
    install(scratch, Record((bound,)))
    place = scratch / f"sys/bus/pci/devices/{GPU}"
    place.mkdir(parents=True)
    (scratch / "sys/bus/pci/drivers/vfio-pci").mkdir(parents=True)
    for name, text in (("vendor", "0x10de\n"), ("device", "0x2330\n"), ("driver_override", "vfio-pci\n")):
        (place / name).write_text(text)
    (place / "driver").symlink_to("../../drivers/vfio-pci")
    done = start(scratch)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{GPU}: bound already\n", "")
    (place / "device").write_text("0x2331\n")
    done = start(scratch)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{GPU} is 10de:2331, not 10de:2330: a card was moved")
    (scratch / boot.DEVICES_PATH[1:]).write_text("{}")
    done = start(scratch)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "cannot be read" in done.stderr
    assert not list(scratch.rglob("__pycache__"))


def test_the_program_is_found_in_the_archive_that_ansible_sends(scratch: Path) -> None:
    package = Path("ansible_collections/vllmd/platform/plugins/module_utils")
    source = Path(__file__).parents[3] / "plugins/module_utils"
    files = {package / path.relative_to(source): path.read_text() for path in source.rglob("*.py")}
    # Ansible makes every directory of the archive a package.
    files |= {parent / "__init__.py": "" for path in list(files) for parent in path.parents if parent.name}
    with zipfile.ZipFile(scratch / "module.zip", "w") as archive:
        for path, text in files.items():
            archive.writestr(str(path), text)
    name = ".".join(package.parts)
    script = (
        f"import json, sys; sys.path.insert(0, {str(scratch / 'module.zip')!r}); from {name}.vfio import persist; "
        "print(json.dumps(persist._program()))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", script], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == persist._program()


def test_the_record_survives_a_round_trip_and_says_when_it_cannot(scratch: Path) -> None:
    store = FileStore(scratch / "var/record.json")
    assert store.load() == Record()
    record = Record((GROUP, VARIANT), ("nvidia-persistenced.service",))
    store.save(record)
    assert store.load() == record
    assert store.path.stat().st_mode & 0o777 == 0o600
    for text in ("", "[]", "{}", dump(record).replace('"bound"', '"lost"'), dump(record).replace(": 1,", ": 2,", 1)):
        store.path.write_text(text)
        with pytest.raises(RecordError, match="correct it, or remove it"):
            store.load()
    store.save(Record())
    assert not store.path.exists()


def test_a_device_leaves_its_old_group_in_the_record() -> None:
    audio_alone = Group(8, GROUP.devices[:1], BOUND)
    record = Record((GROUP,)).with_group(audio_alone)
    assert [sorted(group.bdfs) for group in record.groups] == [[GPU], [AUDIO]]
    assert Record((GROUP,)).without_group(audio_alone).groups[0].bdfs == {GPU}


def test_a_write_says_what_the_kernel_says(scratch: Path) -> None:
    sysfs = RealSysfs(scratch)
    place = scratch / "sys/bus/pci"
    place.mkdir(parents=True)
    (place / "good").touch()
    sysfs.write("bus/pci/good", "0000:41:00.0", 10)
    assert sysfs.read("bus/pci/good") == "0000:41:00.0"
    with pytest.raises(FileNotFoundError):
        sysfs.write("bus/pci/missing", "x", 10)
    with pytest.raises(IsADirectoryError):
        sysfs.write("bus/pci", "x", 10)
    assert sysfs.entries("bus/pci") == ["good"]
    assert (sysfs.entries("nowhere"), sysfs.read("nowhere"), sysfs.link("bus/pci/good")) == ([], None, None)


def test_a_file_without_end_is_read_for_a_page(scratch: Path) -> None:
    (scratch / "sys").mkdir()
    (scratch / "sys/attribute").symlink_to("/dev/zero")
    (scratch / "sys/waits").symlink_to(scratch / "fifo")
    os.mkfifo(scratch / "fifo")
    assert RealSysfs(scratch).read("attribute") == "\0" * 4096
    assert RealSysfs(scratch).read("waits") == ""


def test_a_write_that_never_returns_is_left_behind(scratch: Path) -> None:
    (scratch / "sys").mkdir()
    # Opening a FIFO to write waits for a reader, as a driver waits for its last user.
    os.mkfifo(scratch / "sys/unbind")
    with pytest.raises(TimeoutError, match=r"has not returned within 0\.2 s"):
        RealSysfs(scratch).write("unbind", "0000:41:00.0", 0.2)
    reader = os.open(scratch / "sys/unbind", os.O_RDONLY)
    try:
        assert os.read(reader, 100) == b"0000:41:00.0", "the child goes on by itself"
    finally:
        os.close(reader)
