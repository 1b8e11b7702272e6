"""`vllmd-hypervisor stop`: power button, wait, quit, kill; each step only when the one before did not do."""

import os
import select
import signal
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic

from vllmd_hypervisor.backend import BACKENDS, Backend
from vllmd_hypervisor.config import parse_identity, parse_stop_timeout
from vllmd_hypervisor.errors import EXIT_NOT_RUNNING, EXIT_OK, LaunchError, reason
from vllmd_hypervisor.output import say
from vllmd_hypervisor.state import Holder, RunDirectory

_QUIT_SECONDS = 3.0
_KILL_SECONDS = 60.0  # the kernel unpins all guest memory of a passthrough guest before the process is gone
_PRESS_AGAIN_SECONDS = 5.0  # a guest that is still booting does not hear the first press
_CONNECT_AGAIN_SECONDS = 0.2


def stop(environ: Mapping[str, str]) -> int:
    """End the runtime's VMM and return the exit code; LaunchError when it cannot be ended."""
    run = RunDirectory(parse_identity(environ, os.geteuid()))
    timeout_seconds = parse_stop_timeout(environ)
    holder = run.find_holder()
    if holder is None:
        run.remove_if_free()
        if _called_by_systemd(environ):
            say(f"{run.name} is already stopped")
            return EXIT_OK
        say(f"{run.name} is not running")
        return EXIT_NOT_RUNNING
    how = _end(BACKENDS[holder.backend], run, holder, timeout_seconds)
    run.remove_if_free()
    say(f"{run.name} stopped: {how}")
    return EXIT_OK


def _called_by_systemd(environ: Mapping[str, str]) -> bool:
    """Tell ExecStop= of a service whose main process has ended by itself: no MAINPID.

    INVOCATION_ID alone proves nothing, because shells started by a service inherit it.
    """
    ours = "SERVICE_RESULT" in environ or environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
    return "INVOCATION_ID" in environ and ours and not environ.get("MAINPID")


def _end(backend: Backend, run: RunDirectory, holder: Holder, timeout_seconds: int) -> str:
    """End the VMM and say how."""
    begin = monotonic()
    asked = timeout_seconds > 0 and _ask_guest(backend, run, holder, begin + timeout_seconds)
    if _ended(holder, 0):
        return f"the guest powered off in {monotonic() - begin:.1f} s" if asked else "the VMM ended by itself"
    why = f"the guest did not power off in {timeout_seconds} s" if asked else "no guest could be asked to power off"
    with suppress(OSError, LaunchError):
        backend.quit(run, _QUIT_SECONDS)
        if _ended(holder, _QUIT_SECONDS):
            return f"{why}, so the VMM was told to quit"
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(holder.pidfd, signal.SIGKILL)
    if _ended(holder, _KILL_SECONDS):
        return f"{why} and the VMM did not quit, so it was killed"
    raise LaunchError(f"{run.name}: pid {holder.pid} is still there {_KILL_SECONDS:.0f} s after SIGKILL")


def _ask_guest(backend: Backend, run: RunDirectory, holder: Holder, deadline: float) -> bool:
    """Press the power button until the VMM ends or time is up; False when there was no guest to ask."""
    asked = False
    while (left := deadline - monotonic()) > 0:
        wait = _PRESS_AGAIN_SECONDS
        try:
            if not backend.press_power_button(run, left):
                return asked
            asked = True
        except (OSError, LaunchError) as error:
            if not asked and not isinstance(error, FileNotFoundError | ConnectionRefusedError):
                say(f"warning: {run.name}: {reason(error) if isinstance(error, OSError) else error}")
            wait = _CONNECT_AGAIN_SECONDS
        if _ended(holder, min(wait, left)):
            return asked
    return asked


def _ended(holder: Holder, seconds: float) -> bool:
    poller = select.poll()
    poller.register(holder.pidfd, select.POLLIN)
    return bool(poller.poll(max(0.0, seconds) * 1000))
