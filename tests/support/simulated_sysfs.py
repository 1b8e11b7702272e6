"""A /sys/bus/pci in memory that answers a write as the kernel does, with faults, and dies when it is told to.

The rules, from drivers/base/bus.c, drivers/base/dd.c and drivers/pci/pci-driver.c:

- `unbind` of a driver that does not have the device: ENODEV. It takes the driver link away and returns when the driver
  has let go. Until then every other write to the device waits.
- `bind`: ENODEV when there is no such device or the driver does not match it (with driver_override set only the driver
  of that name matches; a vfio driver matches nothing else), EBUSY when the device has a driver, the probe's own errno
  when that fails.
- `drivers_probe`: ENODEV without the device; otherwise always success, whatever driver takes it, or none.
- A module that is loaded probes every device that matches and has no driver.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.record import Record, dump, parse

_PAGE_BYTES = 4096
_FOREVER = 10**5  # sleeps that no run waits for
_DEVICES, _DRIVERS = "bus/pci/devices/", "bus/pci/drivers/"


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, so no handler of errors may catch this."""


@dataclass
class Function:
    """A PCI function. ``natives`` are the drivers whose id tables match it, the one that probes first in front.

    ``refused_by`` is the errno with which a driver's probe fails; ``kept_by`` are drivers that never let go;
    ``polls_to_leave`` is how many sleeps its driver link stays after unbind was written, as another process sees it;
    a vfio driver that nobody uses lets go sooner or later.
    """

    bdf: str
    identity: str = "10de:2330"
    driver: str | None = None
    override: str | None = None
    natives: tuple[str, ...] = ()
    refused_by: dict[str, int] = field(default_factory=dict)
    kept_by: frozenset[str] = frozenset()
    polls_to_leave: int = 0
    group: int | None = None
    class_text: str = "0x030200"
    leaving: int | None = None
    stuck: bool = False


class Deaths:
    """Counts what a process does to the outside and ends it at one of these moments, before or after its effect."""

    def __init__(self, at: int | None = None, after: bool = False) -> None:
        self.at = at
        self.after = after
        self.count = 0

    @contextmanager
    def moment(self) -> Iterator[None]:
        """Do the write inside; die before it or after it when its turn has come."""
        self.count += 1
        mine = self.count == self.at
        if mine and not self.after:
            raise Killed
        yield
        if mine:
            raise Killed


class SimulatedSysfs:
    """The interface `vfio.sysfs.Sysfs`; ``modules`` are the drivers that each module registers when it is loaded."""

    def __init__(self, functions: list[Function], deaths: Deaths | None = None) -> None:
        self.functions = {each.bdf: each for each in functions}
        self.deaths = deaths or Deaths()
        self.drivers: dict[str, str | None] = {}  # registered drivers and their modules
        self.modules: dict[str, tuple[str, ...]] = {"vfio_pci": ("vfio-pci",)}
        self.writes: list[tuple[str, str]] = []
        self.before_write: Callable[[str, str], None] | None = None
        self._clock = 0.0
        for function in functions:
            for name in filter(None, (function.driver, *function.natives)):
                module = name.replace("-", "_")
                self.modules.setdefault(module, (name,))
                self.drivers[name] = module

    @classmethod
    def of(cls, host: Host, deaths: Deaths | None = None) -> SimulatedSysfs:
        """Return the sysfs of a host: its functions with their drivers, each one's own driver matching it."""
        functions = []
        for device in host.pci.devices.values():
            native = device.driver if device.driver and "vfio" not in device.driver else None
            functions.append(
                Function(
                    bdf=device.bdf,
                    identity=device.id,
                    driver=device.driver,
                    override=device.driver_override,
                    natives=(native,) if native else (),
                )
            )
        made = cls(functions, deaths)
        for device in host.pci.devices.values():
            made.modules[device.vfio_module] = (device.vfio_driver,)
        return made

    def state(self) -> dict[str, tuple[str | None, str | None]]:
        """Return (driver, driver_override) of every function."""
        return {bdf: (each.driver, each.override) for bdf, each in self.functions.items()}

    # -- the interface -----------------------------------------------------------------------------------------------

    def read(self, path: str) -> str | None:
        """Return an attribute of a function."""
        bdf, _slash, name = path.removeprefix(_DEVICES).partition("/")
        function = self.functions.get(bdf)
        if function is None or not path.startswith(_DEVICES):
            return None
        vendor, _colon, device = function.identity.partition(":")
        texts = {"vendor": f"0x{vendor}", "device": f"0x{device}", "driver_override": function.override or "(null)"}
        texts["class"] = function.class_text
        return texts.get(name)

    def link(self, path: str) -> str | None:
        """Return a function's driver or a driver's module."""
        if path.startswith(_DRIVERS):
            return self.drivers.get(path.removeprefix(_DRIVERS).partition("/")[0])
        bdf, _slash, name = path.removeprefix(_DEVICES).partition("/")
        return self.functions[bdf].driver if name == "driver" and bdf in self.functions else None

    def entries(self, path: str) -> list[str]:
        """Return the files of a driver, or the members of a function's IOMMU group."""
        if path.endswith("/iommu_group/devices"):
            function = self.functions.get(path.removeprefix(_DEVICES).partition("/")[0])
            if function is None or function.group is None:
                return []
            return sorted(bdf for bdf, each in self.functions.items() if each.group == function.group)
        return ["bind", "unbind"] if path.removeprefix(_DRIVERS) in self.drivers else []

    def write(self, path: str, text: str, timeout_seconds: float) -> None:  # noqa: ARG002
        """Obey, or raise what the kernel would."""
        if self.before_write is not None:
            self.before_write(path, text)
        with self.deaths.moment():
            self.writes.append((path, text))
            if path.startswith(_DEVICES) and path.endswith("/driver_override"):
                self._set_override(path.removeprefix(_DEVICES).split("/")[0], text)
            elif path == "bus/pci/drivers_probe":
                self._probe_any(self._function(text))
            elif path.startswith(_DRIVERS) and path.endswith(("/bind", "/unbind")):
                driver, _slash, action = path.removeprefix(_DRIVERS).partition("/")
                if driver not in self.drivers:
                    raise _error(errno.ENOENT)
                (self._bind if action == "bind" else self._unbind)(driver, text)
            else:
                raise _error(errno.ENOENT)

    def load_module(self, name: str) -> None:
        """Register a module's drivers, which probe what has no driver."""
        name = name.replace("-", "_")
        with self.deaths.moment():
            if name not in self.modules:
                raise _error(errno.ENOENT)
            for driver in self.modules[name]:
                if driver not in self.drivers:
                    self.drivers[driver] = name
                    for function in self.functions.values():
                        if function.driver is None and self._matches(driver, function):
                            self._probe(driver, function)

    def now(self) -> float:
        """Return a clock that moves with sleep alone."""
        return self._clock

    def sleep(self, seconds: float) -> None:
        """Let time pass: drivers on their way out come nearer to the door."""
        self._clock += seconds
        for function in self.functions.values():
            if function.leaving is not None:
                function.leaving -= 1
                if function.leaving <= 0:
                    function.driver, function.leaving = None, None

    # -- the world outside -------------------------------------------------------------------------------------------

    def reboot(self, overrides: dict[str, str] | None = None) -> None:
        """Start the host again: overrides are forgotten, every function gets the first of its own drivers.

        ``overrides`` are those that a udev rule sets before any driver is there.
        """
        for function in self.functions.values():
            function.override = (overrides or {}).get(function.bdf)
            function.driver, function.leaving, function.stuck = None, None, False
            self._probe_any(function)

    def release(self, bdf: str) -> None:
        """Let the last user of a function go, so that its driver's way out ends."""
        function = self.functions[bdf]
        function.kept_by, function.stuck = frozenset(), False

    # -- rules -------------------------------------------------------------------------------------------------------

    def _function(self, bdf: str) -> Function:
        function = self.functions.get(bdf.strip())
        if function is None:
            raise _error(errno.ENODEV)
        if function.stuck:
            raise TimeoutError(errno.ETIMEDOUT, "the kernel has not returned in time")
        if function.leaving is not None and function.leaving < _FOREVER:
            function.driver, function.leaving = None, None
        return function

    def _set_override(self, bdf: str, text: str) -> None:
        function = self._function(bdf)
        if len(text) >= _PAGE_BYTES - 1:
            raise _error(errno.EINVAL)
        function.override = text.partition("\n")[0] or None

    def _unbind(self, driver: str, bdf: str) -> None:
        function = self._function(bdf)
        if function.driver != driver:
            raise _error(errno.ENODEV)
        if driver in function.kept_by:
            function.driver, function.stuck = None, True
            raise TimeoutError(errno.ETIMEDOUT, "the kernel has not returned in time")
        if function.polls_to_leave and not (driver.startswith("vfio") and function.polls_to_leave >= _FOREVER):
            function.leaving = function.polls_to_leave
        else:
            function.driver = None

    def _bind(self, driver: str, bdf: str) -> None:
        function = self._function(bdf)
        if not self._matches(driver, function):
            raise _error(errno.ENODEV)
        if function.driver is not None:
            raise _error(errno.EBUSY)
        code = self._probe(driver, function)
        if code:
            raise _error(code)

    def _probe_any(self, function: Function) -> None:
        if function.driver is not None:
            return
        for driver in (function.override,) if function.override else function.natives:
            if driver in self.drivers and self._matches(driver, function) and self._probe(driver, function) == 0:
                return

    @staticmethod
    def _probe(driver: str, function: Function) -> int:
        code = function.refused_by.get(driver, 0)
        if code == 0:
            function.driver = driver
        return code

    @staticmethod
    def _matches(driver: str, function: Function) -> bool:
        return driver == function.override if function.override else driver in function.natives


class MemoryStore:
    """The record as text, as the disk would keep it over a kill."""

    def __init__(self, deaths: Deaths | None = None) -> None:
        self.deaths = deaths or Deaths()
        self.text = dump(Record())

    def load(self) -> Record:
        """Return the record."""
        return parse(self.text)

    def save(self, record: Record) -> None:
        """Replace the record; a write that the process dies at happens as a whole or not at all."""
        with self.deaths.moment():
            self.text = dump(record)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
