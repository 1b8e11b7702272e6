"""The command line: three verbs, two options, everything else is environment."""

import os
import signal
from collections.abc import Mapping, Sequence

from vllmd_hypervisor import __version__
from vllmd_hypervisor.errors import EXIT_BAD_CONFIGURATION, EXIT_FAILURE, EXIT_OK, PROGRAM, ConfigError, LaunchError
from vllmd_hypervisor.output import say, write_line

_VERBS = ("start", "stop", "status")
_STDOUT = 1
_HELP = """\
usage: vllmd-hypervisor start|stop|status [--json]

Runs one virtual machine, configured by environment variables alone.

  start          check everything, then become the virtual machine monitor (stays in the foreground)
  stop           ask the guest to power off, wait, then end the monitor
  status         tell whether it runs; --json prints an object for programs
  --help         print this
  --version      print the version

variables (prefix VLLMD_HYPERVISOR_):
  KERNEL_FILEPATH, SYSTEM_IMAGE_FILEPATH, CONFIG_IMAGE_FILEPATH   required by start
  CPU_COUNT=4  MEMORY_CONFIG=size=16G,shared=on  DEVICE_FILEPATH_LIST  CMDLINE  INITRD_FILEPATH
  LOG_FILEPATH=/dev/stdout  DEBUG  BACKEND=auto|cloud-hypervisor|qemu  ACCELERATION=auto|kvm|tcg
  VMM_FILEPATH  NAME  RUN_DIRPATH  NETWORK=none|mode=user,...|mode=tap,...  SYSTEM_IMAGE_READONLY=off|on
  STOP_TIMEOUT_SECONDS=25  CACHE_IMAGE_FILEPATH
  HEALTH=url=http://ADDRESS:PORT/PATH,interval=10,silence=120,start=900

exit codes: 0 done or running, 1 failed, 2 bad configuration, 3 not running, 4 unknown; start: the monitor's own
"""


def main(arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> int:
    """Run one verb and return the exit code; `start` does not return when it succeeds."""
    environ = os.environ if environ is None else environ
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interrupted command ends; it prints no traceback
    try:
        return _dispatch(list(arguments), environ)
    except ConfigError as error:
        for problem in error.problems:
            say(problem)
        return EXIT_BAD_CONFIGURATION
    except (LaunchError, OSError) as error:
        say(str(error))
        return EXIT_FAILURE


def _dispatch(arguments: list[str], environ: Mapping[str, str]) -> int:
    if arguments in (["-h"], ["--help"], ["help"]):
        write_line(_STDOUT, _HELP.rstrip())
        return EXIT_OK
    if arguments == ["--version"]:
        write_line(_STDOUT, f"{PROGRAM} {__version__}")
        return EXIT_OK
    verb, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    as_json = verb == "status" and options == ["--json"]
    if verb not in _VERBS or (options and not as_json):
        said = f"cannot {' '.join(arguments)!r}; " if arguments else ""
        raise ConfigError([f"{said}say start, stop or status (see --help)"])
    _open_standard_descriptors()
    # Imported late: each verb loads only what it uses, and `start` has a budget.
    if verb == "start":
        from vllmd_hypervisor.start import start  # noqa: PLC0415

        start(environ)
    if verb == "stop":
        from vllmd_hypervisor.stop import stop  # noqa: PLC0415

        return stop(environ)
    from vllmd_hypervisor.status import status  # noqa: PLC0415

    return status(environ, as_json=as_json)


def _open_standard_descriptors() -> None:
    """Make sure that 0, 1 and 2 are open, so that no lock or log ever lands there; keep anything else from the VMM."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers, not paths
        if int(entry) > 2:
            try:
                os.set_inheritable(int(entry), False)
            except OSError:
                continue  # the descriptor that listed the directory is closed already
