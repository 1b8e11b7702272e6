"""The helper of `start`: brings the guest up once the VMM answers, reports, tells systemd, and goes away.

`start` itself becomes the VMM, so this runs beside it, adopted by init, without the lock and without any pipe to it. It
stays only where systemd's watchdog wants to hear how the guest is (watch.py), and then as long as the VMM.
"""

import os
import select
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic

from vllmd_hypervisor.backend import Backend
from vllmd_hypervisor.errors import LaunchError, reason
from vllmd_hypervisor.machine import Machine
from vllmd_hypervisor.notify import notify, watchdog_seconds
from vllmd_hypervisor.output import say
from vllmd_hypervisor.state import RunDirectory

_LIMIT_SECONDS = 600.0
_FIRST_POLL_MS, _LONGEST_POLL_MS = 5, 100
_DEATH_MS = 10_000


def spawn_detached(work: Callable[[], None], close: list[int]) -> None:
    """Run `work` in a process that is no child of this one (no zombie under the VMM) and holds none of `close`."""
    child = os.fork()
    if child == 0:
        try:
            for descriptor in close:
                os.close(descriptor)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.setsid()
            if os.fork() == 0:
                null = os.open(os.devnull, os.O_RDWR)
                os.dup2(null, 0)
                os.dup2(null, 1)
                os.chdir("/")
                work()
        except BaseException as error:  # nothing may escape into the caller's copy of the stack
            say(f"the helper failed: {error!r}")
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def drive(
    backend: Backend, machine: Machine, run: RunDirectory, vmm: tuple[int, int], environ: Mapping[str, str]
) -> None:
    """Bring the guest up and announce it; end the VMM when that fails; clean up when the VMM ends first.

    `vmm` is its pid and its pidfd. With a health to watch, the guest is announced when it serves.
    """
    pid, pidfd = vmm
    deadline = monotonic() + _LIMIT_SECONDS
    poll_ms = _FIRST_POLL_MS
    while not _ended(pidfd, poll_ms):
        try:
            if backend.bring_up(machine, run):
                if watchdog_seconds(environ, pid) and (health := machine.config.health):
                    from vllmd_hypervisor.watch import watch  # noqa: PLC0415  # most starts have nobody to tell

                    watch(health, run, vmm, machine.summary, environ)
                    break
                notify(environ, "READY=1", f"STATUS={run.name} runs: {machine.summary}")
                return
        except LaunchError as error:
            _give_up(str(error), run, pidfd, environ)
            break
        except OSError as error:
            trouble = f"the VMM does not answer on {backend.control_socket(run)}: {reason(error)}"
        else:
            trouble = "the VMM does not let its guest run"
        if monotonic() > deadline:
            _give_up(f"{trouble} (waited {_LIMIT_SECONDS:.0f} s)", run, pidfd, environ)
            break
        poll_ms = min(poll_ms * 2, _LONGEST_POLL_MS)
    # The VMM ended before its guest ran, or while it was watched; its own message tells why.
    run.remove_if_free()


def _ended(pidfd: int, wait_ms: int) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(wait_ms))


def _give_up(message: str, run: RunDirectory, pidfd: int, environ: Mapping[str, str]) -> None:
    """Report, and kill the VMM: told to quit it would exit with 0, and systemd would take that for success."""
    say(f"{run.name}: {message}")
    notify(environ, f"STATUS={message}")
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    _ended(pidfd, _DEATH_MS)
