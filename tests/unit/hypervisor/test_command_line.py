"""The command as people meet it: verbs, exit codes, and one line for each fault, with nothing left behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.boot_files import write
from tests.support.launcher import PREFIX, Launcher
from tests.support.openapi import CHECKOUT
from vllmd_hypervisor import __version__
from vllmd_hypervisor.config import DEFAULTS


def test_help_names_every_variable_and_verb(launcher: Launcher) -> None:
    for flag in ("--help", "-h"):
        done = launcher.call(flag)
        assert (done.returncode, done.stderr) == (0, "")
        for word in (*DEFAULTS, "start", "stop", "status"):
            assert word in done.stdout


def test_version(launcher: Launcher) -> None:
    assert launcher.call("--version").stdout == f"vllmd-hypervisor {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [(), ("restart",), ("start", "now"), ("stop", "--json"), ("--jsno",), ("status", "x")]
)
def test_other_words_are_refused(launcher: Launcher, arguments: tuple[str, ...]) -> None:
    done = launcher.call(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("vllmd-hypervisor: ")
    assert "say start, stop or status" in done.stderr


# What is wrong -> what the one line must hold. {tmp} is the test's directory.
BAD_INPUT = {
    "missing kernel": ({"KERNEL_FILEPATH": "{tmp}/none"}, "KERNEL_FILEPATH: cannot read {tmp}/none: No such file"),
    "kernel is text": (
        {"KERNEL_FILEPATH": "{tmp}/text"},
        "KERNEL_FILEPATH: {tmp}/text is neither a bzImage",
    ),
    "missing system image": ({"SYSTEM_IMAGE_FILEPATH": "{tmp}/none"}, "SYSTEM_IMAGE_FILEPATH: cannot read and write"),
    "missing config image": ({"CONFIG_IMAGE_FILEPATH": "{tmp}/none"}, "CONFIG_IMAGE_FILEPATH: cannot read {tmp}/none"),
    "no kernel at all": ({"KERNEL_FILEPATH": ""}, "KERNEL_FILEPATH is not set; name the guest's kernel"),
    "no cpu": ({"CPU_COUNT": "0"}, 'CPU_COUNT="0": must be from 1 to 1024'),
    "negative cpus": ({"CPU_COUNT": "-1"}, 'CPU_COUNT="-1": must be from 1 to 1024'),
    "cpus in scientific notation": ({"CPU_COUNT": "1e9"}, 'CPU_COUNT="1e9": must be a whole number from 1 to 1024'),
    "a billion cpus": ({"CPU_COUNT": "1000000000"}, "must be from 1 to 1024"),
    "cpus in words": ({"CPU_COUNT": "four"}, 'CPU_COUNT="four": must be a whole number from 1 to 1024'),
    "unknown memory key": (
        {"MEMORY_CONFIG": "size=1G,sharde=on"},
        "key 'sharde' (did you mean shared?)",
    ),
    "no memory": ({"MEMORY_CONFIG": "size=0"}, "a guest needs at least 16M"),
    "memory beyond the host": ({"MEMORY_CONFIG": "size=1024T"}, "size=1024T is more than this host's memory ("),
    "huge pages that are not there": ({"MEMORY_CONFIG": "size=1T,hugepages=on"}, "MEMORY_CONFIG: size=1T "),
    "missing group": ({"DEVICE_FILEPATH_LIST": "/dev/vfio/99999"}, "there is no IOMMU group 99999 on this host"),
    "missing device": ({"DEVICE_FILEPATH_LIST": "0000:fe:1f.7"}, "there is no PCI device 0000:fe:1f.7 on this host"),
    "not a device": ({"DEVICE_FILEPATH_LIST": "/dev/nvidia0"}, "is neither /dev/vfio/GROUP, nor an address"),
    "unknown variable": ({"CPUS": "4"}, "VLLMD_HYPERVISOR_CPUS is not a variable of vllmd-hypervisor; did you mean"),
    "unknown backend": ({"BACKEND": "xen"}, "must be one of auto, cloud-hypervisor, qemu"),
    "missing vmm": ({"VMM_FILEPATH": "{tmp}/qemu"}, "VMM_FILEPATH: {tmp}/qemu is not an executable file"),
    "log in no directory": (
        {"LOG_FILEPATH": "{tmp}/none/log"},
        "LOG_FILEPATH: cannot write {tmp}/none/log: No such",
    ),
    "log nobody reads": ({"LOG_FILEPATH": "{tmp}/pipe"}, "LOG_FILEPATH: cannot write {tmp}/pipe: No such device"),
    "missing bridge": (
        {"NETWORK": "mode=tap,tap=vmt0,bridge=no-br"},
        "there is no bridge no-br on this host",
    ),
    "long socket path": ({"RUN_DIRPATH": "/tmp/" + "x" * 100}, "bytes, the kernel allows 107; shorten"),
}


@pytest.mark.parametrize("what", sorted(BAD_INPUT))
def test_bad_input_is_one_line_and_leaves_nothing(what: str, launcher: Launcher, tmp_path: Path) -> None:
    variables, words = BAD_INPUT[what]
    write(tmp_path / "text", b"not a kernel\n")
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.iterdir())
    done = launcher.call(
        "start", ACCELERATION="tcg", **{key: value.format(tmp=tmp_path) for key, value in variables.items()}
    )
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("vllmd-hypervisor: ")
    assert words.format(tmp=tmp_path) in line
    assert [path for path in sorted(tmp_path.iterdir()) if path not in before] in ([], [tmp_path / "run"])
    assert not launcher.run_directory.exists()


def test_unreadable_files_are_named(launcher: Launcher, tmp_path: Path) -> None:
    """As a user without rights, since root may read everything."""
    for name in ("KERNEL_FILEPATH", "SYSTEM_IMAGE_FILEPATH", "CONFIG_IMAGE_FILEPATH"):
        Path(launcher.environment[PREFIX + name]).chmod(0)
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.name.startswith(("pytest-", "popen-")):  # the latter under pytest-xdist
            parent.chmod(parent.stat().st_mode | 0o011)
    if os.geteuid() == 0:
        launcher.command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *launcher.command]
    done = launcher.call("start", ACCELERATION="tcg")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert [line.endswith(": Permission denied") for line in lines] == [True, True, True]


def test_every_fault_is_told_in_one_run(launcher: Launcher) -> None:
    done = launcher.call("start", CPU_COUNT="0", MEMORY_CONFIG="size=0", BACKEND="xen")
    assert len(done.stderr.splitlines()) == 3


def test_a_vmm_that_cannot_be_executed_is_a_failure(launcher: Launcher, tmp_path: Path) -> None:
    program = write(tmp_path / "qemu", b"\x7fELF garbage")
    program.chmod(0o755)
    done = launcher.call("start", VMM_FILEPATH=str(program), ACCELERATION="tcg")
    assert done.returncode == 1
    assert done.stderr == f"vllmd-hypervisor: cannot execute {program}: Exec format error\n"
    assert not launcher.run_directory.exists()


def test_what_only_the_vmm_can_find_is_its_own_message_and_leaves_nothing(launcher: Launcher) -> None:
    """Two runtimes want to write one system image: QEMU's lock on the image refuses the second."""
    launcher.start(ACCELERATION="tcg")
    launcher.wait_until(lambda: launcher.status()["vm_state"] == "running", "running VMM")
    launcher.errors.write_text("")
    second = launcher.start(ACCELERATION="tcg", NAME="r2")
    assert second.wait(20) == 1
    assert 'Failed to get "write" lock' in launcher.errors.read_text()
    left = launcher.run_directory.parent / "r2"
    launcher.wait_until(lambda: not left.exists(), "clean run directory")
    assert launcher.call("stop", STOP_TIMEOUT_SECONDS="0").returncode == 0


def test_stop_and_status_without_a_runtime(launcher: Launcher) -> None:
    stopped = launcher.call("stop")
    assert (stopped.returncode, stopped.stderr) == (3, "vllmd-hypervisor: r1 is not running\n")
    status = launcher.call("status")
    assert (status.returncode, status.stdout, status.stderr) == (3, "r1 is stopped\n", "")
    assert not launcher.run_directory.exists()


def test_status_that_cannot_be_told_is_unknown(launcher: Launcher) -> None:
    done = launcher.call_with({"PATH": "/usr/bin"}, "status", "--json")
    assert done.returncode == 4
    report = json.loads(done.stdout)
    assert report["state"] == "unknown"
    assert "VLLMD_HYPERVISOR_NAME is not set" in report["message"]
    line = launcher.call_with({"PATH": "/usr/bin"}, "status").stdout
    assert re.fullmatch(r"runtime is unknown: VLLMD_HYPERVISOR_NAME is not set.*\n", line)


def test_status_json_always_has_the_same_keys(launcher: Launcher) -> None:
    keys = {"name", "state", "pid", "backend", "uptime_seconds", "vm_state", "sockets", "health", "message"}
    assert set(json.loads(launcher.call("status", "--json").stdout)) == keys
    assert set(json.loads(launcher.call_with({}, "status", "--json").stdout)) == keys


def test_stop_that_names_nothing_is_bad_configuration(launcher: Launcher) -> None:
    assert launcher.call_with({}, "stop").returncode == 2


def test_closed_standard_streams_are_survived(launcher: Launcher) -> None:
    launcher.command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *launcher.command]
    assert launcher.call("status").returncode == 3
    assert launcher.call("start", CPU_COUNT="0").returncode == 2


def test_the_package_runs_as_a_module(launcher: Launcher) -> None:
    command = ["python3", "-m", "vllmd_hypervisor", "--version"]
    done = subprocess.run(command, cwd=CHECKOUT / "roles/hypervisor/files", capture_output=True, text=True, check=True)
    assert done.stdout == f"vllmd-hypervisor {__version__}\n"


def test_every_variable_is_documented() -> None:
    page = (CHECKOUT / "docs/hypervisor.md").read_text(encoding="utf-8")
    for name, default in DEFAULTS.items():
        assert f"| `{PREFIX}{name}` |" in page
        assert default in page


def test_only_the_standard_library_is_used() -> None:
    imports = set()
    for path in (CHECKOUT / "roles/hypervisor/files/vllmd_hypervisor").glob("*.py"):
        imports |= set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert imports - {"vllmd_hypervisor"} <= set(sys.stdlib_module_names)
    assert not imports & {"subprocess", "argparse", "logging", "asyncio"}, "it runs no tools and starts quickly"
