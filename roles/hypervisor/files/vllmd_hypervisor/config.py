"""From the environment to a checked configuration; nothing here looks at the host.

Names and defaults of the first nine variables are the original launcher's; the rest are additions, documented in
docs/hypervisor.md. An empty value counts as not set.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from os import fsencode
from pathlib import Path
from typing import TypeVar

from vllmd_hypervisor.errors import ConfigError, ValueProblem, one_line
from vllmd_hypervisor.health import Health, parse_health
from vllmd_hypervisor.memory import Memory, parse_memory
from vllmd_hypervisor.network import Network, parse_network
from vllmd_hypervisor.quantity import parse_switch, parse_whole_number

PREFIX = "VLLMD_HYPERVISOR_"
DEFAULTS = {
    "KERNEL_FILEPATH": "",
    "SYSTEM_IMAGE_FILEPATH": "",
    "CONFIG_IMAGE_FILEPATH": "",
    "CPU_COUNT": "4",
    "MEMORY_CONFIG": "size=16G,shared=on",
    "DEVICE_FILEPATH_LIST": "",
    "CMDLINE": "",
    "LOG_FILEPATH": "/dev/stdout",
    "DEBUG": "",
    "INITRD_FILEPATH": "",
    "BACKEND": "auto",
    "ACCELERATION": "auto",
    "VMM_FILEPATH": "",
    "NAME": "",
    "RUN_DIRPATH": "",
    "NETWORK": "none",
    "SYSTEM_IMAGE_READONLY": "off",
    "STOP_TIMEOUT_SECONDS": "25",
    "CACHE_IMAGE_FILEPATH": "",
    "HEALTH": "",
}
BACKENDS = ("auto", "cloud-hypervisor", "qemu")
ACCELERATIONS = ("auto", "kvm", "tcg")
INHERITED_STDOUT = "/dev/stdout"

MAX_CPUS = 1024
MAX_STOP_TIMEOUT_SECONDS = 3600
NAME_LIMIT = 63
CMDLINE_LIMIT = 2047  # x86's COMMAND_LINE_SIZE less its terminator, in bytes
PATH_LIMIT = 4095  # PATH_MAX less its terminator, in bytes
SOCKET_PATH_LIMIT = 107  # sun_path less its terminator, in bytes
LONGEST_SOCKET_NAME = "console.sock"

_CONTROL = frozenset(map(chr, (*range(0x20), 0x7F)))
_NO_DEVICES: tuple[str, ...] = ()
_NO_HEALTH: Health | None = None

T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """Which runtime is meant: its name, and the directory that holds every runtime's run-time state."""

    name: str
    run_dirpath: Path

    @property
    def dirpath(self) -> Path:
        """The directory of this runtime's lock, pid and sockets."""
        return self.run_dirpath / self.name


@dataclass(frozen=True)
class Config:
    """Everything `start` was told, checked as far as it can be without looking at the host. Paths are absolute."""

    identity: Identity
    kernel: Path
    initrd: Path | None
    cmdline: str
    system_image: Path
    system_image_readonly: bool
    config_image: Path
    cache_image: Path | None
    cpu_count: int
    memory: Memory
    devices: tuple[str, ...]
    network: Network
    log_filepath: Path
    debug: bool
    backend: str
    acceleration: str
    vmm_filepath: Path | None
    health: Health | None


class _Reader:
    """Reads variables one by one and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []

    def text(self, variable: str) -> str:
        """Return the value, or the default when it is unset, empty or unusable as text."""
        return self.clean(PREFIX + variable) or DEFAULTS[variable]

    def clean(self, full_name: str) -> str:
        """Return a variable's value, empty when it is unset or unusable as text."""
        value = self.environ.get(full_name, "")
        try:
            fsencode(value)
        except UnicodeEncodeError:
            fault = "is not text"
        else:
            fault = "contains a control character" if not _CONTROL.isdisjoint(value) else ""
        if fault:
            self.problems.append(one_line(f'{full_name}="{value}": {fault}'))
        return "" if fault else value

    def parsed(self, variable: str, parse: Callable[[str], T], fallback: T) -> T:
        """Return parse(value); on a ValueProblem note it and return the fallback."""
        value = self.text(variable)
        try:
            return parse(value)
        except ValueProblem as problem:
            self.problem(variable, value, str(problem))
            return fallback

    def path(self, variable: str, *, required: bool = False) -> Path | None:
        """Return an absolute path, or None for an empty one."""
        before = len(self.problems)
        value = self.text(variable)
        if not value:
            if required and len(self.problems) == before:
                self.problems.append(f"{PREFIX}{variable} is not set; {_WHAT[variable]}")
            return None
        if len(fsencode(value)) > PATH_LIMIT:
            self.problem(variable, value[:40] + "...", f"is longer than a path can be ({PATH_LIMIT} bytes)")
            return None
        return Path(value).absolute()

    def problem(self, variable: str, value: str, text: str) -> None:
        """Note a fault of one variable."""
        self.problems.append(one_line(f'{PREFIX}{variable}="{value}": {text}'))


_WHAT = {
    "KERNEL_FILEPATH": "name the guest's kernel (bzImage or PVH ELF) or firmware",
    "SYSTEM_IMAGE_FILEPATH": "name the guest's system disk image (raw or qcow2)",
    "CONFIG_IMAGE_FILEPATH": "name the read-only configuration disk image",
}


def parse_config(environ: Mapping[str, str], uid: int) -> Config:
    """Return the Config that `start` works from; ConfigError lists every fault, one line each."""
    reader = _Reader(environ)
    reader.problems.extend(_unknown_variables(environ))
    kernel = reader.path("KERNEL_FILEPATH", required=True)
    system_image = reader.path("SYSTEM_IMAGE_FILEPATH", required=True)
    config_image = reader.path("CONFIG_IMAGE_FILEPATH", required=True)
    identity = _read_identity(reader, config_image, uid)
    name = identity.name if identity else ""
    backend = reader.parsed("BACKEND", _choice(BACKENDS), "auto")
    acceleration = reader.parsed("ACCELERATION", _choice(ACCELERATIONS), "auto")
    if backend == "cloud-hypervisor" and acceleration == "tcg":
        reader.problem("ACCELERATION", "tcg", "cloud-hypervisor runs on KVM only; choose backend qemu")
    network = reader.parsed("NETWORK", lambda text: parse_network(text, name), Network())
    if backend == "cloud-hypervisor" and network.mode == "user":
        reader.problem("NETWORK", reader.text("NETWORK"), "cloud-hypervisor has no user-mode network; use mode=tap")
    reader.parsed("STOP_TIMEOUT_SECONDS", _stop_timeout, 0)
    health = reader.parsed("HEALTH", parse_health, _NO_HEALTH)
    if health and network.mode == "none" and reader.text("NETWORK") == "none":
        reader.problem("HEALTH", reader.text("HEALTH"), f"nothing can answer: the runtime has {PREFIX}NETWORK=none")
    values = {
        "initrd": reader.path("INITRD_FILEPATH"),
        "cmdline": reader.parsed("CMDLINE", _cmdline, ""),
        "system_image_readonly": reader.parsed("SYSTEM_IMAGE_READONLY", parse_switch, False),
        "cache_image": reader.path("CACHE_IMAGE_FILEPATH"),
        "cpu_count": reader.parsed("CPU_COUNT", lambda text: parse_whole_number(text, 1, MAX_CPUS), 1),
        "memory": reader.parsed("MEMORY_CONFIG", parse_memory, Memory(0)),
        "devices": reader.parsed("DEVICE_FILEPATH_LIST", _devices, _NO_DEVICES),
        "log_filepath": reader.path("LOG_FILEPATH") or Path(INHERITED_STDOUT),
        "debug": bool(reader.text("DEBUG")),
        "vmm_filepath": reader.path("VMM_FILEPATH"),
    }
    if reader.problems or not (kernel and system_image and config_image and identity):
        raise ConfigError(reader.problems)
    return Config(
        identity=identity,
        kernel=kernel,
        system_image=system_image,
        config_image=config_image,
        network=network,
        backend=backend,
        acceleration=acceleration,
        health=health,
        **values,  # type: ignore[arg-type]  # each value's type is its parser's; mypy sees only their union
    )


def parse_identity(environ: Mapping[str, str], uid: int) -> Identity:
    """Return which runtime `stop` and `status` mean.

    Every other variable is ignored: a runtime must be stoppable with an environment that could not start it.
    """
    reader = _Reader(environ)
    config_image = reader.path("CONFIG_IMAGE_FILEPATH")
    if not reader.text("NAME") and config_image is None:
        reader.problems.append(f"{PREFIX}NAME is not set, nor {PREFIX}CONFIG_IMAGE_FILEPATH to derive it from")
    identity = _read_identity(reader, config_image, uid)
    if reader.problems or identity is None:
        raise ConfigError(reader.problems)
    return identity


def parse_stop_timeout(environ: Mapping[str, str]) -> int:
    """Return how many seconds a guest gets to power off; ConfigError for a value that is no such number."""
    reader = _Reader(environ)
    seconds = reader.parsed("STOP_TIMEOUT_SECONDS", _stop_timeout, 0)
    if reader.problems:
        raise ConfigError(reader.problems)
    return seconds


def derive_name(config_image: Path) -> str:
    """Name a runtime after its config image: the file's stem and 8 hex digits of its real path's SHA-256."""
    stem = "".join(char if char.isascii() and (char.isalnum() or char in "._-") else "-" for char in config_image.stem)
    stem = stem.lstrip("._-")[:48] or "runtime"
    try:
        real = config_image.resolve()
    except (OSError, RuntimeError):  # a loop of symbolic links: the checks of the host will name it
        real = config_image
    return f"{stem}-{sha256(fsencode(real)).hexdigest()[:8]}"


def _read_identity(reader: _Reader, config_image: Path | None, uid: int) -> Identity | None:
    before = len(reader.problems)
    name = reader.parsed("NAME", _name, "")
    if not name and config_image:
        name = derive_name(config_image)
    run_dirpath = reader.path("RUN_DIRPATH") or _default_run_dirpath(reader, uid)
    if not name or run_dirpath is None or len(reader.problems) > before:
        return None
    longest = run_dirpath / name / LONGEST_SOCKET_NAME
    if len(fsencode(longest)) > SOCKET_PATH_LIMIT:
        reader.problems.append(
            f"the socket path {one_line(str(longest))} has {len(fsencode(longest))} bytes, the kernel allows "
            f"{SOCKET_PATH_LIMIT}; shorten {PREFIX}RUN_DIRPATH or {PREFIX}NAME"
        )
        return None
    return Identity(name, run_dirpath)


def _default_run_dirpath(reader: _Reader, uid: int) -> Path | None:
    if uid == 0:
        return Path("/run/vllmd")
    runtime_dirpath = reader.clean("XDG_RUNTIME_DIR")
    if runtime_dirpath.startswith("/"):
        return Path(runtime_dirpath) / "vllmd"
    reader.problems.append(f"XDG_RUNTIME_DIR is not set; set it, or {PREFIX}RUN_DIRPATH to a private directory")
    return None


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    problems = []
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in DEFAULTS:
            from difflib import get_close_matches  # noqa: PLC0415 - costs 5 ms, needed only on the way to an error

            match = get_close_matches(variable.removeprefix(PREFIX), DEFAULTS, n=1, cutoff=0.4)
            near = f"did you mean {PREFIX}{match[0]}?" if match else "see docs/hypervisor.md for the names"
            problems.append(one_line(f"{variable[:200]} is not a variable of vllmd-hypervisor; {near}"))
    return problems


def _choice(allowed: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueProblem(f"must be one of {', '.join(allowed)}")
        return text

    return parse


def _stop_timeout(text: str) -> int:
    return parse_whole_number(text, 0, MAX_STOP_TIMEOUT_SECONDS)


def _name(text: str) -> str:
    good = all(char.isascii() and (char.isalnum() or char in "._-") for char in text)
    if not good or text[:1] in tuple("._-") or len(text) > NAME_LIMIT:
        raise ValueProblem(
            f"must be 1 to {NAME_LIMIT} letters, digits, dots, dashes or underscores, beginning with a letter or digit"
        )
    return text


def _cmdline(text: str) -> str:
    if len(fsencode(text)) > CMDLINE_LIMIT:
        raise ValueProblem(f"is longer than a kernel accepts ({CMDLINE_LIMIT} bytes)")
    return text


def _devices(text: str) -> tuple[str, ...]:
    if not text:
        return ()
    devices = [part.strip() for part in text.split(",")]
    if not all(devices):
        raise ValueProblem("has an empty entry between commas")
    repeated = next((device for device in devices if devices.count(device) > 1), None)
    if repeated:
        raise ValueProblem(f"names {repeated} twice")
    return tuple(devices)
