"""`vllmd-hypervisor start`: check everything, prepare, then become the VMM."""

import json
import os
import shlex
import signal
from collections.abc import Mapping
from types import FrameType
from typing import NoReturn

from vllmd_hypervisor.backend import BACKENDS, Backend
from vllmd_hypervisor.cloud_hypervisor import create_body
from vllmd_hypervisor.config import parse_config
from vllmd_hypervisor.driver import drive, spawn_detached
from vllmd_hypervisor.errors import LaunchError, reason
from vllmd_hypervisor.launch import STDOUT, Descriptors, open_log, open_network
from vllmd_hypervisor.machine import QEMU, Machine, resolve_machine
from vllmd_hypervisor.output import say
from vllmd_hypervisor.state import RunDirectory

_VMM_ENVIRONMENT = ("PATH", "HOME", "TMPDIR", "LANG")
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedStartError(BaseException):
    """A signal asked to stop before the VMM was there."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def start(environ: Mapping[str, str]) -> NoReturn:
    """Become the VMM. ConfigError or LaunchError when that cannot be; then nothing is left behind."""
    for number in _STOP_SIGNALS:
        signal.signal(number, _interrupt)
    config = parse_config(environ, os.geteuid())
    run = RunDirectory(config.identity)
    run.refuse_running()
    machine = resolve_machine(config, environ)
    for warning in machine.warnings:
        say(f"warning: {warning}")
    descriptors = Descriptors(lock=run.acquire())
    try:
        _become(BACKENDS[machine.backend], machine, run, descriptors, environ)
    except BaseException:
        run.remove(descriptors.lock)
        raise


def _become(
    backend: Backend, machine: Machine, run: RunDirectory, descriptors: Descriptors, environ: Mapping[str, str]
) -> NoReturn:
    os.umask(0o077)  # for the sockets that the VMM makes
    run.clear()
    run.record(descriptors.lock, machine.backend)
    open_log(machine.config, descriptors)
    open_network(machine, run, descriptors)
    command = backend.command(machine, run, descriptors)
    executable = backend.executable(machine, run)
    if machine.config.debug:
        _explain(machine, executable, command)
    pidfd = os.pidfd_open(os.getpid())
    spawn_detached(lambda: drive(backend, machine, run, pidfd, environ), descriptors.inherited())
    os.close(pidfd)
    _reset_signals()
    for descriptor in descriptors.inherited():
        os.set_inheritable(descriptor, True)
    if machine.backend != QEMU and descriptors.log != STDOUT:
        os.dup2(descriptors.log, STDOUT)
    environment = {key: environ[key] for key in _VMM_ENVIRONMENT if key in environ}
    try:
        os.execve(executable, command, environment)  # noqa: S606 - a list, no shell; becoming the VMM is the purpose
    except OSError as error:
        raise LaunchError(f"cannot execute {machine.vmm}: {reason(error)}") from None


def _explain(machine: Machine, executable: os.PathLike[str], command: list[str]) -> None:
    say(f"debug: {machine.summary}")
    say(f"debug: exec {shlex.quote(os.fspath(executable))} as {shlex.join(command)}")
    if machine.backend != QEMU:
        say(f"debug: vm.create {json.dumps(create_body(machine))}")


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise InterruptedStartError(number)


def _reset_signals() -> None:
    """From here on a signal ends this process at once; the helper notices and cleans up."""
    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
