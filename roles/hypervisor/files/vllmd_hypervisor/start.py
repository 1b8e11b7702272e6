"""`vllmd-hypervisor start`: check everything, prepare, then become the VMM."""

import json
import os
import shlex
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from vllmd_hypervisor.backend import BACKENDS
from vllmd_hypervisor.cloud_hypervisor import create_body
from vllmd_hypervisor.config import PREFIX, Config, parse_config
from vllmd_hypervisor.driver import drive, spawn_detached
from vllmd_hypervisor.errors import ConfigError, LaunchError, reason
from vllmd_hypervisor.launch import STDOUT, Descriptors, open_log, open_network
from vllmd_hypervisor.machine import QEMU, Machine, resolve_machine
from vllmd_hypervisor.notify import watchdog_seconds
from vllmd_hypervisor.output import say
from vllmd_hypervisor.state import RunDirectory

_VMM_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def start(environ: Mapping[str, str]) -> NoReturn:
    """Become the VMM. ConfigError or LaunchError when that cannot be; then nothing is left behind.

    A signal that arrives before anything was made just ends the process. From the lock on, signals wait for the helper,
    which removes what a process that dies from then on leaves.
    """
    config = parse_config(environ, os.geteuid())
    _check_watchdog(config, environ)
    run = RunDirectory(config.identity)
    run.refuse_running()
    machine = resolve_machine(config, environ)
    for warning in machine.warnings:
        say(f"warning: {warning}")
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    descriptors = Descriptors(lock=run.acquire())
    try:
        command, executable = _prepare(machine, run, descriptors)
        vmm = os.getpid(), os.pidfd_open(os.getpid())
        backend = BACKENDS[machine.backend]
        spawn_detached(lambda: drive(backend, machine, run, vmm, environ), descriptors.opened())
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores it, and the VMM would inherit that
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        _exec(machine, executable, command, environ)
    except BaseException:
        run.remove(descriptors.lock)
        raise


def _check_watchdog(config: Config, environ: Mapping[str, str]) -> None:
    """Refuse a unit whose watchdog is faster than the reports about this runtime's health can be."""
    seconds = watchdog_seconds(environ, os.getpid())
    if seconds and config.health and seconds <= config.health.longest_pause:
        raise ConfigError(
            [
                f"the unit's WatchdogSec is {seconds:g} s, but with {PREFIX}HEALTH as it is up to "
                f"{config.health.longest_pause:g} s pass between two reports; set WatchdogSec to "
                f"{2 * config.health.longest_pause:.0f} s or more"
            ]
        )


def _prepare(machine: Machine, run: RunDirectory, descriptors: Descriptors) -> tuple[list[str], Path]:
    """Make what the VMM needs on the host and return its arguments and the path to execute."""
    run.clear()
    run.record(descriptors.lock, machine.backend)
    open_log(machine.config, descriptors)
    os.umask(0o077)  # for the sockets that the VMM makes
    open_network(machine, run, descriptors)
    backend = BACKENDS[machine.backend]
    command = backend.command(machine, run, descriptors)
    executable = backend.executable(machine, run)
    if machine.config.debug:
        _explain(machine, executable, command)
    os.set_inheritable(descriptors.lock, True)
    if machine.backend == QEMU:
        for descriptor in descriptors.opened():
            os.set_inheritable(descriptor, True)
    else:
        os.dup2(descriptors.log, STDOUT)
    return command, executable


def _exec(machine: Machine, executable: Path, command: list[str], environ: Mapping[str, str]) -> NoReturn:
    environment = {key: environ[key] for key in _VMM_ENVIRONMENT if key in environ}
    try:
        os.execve(executable, command, environment)  # noqa: S606 - a list, no shell; becoming the VMM is the purpose
    except OSError as error:
        raise LaunchError(f"cannot execute {machine.vmm}: {reason(error)}") from None


def _explain(machine: Machine, executable: Path, command: list[str]) -> None:
    say(f"debug: {machine.summary}")
    say(f"debug: exec {shlex.quote(str(executable))} as {shlex.join(command)}")
    if machine.backend != QEMU:
        say(f"debug: vm.create {json.dumps(create_body(machine))}")
