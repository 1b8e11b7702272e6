"""The qemu backend with a real QEMU and a real kernel (tests/support/tiny_guest.py), emulated where KVM is missing."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launcher import (
    OWN_NETWORK,
    PREFIX,
    Launcher,
    children,
    free_port,
    helpers_of,
    in_network_of,
)
from tests.support.notify_socket import Systemd
from tests.support.tiny_guest import CMDLINE, POWERED_OFF, READY, TinyGuest, tiny_guest
from vllmd_hypervisor import qmp

SEABIOS = Path("/usr/share/seabios/bios-256k.bin")


@pytest.fixture(scope="session")
def tiny() -> TinyGuest:
    return tiny_guest()


@pytest.fixture
def guest(launcher: Launcher, tiny: TinyGuest) -> Iterator[Launcher]:
    """Return a launcher for the tiny guest; the test ends the guest, or the fixture does."""
    launcher.environment |= {
        PREFIX + "KERNEL_FILEPATH": str(tiny.kernel),
        PREFIX + "INITRD_FILEPATH": str(tiny.initrd),
        PREFIX + "CMDLINE": CMDLINE,
        PREFIX + "BACKEND": "qemu",
    }
    yield launcher


def comm_and_arguments(pid: int) -> tuple[str, list[str]]:
    process = Path("/proc") / str(pid)
    return (process / "comm").read_text().strip(), (process / "cmdline").read_text().split("\0")


def test_a_life_from_start_to_power_off(guest: Launcher) -> None:
    port = free_port()
    process = guest.start(NETWORK=f"mode=user,forward=127.0.0.1:{port}:8000", SYSTEM_IMAGE_READONLY="on", CPU_COUNT="2")
    console = guest.wait_for_output(READY)
    assert "tiny-guest: vda ro=1 sectors=16 serial=system" in console
    assert "tiny-guest: vdb ro=1 sectors=8 serial=config" in console
    assert re.search(rf"tiny-guest: cpus=2 memory_kib=2\d{{5}} cmdline={re.escape(CMDLINE)}", console)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
        assert answer.read() == b"ok\n"

    # One process, named like the launcher, and no Python behind it.
    comm, arguments = comm_and_arguments(process.pid)
    assert (comm, arguments[0]) == ("vllmd-hyperviso", "vllmd-hypervisor")  # the kernel keeps 15 characters
    assert Path(f"/proc/{process.pid}/exe").readlink().name == "qemu-system-x86_64"
    assert children(process.pid) == []
    guest.wait_until(lambda: helpers_of(guest) == [], "end of the helper")

    status = guest.status()
    assert (status["name"], status["state"], status["pid"], status["backend"]) == ("r1", "running", process.pid, "qemu")
    assert (status["vm_state"], status["exit"], sorted(status["sockets"])) == ("running", 0, ["console", "qmp"])
    assert 0 < status["uptime_seconds"] < 120
    assert guest.call("status").stdout.startswith(f"r1 is running (pid {process.pid}, qemu, ")
    assert (guest.run_directory / "pid").read_text() == f"{process.pid}\n"
    modes = {path.name: path.stat().st_mode & 0o777 for path in [guest.run_directory, *guest.run_directory.iterdir()]}
    assert modes == {"r1": 0o700, "lock": 0o600, "pid": 0o600, "qmp.sock": 0o700, "console.sock": 0o700}

    second = guest.call("start")
    assert second.returncode == 1
    assert second.stderr == f"vllmd-hypervisor: r1 is already running (pid {process.pid}); stop it first\n"

    stopped = guest.call("stop")
    assert stopped.returncode == 0
    assert stopped.stderr.startswith("vllmd-hypervisor: r1 stopped: the guest powered off in ")
    assert process.wait(10) == 0
    assert POWERED_OFF in guest.output.read_text()
    assert not guest.run_directory.exists()

    again = guest.call("stop")
    assert (again.returncode, again.stderr) == (3, "vllmd-hypervisor: r1 is not running\n")
    assert (guest.status()["state"], guest.status()["exit"]) == ("stopped", 3)


def test_a_paused_guest_is_noticed(guest: Launcher, tmp_path: Path) -> None:
    """QEMU lives and takes the connection, but no guest answers."""
    systemd = Systemd(tmp_path / "notify")
    guest.environment |= {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "60000000"}
    port = free_port()
    health = f"url=http://127.0.0.1:{port}/health,interval=1,silence=8,start=120"
    process = guest.start(NETWORK=f"mode=user,forward=127.0.0.1:{port}:8000", HEALTH=health)
    assert systemd.wait_for("READY=1", 120).startswith("r1 serves: qemu (")
    qmp.execute(guest.run_directory / "qmp.sock", "stop", 20)
    assert guest.status()["vm_state"] == "paused"
    assert systemd.wait_for("WATCHDOG=trigger").startswith("r1 has not answered at all for ")
    process.kill()
    process.wait()
    guest.wait_until(lambda: helpers_of(guest) == [], "end of the watch")
    systemd.close()


def test_a_killed_vmm_leaves_no_lock_and_starts_again(guest: Launcher) -> None:
    process = guest.start()
    guest.wait_until(lambda: guest.status()["vm_state"] == "running", "running guest")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (guest.run_directory / "qmp.sock").exists()
    assert guest.status()["exit"] == 3
    again = guest.start()
    guest.wait_until(lambda: guest.status()["vm_state"] == "running", "running guest")
    assert guest.status()["pid"] == again.pid
    assert guest.call("stop", STOP_TIMEOUT_SECONDS="0").returncode == 0


def test_systemds_stop_after_the_end_is_no_failure(guest: Launcher) -> None:
    """systemd runs ExecStop= also when the main process ended by itself, without MAINPID and with SERVICE_RESULT."""
    systemd = {"INVOCATION_ID": "0" * 32, "SERVICE_RESULT": "signal"}
    done = guest.call_with(guest.environment | systemd, "stop")
    assert (done.returncode, done.stderr) == (0, "vllmd-hypervisor: r1 is already stopped\n")
    shell = guest.call_with(guest.environment | {"INVOCATION_ID": "0" * 32}, "stop")
    assert shell.returncode == 3


def test_a_pvh_kernel_boots(guest: Launcher, tiny: TinyGuest) -> None:
    process = guest.start(KERNEL_FILEPATH=str(tiny.kernel_elf), CMDLINE=f"{CMDLINE} tiny.poweroff")
    assert process.wait(60) == 0
    assert READY in guest.output.read_text()
    guest.wait_until(lambda: helpers_of(guest) == [], "end of the helper")


def test_a_guest_that_panics_is_a_failure(guest: Launcher) -> None:
    process = guest.start(CMDLINE=f"{CMDLINE} tiny.panic")
    assert process.wait(60) == 1
    assert READY in guest.output.read_text()


def test_firmware_runs_and_a_guest_that_hears_no_button_is_told_to_quit(guest: Launcher) -> None:
    process = guest.start(KERNEL_FILEPATH=str(SEABIOS), INITRD_FILEPATH="", CMDLINE="")
    guest.wait_until(lambda: guest.status()["vm_state"] == "running", "running guest")
    stopped = guest.call("stop", STOP_TIMEOUT_SECONDS="1")
    assert stopped.returncode == 0
    assert "did not power off in 1 s, so the VMM was told to quit" in stopped.stderr
    assert process.wait(10) == 0


def test_a_qcow2_system_image_is_writable(guest: Launcher, tmp_path: Path) -> None:
    image = tmp_path / "system.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "1M"], check=True)
    guest.start(SYSTEM_IMAGE_FILEPATH=str(image))
    assert "tiny-guest: vda ro=0 sectors=2048" in guest.wait_for_output(READY)
    assert guest.call("stop").returncode == 0


def test_under_journald_the_log_is_a_socket(guest: Launcher) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        guest.start(stdout=theirs, CMDLINE=f"{CMDLINE} console=ttyS0")
        theirs.close()
        seen = b""
        while READY.encode() not in seen:
            part = ours.recv(65536)
            assert part, f"console ended after {seen!r}; {guest.said()}"
            seen += part
        assert sorted(guest.status()["sockets"]) == ["console", "qmp"]
        assert guest.call("stop").returncode == 0


def test_the_console_can_be_talked_to_while_it_is_logged(guest: Launcher, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    guest.start(LOG_FILEPATH=str(log))
    guest.wait_until(lambda: log.exists() and READY in log.read_text(errors="replace"), "ready guest")
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(guest.run_directory / "console.sock"))
        console.settimeout(20)
        seen = b""
        while b"answer=42" not in seen:
            console.sendall(b"echo answer=$((6*7))\n")
            time.sleep(0.2)
            seen += console.recv(65536)
    assert "answer=42" in log.read_text(errors="replace")
    assert log.stat().st_mode & 0o777 == 0o640
    assert guest.call("stop").returncode == 0


def test_a_tap_on_a_bridge_carries_the_guest(guest: Launcher, tmp_path: Path) -> None:
    """In a network namespace of its own: a bridge, a tap made by the launcher, gone when the VMM is."""
    prepare = "ip link add br0 type bridge; ip address add 10.0.2.2/24 dev br0; ip link set br0 up; ip link set lo up; "
    guest.command = [*OWN_NETWORK, "sh", "-ec", f'{prepare} exec "$@"', "launcher", *guest.command]
    process = guest.start(NETWORK="mode=tap,tap=vmtap0,bridge=br0")
    guest.wait_for_output(READY)
    inside = in_network_of(process.pid)
    get = "import urllib.request as r; print(r.urlopen('http://10.0.2.15:8000/health', timeout=20).read())"
    health = subprocess.run(
        [*inside, sys.executable, "-c", get], capture_output=True, text=True, check=True, timeout=60
    )
    assert health.stdout == "b'ok\\n'\n"
    link = subprocess.run([*inside, "ip", "-o", "link", "show", "vmtap0"], capture_output=True, text=True, check=True)
    assert "master br0" in link.stdout
    guest.command = guest.command[guest.command.index("launcher") + 1 :]
    assert guest.call("stop").returncode == 0
    assert process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_start_leaves_nothing(guest: Launcher, number: signal.Signals) -> None:
    """Signals at many moments of a start: either nothing ran, or the VMM got it; no file and no process stays."""
    for delay_ms in range(0, 160, 10):
        process = guest.start()
        time.sleep(delay_ms / 1000)
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            # CPython drops about one in 2,000 of the SIGINTs that come before it runs a line of ours; a person presses
            # Ctrl-C once more. SIGTERM, which systemd sends, it never drops.
            assert number == signal.SIGINT, f"after {delay_ms} ms"
            process.send_signal(number)
            process.wait(20)
        guest.wait_until(lambda: helpers_of(guest) == [], "end of the helper")
        if guest.run_directory.exists():  # the guest ran already: what a VMM leaves, the next command removes
            assert sorted(path.name for path in guest.run_directory.iterdir()) == ["lock", "pid"]
            assert guest.call("stop").returncode == 3
        assert list(guest.run_directory.parent.glob("*")) == [], f"after {delay_ms} ms"
    # Before its own initialization is over, the interpreter ends like this whatever it would run.
    early = re.compile(r"Fatal Python error: init.*?^KeyboardInterrupt$", re.DOTALL | re.MULTILINE)
    assert "Traceback" not in early.sub("", guest.errors.read_text())
