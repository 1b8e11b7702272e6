# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Give whole IOMMU groups to vfio and back: every device of a group, or none of them.

One device is taken in three steps (driver_override, unbind, bind), and each step is read back before the next. The
driver's own `bind` file is used and not drivers_probe, because it says why a driver refuses and never falls back to
another one. What a device was is in the record before its first write; a step that fails puts the whole group back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from .record import BINDING, BOUND, UNBINDING, Device, Group, Record, Store
from .sysfs import PCI, Sysfs

_POLL_SECONDS = 0.05
UNSET = "(null)"  # how the kernel prints a driver_override that is not set


class StepError(Exception):
    """A step the kernel refused or did not finish; one line: device, what, why."""


@dataclass(frozen=True)
class Result:
    """What became of one group.

    ``action``: bound, unbound, unchanged, rolled_back (it is as it was before), stuck (a device could not be put back;
    the record keeps it, and the next run tries again). ``error`` says why for the last two. ``steps`` has one line for
    each device that was changed or put back.
    """

    group: Group
    action: str
    steps: tuple[str, ...] = ()
    error: str = ""


class Binder:
    """Carries groups from one state to the other; ``timeout_seconds`` bounds each step of each device."""

    def __init__(self, sysfs: Sysfs, store: Store, timeout_seconds: float = 30) -> None:
        self._sysfs = sysfs
        self._store = store
        self._timeout = timeout_seconds
        self._waiting: set[str] = set()  # devices with a write that the kernel still has
        self.record: Record = store.load()

    # -- whole groups ------------------------------------------------------------------------------------------------

    def recover(self) -> list[Result]:
        """Bring the groups that a killed run left between two states back to what they were."""
        results = []
        for group in self.record.groups:
            if group.phase == BOUND:
                continue
            if group.phase == BINDING and all(self.driver(each.bdf) == each.target for each in group.devices):
                self._save(self.record.with_group(replace(group, phase=BOUND)))
                results.append(Result(group, "bound", ("an interrupted run had bound it completely",)))
                continue
            steps, problems = self.restore(group)
            if problems:
                results.append(Result(group, "stuck", tuple(steps), "; ".join(problems)))
                continue
            self._save(self.record.without_group(group))
            results.append(Result(group, "unbound", tuple(steps)))
        return results

    def bind(self, group: Group) -> Result:
        """Bind every device of ``group`` to its target, or put all of them back."""
        wanted = [each for each in group.devices if self.driver(each.bdf) != each.target]
        if not wanted:
            if self.record.with_group(replace(group, phase=BOUND)) != self.record:
                self._save(self.record.with_group(replace(group, phase=BOUND)))
            return Result(group, "unchanged")
        group = replace(group, phase=BINDING)
        self._save(self.record.with_group(group))
        steps: list[str] = []
        try:
            for module in sorted({each.target_module for each in wanted}):
                self._load(module)
            for device in wanted:
                steps.append(self._take(device))
        except StepError as error:
            back, problems = self.restore(group)
            if problems:
                return Result(group, "stuck", tuple(back), f"{error}; then {'; '.join(problems)}")
            self._save(self.record.without_group(group))
            return Result(group, "rolled_back", tuple(back), str(error))
        self._save(self.record.with_group(replace(group, phase=BOUND)))
        return Result(group, "bound", tuple(steps))

    def unbind(self, group: Group) -> Result:
        """Give every device of ``group`` back to what the record says it was, or bind all of them again."""
        self._save(self.record.with_group(replace(group, phase=UNBINDING)))
        steps, problems = self.restore(group, stop_at_first=True)
        if not problems:
            self._save(self.record.without_group(group))
            return Result(group, "unbound" if steps else "unchanged", tuple(steps))
        back: list[str] = []
        try:
            for device in group.devices:
                if self.driver(device.bdf) != device.target and self._same(device):
                    back.append(self._take(device))
        except StepError as error:
            return Result(group, "stuck", tuple(steps + back), f"{'; '.join(problems)}; then {error}")
        self._save(self.record.with_group(replace(group, phase=BOUND)))
        return Result(group, "rolled_back", tuple(back), "; ".join(problems))

    # -- one device --------------------------------------------------------------------------------------------------

    def driver(self, bdf: str) -> str | None:
        """Return the driver a device is bound to."""
        return self._sysfs.link(f"{PCI}/devices/{bdf}/driver")

    def override(self, bdf: str) -> str | None:
        """Return a device's driver_override; None when it has none."""
        text = self._sysfs.read(f"{PCI}/devices/{bdf}/driver_override")
        return None if text in (None, "", UNSET) else text

    def identity(self, bdf: str) -> str | None:
        """Return vendor:device of what is at an address now; None when nothing is."""
        parts = [self._sysfs.read(f"{PCI}/devices/{bdf}/{name}") for name in ("vendor", "device")]
        if None in parts:
            return None
        return ":".join(str(part).removeprefix("0x").lower() for part in parts)

    def _same(self, device: Device) -> bool:
        return self.identity(device.bdf) == device.identity

    def _take(self, device: Device) -> str:
        """Bind one device to its target. Raises StepError."""
        if not self._same(device):
            found = self.identity(device.bdf) or "no device"
            raise StepError(f"{device.bdf} is {found}, not {device.identity}; a card was moved or replaced, run again")
        before = self.driver(device.bdf)
        self._set_override(device.bdf, device.target)
        if before is not None:
            self._unbind(device.bdf, before)
        self._bind(device.bdf, device.target)
        return f"{device.bdf}: {before or 'no driver'} -> {device.target}"

    def restore(self, group: Group, stop_at_first: bool = False) -> tuple[list[str], list[str]]:
        """Put the devices of a group back, the last one taken first. Returns (what was done, what went wrong)."""
        steps: list[str] = []
        problems: list[str] = []
        for device in reversed(group.devices):
            try:
                step = self._put_back(device)
            except StepError as error:
                problems.append(str(error))
                if stop_at_first:
                    break
            else:
                steps += [step] if step else []
        return steps, problems

    def _put_back(self, device: Device) -> str:
        """Give one device what it had. Returns what was done, empty if nothing was to do. Raises StepError."""
        if not self._same(device):
            found = self.identity(device.bdf) or "gone"
            return f"{device.bdf}: left alone, it is {found} and no longer {device.identity}"
        before, override = self.driver(device.bdf), self.override(device.bdf)
        if (before, override) == (device.driver, device.override):
            return ""
        if before is not None and before != device.driver:
            self._unbind(device.bdf, before)
        self._set_override(device.bdf, device.override)
        name = f"{device.bdf}: {before or 'no driver'} -> {device.driver or 'no driver'}"
        # Read again: an unbind that a killed run began ends, at the latest, before the kernel takes the write above.
        if device.driver is None or self.driver(device.bdf) == device.driver:
            return name
        if not self._has_driver(device.driver):
            self._load_quietly(device.module or device.driver)
        if self._has_driver(device.driver):
            self._bind(device.bdf, device.driver)
            return name
        return f"{device.bdf}: {before or 'no driver'} -> no driver, because {device.driver} is no longer on this host"

    # -- one step ----------------------------------------------------------------------------------------------------

    def _set_override(self, bdf: str, name: str | None) -> None:
        if self.override(bdf) == name:
            return
        # The kernel takes an empty line as "none"; nothing at all would not reach it.
        self._write(
            bdf, f"{PCI}/devices/{bdf}/driver_override", f"{name or ''}\n", f"take driver_override {name or '-'}"
        )
        if self.override(bdf) != name:
            raise StepError(f"{bdf} has driver_override {self.override(bdf)} after {name} was written")

    def _unbind(self, bdf: str, driver: str) -> None:
        try:
            self._write(bdf, f"{PCI}/drivers/{driver}/unbind", bdf, f"be let go by {driver}")
        except StepError:
            # It may have been on its way out already, told by a run that was killed.
            if self.driver(bdf) == driver or bdf in self._waiting:
                raise
        if not self._poll(lambda: self.driver(bdf) != driver):
            raise StepError(f"{bdf} is still on {driver} {self._timeout:g} s after it was told to let go")
        if (now := self.driver(bdf)) is not None:
            raise StepError(f"{bdf} went from {driver} to {now} by itself")

    def _bind(self, bdf: str, driver: str) -> None:
        if self.driver(bdf) != driver:
            try:
                self._write(bdf, f"{PCI}/drivers/{driver}/bind", bdf, f"be taken by {driver}")
            except StepError:
                # Somebody else's probe, such as that of a module just loaded, may have been first with the same result.
                if self.driver(bdf) != driver:
                    raise
        if not self._poll(lambda: self.driver(bdf) == driver):
            raise StepError(f"{bdf} is on {self.driver(bdf) or 'no driver'} after it was given to {driver}")

    def _write(self, bdf: str, path: str, text: str, what: str) -> None:
        try:
            self._sysfs.write(path, text, self._timeout)
        except OSError as error:
            if isinstance(error, TimeoutError):
                self._waiting.add(bdf)
            raise StepError(f"{bdf} would not {what}: {error.strerror or error} (/sys/{path})") from None

    def _poll(self, done: Callable[[], bool]) -> bool:
        deadline = self._sysfs.now() + self._timeout
        while not done():
            if self._sysfs.now() >= deadline:
                return False
            self._sysfs.sleep(_POLL_SECONDS)
        return True

    def _has_driver(self, driver: str) -> bool:
        return bool(self._sysfs.entries(f"{PCI}/drivers/{driver}"))

    def _load(self, module: str) -> None:
        try:
            self._sysfs.load_module(module)
        except OSError as error:
            raise StepError(f"module {module} cannot be loaded: {error.strerror or error}") from None

    def _load_quietly(self, module: str) -> None:
        """Load the module of a device's own driver; that it is gone shows when its driver is looked for."""
        try:
            self._sysfs.load_module(module)
        except OSError:
            return

    def _save(self, record: Record) -> None:
        self._store.save(record)
        self.record = record


def describe(results: Iterable[Result]) -> list[str]:
    """Return one line for each group that was changed or could not be."""
    lines = []
    for result in results:
        name = f"IOMMU group {result.group.number} ({', '.join(sorted(result.group.bdfs))})"
        if result.action == "rolled_back":
            undone = ", ".join(result.steps) or "nothing had been changed"
            lines.append(f"{name}: {result.error}; the whole group was rolled back: {undone}")
        elif result.action == "stuck":
            lines.append(f"{name}: {result.error}; it is left between two states, and the next run tries again")
        elif result.action != "unchanged":
            lines.append(f"{name} {result.action}: {', '.join(result.steps) or 'nothing had been changed'}")
    return lines
