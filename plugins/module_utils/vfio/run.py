# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One run: recover, read, decide, wait, bind or give back, and keep it over reboots; the host is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from .. import atomic
from ..host.model import Host
from . import persist
from .binding import Binder, Result, describe
from .choose import choose, normalise_bdf
from .groups import CHOSEN, Members
from .outcome import Options, Outcome, Outside
from .plan import Plan, plan, recorded
from .record import BOUND, Group, Record
from .refuse import IN_USE, Refusal, in_use
from .services import ServiceError, holding, unit_names, without

STATE_DIRECTORY = "var/lib/vllmd/vfio"
_WAIT_SECONDS = 0.5


class Run:
    """One run of one state; `bind` or `give_back` is called once."""

    def __init__(self, outside: Outside, options: Options) -> None:
        self._outside = outside
        self._options = options
        self._binder = Binder(outside.sysfs, outside.store, options.step_seconds)
        self._record: Record = self._binder.record
        self.outcome = Outcome()

    def bind(self) -> Outcome:
        """Bind what is asked for. Raises choose.SelectionError, ServiceError, OSError."""
        if not self._recovered():
            return self.outcome
        host, made = self._decide()
        if made.refusals:
            self.outcome.refusals = list(made.refusals)
            self.outcome.errors = [str(each) for each in made.refusals]
            self._start_services(host)
            return self.outcome
        before = self._lines(made.groups)
        for group in made.groups:
            self._note(self._bind(group))
        self._differ(before, made.groups, BOUND)
        self._start_services(host)
        self._persist(host)
        return self.outcome

    def give_back(self) -> Outcome:
        """Give back what is asked for, or everything. Raises choose.SelectionError, ServiceError, OSError."""
        if not self._recovered():
            return self.outcome
        host = self._look()
        groups = recorded(self._record, self._selected(host))
        host, used = self._wait(host, lambda now: self._used(now, groups))
        if used:
            self.outcome.refusals = used
            self.outcome.errors = [str(each) for each in used]
            return self.outcome
        before = self._lines(groups)
        for group in groups:
            self._note(self._unbind(group))
            stays = sorted(each.bdf for each in group.devices if each.driver == each.target)
            if stays:
                self.outcome.warnings.append(
                    f"{', '.join(stays)} had a vfio driver before it was first bound; it stays"
                )
        self._differ(before, groups, "")
        self._persist(host)
        self._start_services(host)
        self._forget()
        return self.outcome

    @property
    def remaining(self) -> int:
        """Return how many devices are recorded as bound."""
        return sum(len(group.devices) for group in self._record.groups)

    # -- deciding ----------------------------------------------------------------------------------------------------

    def _recovered(self) -> bool:
        """Bring back what a killed run left between two states. Returns whether the run may go on."""
        pending = [group for group in self._record.groups if group.phase != BOUND]
        if self._outside.check:
            for group in pending:
                where = ", ".join(sorted(group.bdfs))
                self.outcome.messages.append(f"an interrupted run left {where}: these would first be given back")
                self.outcome.changed = True
            return True
        results = self._binder.recover()
        self._record = self._binder.record
        self.outcome.changed = self.outcome.changed or bool(results)
        stuck = [each for each in results if each.error]
        self.outcome.messages += [f"after an interrupted run: {line}" for line in describe(results)]
        self.outcome.errors += describe(stuck)
        return not stuck

    def _look(self) -> Host:
        """Read the host for the first time."""
        host = self._outside.read()
        self.outcome.initramfs = host.boot.initramfs or ""
        self.outcome.is_systemd = host.system.init == "systemd"
        return host

    def _decide(self) -> tuple[Host, Plan]:
        """Return the plan, after what holds devices open has ended or the time for that is over."""
        request, record, sysfs = self._options.request, self._record, self._outside.sysfs
        host = self._look()
        made = plan(host, request, record, sysfs)
        held = {each.bdf for each in made.refusals if each.code == IN_USE}
        if not held or any(each.code != IN_USE for each in made.refusals):
            return host, made
        units = unit_names(self._options.stop_services)
        if self._outside.check:
            host = without(host, units)
            return host, plan(host, request, record, sysfs)
        stopped = self._stop_services(holding(host, held, units))
        if not stopped and not self._options.handles_seconds:
            return host, made
        host, _used = self._wait(self._outside.read(), lambda now: list(plan(now, request, record, sysfs).refusals))
        return host, plan(host, request, self._record, sysfs)

    def _wait(self, host: Host, used: Callable[[Host], list[Refusal]]) -> tuple[Host, list[Refusal]]:
        """Wait until nothing is refused. Returns the host and what is still refused when the time is over."""
        sysfs = self._outside.sysfs
        deadline = sysfs.now() + self._options.handles_seconds
        while (refusals := used(host)) and sysfs.now() < deadline and not self._outside.check:
            sysfs.sleep(_WAIT_SECONDS)
            host = self._outside.read()
        return host, refusals

    def _selected(self, host: Host) -> tuple[str, ...] | None:
        """Return the addresses to give back; None for all. A recorded address counts even when its device is gone."""
        request = self._options.request
        if not request.devices:
            return None
        gone = {normalise_bdf(each) for each in request.devices} & {
            bdf for group in self._record.groups for bdf in group.bdfs if bdf not in host.pci.devices
        }
        rest = [each for each in request.devices if normalise_bdf(each) not in gone]
        chosen = choose(host, rest, request.exclude, request.policy.vendor, request.nvswitches).chosen if rest else ()
        return (*chosen, *(each for each in gone if each))

    def _used(self, host: Host, groups: Iterable[Group]) -> list[Refusal]:
        refusals = []
        for group in groups:
            there = tuple(
                each.bdf
                for each in group.devices
                if each.bdf in host.pci.devices and host.pci.devices[each.bdf].driver == each.target != each.driver
            )
            refusals += in_use(host, Members(group.number, there, dict.fromkeys(there, CHOSEN)))
        return refusals

    # -- doing -------------------------------------------------------------------------------------------------------

    def _bind(self, group: Group) -> Result:
        if not self._outside.check:
            result = self._binder.bind(group)
            self._record = self._binder.record
            return result
        self._record = self._record.with_group(replace(group, phase=BOUND))
        wanted = [each for each in group.devices if self._binder.driver(each.bdf) != each.target]
        steps = [f"{each.bdf}: {self._binder.driver(each.bdf) or 'no driver'} -> {each.target}" for each in wanted]
        return Result(group, "bound" if wanted else "unchanged", tuple(steps))

    def _unbind(self, group: Group) -> Result:
        if not self._outside.check:
            result = self._binder.unbind(group)
            self._record = self._binder.record
            return result
        self._record = self._record.without_group(group)
        moved = [each for each in reversed(group.devices) if self._binder.driver(each.bdf) != each.driver]
        steps = [f"{each.bdf}: {self._binder.driver(each.bdf)} -> {each.driver or 'no driver'}" for each in moved]
        return Result(group, "unbound" if moved else "unchanged", tuple(steps))

    def _note(self, result: Result) -> None:
        lines = describe([result])
        self.outcome.changed = self.outcome.changed or result.action != "unchanged"
        self.outcome.messages += lines
        self.outcome.errors += lines if result.error else []
        self.outcome.groups.append(
            {
                "group": result.group.number,
                "node": f"/dev/vfio/{result.group.number}",
                "devices": sorted(result.group.bdfs),
                "action": result.action,
            }
        )

    def _lines(self, groups: Iterable[Group]) -> dict[str, tuple[str | None, str | None]]:
        """Return (driver, driver_override) of the groups' devices now."""
        bdfs = sorted(bdf for group in groups for bdf in group.bdfs)
        return {bdf: (self._binder.driver(bdf), self._binder.override(bdf)) for bdf in bdfs}

    def _differ(self, before: dict[str, tuple[str | None, str | None]], groups: Iterable[Group], phase: str) -> None:
        groups = list(groups)
        after = self._lines(groups)
        if self._outside.check:
            devices = {device.bdf: device for group in groups for device in group.devices}
            for bdf, device in devices.items():
                there = before[bdf][0] == device.target
                after[bdf] = (device.driver, device.override) if phase != BOUND else after[bdf]
                after[bdf] = (device.target, device.target) if phase == BOUND and not there else after[bdf]
        if before != after:
            self.outcome.diff.append(
                {"before_header": "devices", "after_header": "devices", "before": _text(before), "after": _text(after)}
            )

    # -- services, files ---------------------------------------------------------------------------------------------

    def _stop_services(self, units: list[str]) -> list[str]:
        """Stop units; that they are to be started again is recorded first."""
        if units:
            self._save(replace(self._record, services=tuple(sorted({*self._record.services, *units}))))
        for unit in units:
            self._outside.services.stop(unit)
            self.outcome.messages.append(f"stopped {unit}")
            self.outcome.changed = True
        return units

    def _start_services(self, host: Host) -> None:
        """Start what was stopped again, unless every device that a vendor's services watch is with vfio now."""
        if not self._record.services or self._outside.check:
            return
        vendor = self._options.request.policy.vendor
        bound = {bdf for group in self._record.groups for bdf in group.bdfs}
        others = [each.bdf for each in host.pci.devices.values() if each.vendor_id == vendor and each.bdf not in bound]
        if bound and not others:
            return
        for unit in self._record.services:
            try:
                self._outside.services.start(unit)
                self.outcome.messages.append(f"started {unit} again")
            except ServiceError as error:
                self.outcome.warnings.append(str(error))
        self._save(replace(self._record, services=()))

    def _save(self, record: Record) -> None:
        self._outside.store.save(record)
        self._record = self._binder.record = record

    def _persist(self, host: Host) -> None:
        """Make the files agree with the record."""
        options, root = self._options, self._outside.root
        kept = Record(tuple(group for group in self._record.groups if group.phase == BOUND))
        wanted = persist.files(kept, options.node_group, host.boot.initramfs) if options.persistent else {}
        changes = persist.changes(root, wanted)
        marker = root / STATE_DIRECTORY / "initramfs-stale"
        known = host.boot.initramfs in persist.INITRAMFS_TOOLS
        stale = known and any(each.path in persist.IN_INITRAMFS for each in changes)
        self.outcome.initramfs_stale = known and (stale or marker.exists())
        self.outcome.changed = self.outcome.changed or bool(changes)
        self.outcome.diff += [each.diff() for each in changes]
        if self._outside.check:
            return
        if stale:
            # Written first: a run that is killed here must not forget it.
            atomic.make_directory(marker.parent)
            atomic.write_file(marker, b"", 0o644)
        persist.apply(root, changes)

    def _forget(self) -> None:
        """Remove the directory of the record when nothing is in it."""
        directory = self._outside.root / STATE_DIRECTORY
        if not self._outside.check and directory.is_dir() and not any(directory.iterdir()):
            directory.rmdir()


def _text(lines: dict[str, tuple[str | None, str | None]]) -> str:
    return "".join(
        f"{bdf}: driver {driver or 'none'}, driver_override {override or 'none'}\n"
        for bdf, (driver, override) in lines.items()
    )
