# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What every device was before it was touched, on disk before the first write, so that there is always a way back.

One JSON file, replaced as a whole. A group's phase says what to do with it after a run that was killed: `binding` and
`unbinding` groups go back to what the file says they were, `bound` ones stay.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from .. import atomic

BINDING, BOUND, UNBINDING = "binding", "bound", "unbinding"
_PHASES = (BINDING, BOUND, UNBINDING)
_VERSION = 1


class RecordError(ValueError):
    """The record cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True)
class Device:
    """A device before it was touched, and the driver it is given to.

    ``identity`` is vendor:device, `10de:2330`. ``driver``, ``module`` and ``override`` are what it had: its driver, the
    kernel module of that driver, its driver_override; None where there was none. ``target`` is the driver and
    ``target_module`` the module that passes it through, such as `vfio-pci` and `vfio_pci`.
    """

    bdf: str
    identity: str
    driver: str | None
    module: str | None
    override: str | None
    target: str
    target_module: str


@dataclass(frozen=True)
class Group:
    """The devices of one IOMMU group that are bound together or not at all, in the order they are taken.

    ``number`` is the group's at the time of binding; the kernel may number it otherwise after the next boot.
    """

    number: int
    devices: tuple[Device, ...]
    phase: str = BINDING

    @property
    def bdfs(self) -> frozenset[str]:
        """Return the addresses of its devices."""
        return frozenset(device.bdf for device in self.devices)


@dataclass(frozen=True)
class Record:
    """All groups touched, and the systemd units that were stopped for them."""

    groups: tuple[Group, ...] = ()
    services: tuple[str, ...] = field(default=())

    def with_group(self, group: Group) -> Record:
        """Return the record with ``group``, whose devices leave the groups they were recorded in before."""
        kept = self.without_group(group).groups
        return replace(self, groups=tuple(sorted((*kept, group), key=lambda each: min(each.bdfs))))

    def without_group(self, group: Group) -> Record:
        """Return the record without the devices of ``group``."""
        rest = []
        for each in self.groups:
            devices = tuple(device for device in each.devices if device.bdf not in group.bdfs)
            rest += [replace(each, devices=devices)] if devices else []
        return replace(self, groups=tuple(rest))

    def device(self, bdf: str) -> Device | None:
        """Return what is known of a device."""
        return next((each for group in self.groups for each in group.devices if each.bdf == bdf), None)


class Store(Protocol):
    """Where the record is kept."""

    def load(self) -> Record:
        """Return the record; an empty one when nothing was ever bound. Raises RecordError."""

    def save(self, record: Record) -> None:
        """Replace the record, durably; an empty one removes the file. Raises OSError."""


class FileStore:
    """The record as a file that only root reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Record:
        """Return the record; an empty one when nothing was ever bound. Raises RecordError."""
        try:
            return parse(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise RecordError(
                f"{self.path}: the record of what is bound cannot be read ({error}); correct it, or remove it and give "
                "the devices back by hand"
            ) from None

    def save(self, record: Record) -> None:
        """Replace the record, durably; an empty one removes the file. Raises OSError."""
        if record == Record():
            if self.path.exists():
                self.path.unlink()
                atomic.fsync_directory(self.path.parent)
            return
        atomic.make_directory(self.path.parent)
        atomic.write_file(self.path, dump(record).encode(), 0o600)


def dump(record: Record) -> str:
    """Return the record as JSON text."""
    return json.dumps({"version": _VERSION, **asdict(record)}, indent=2) + "\n"


def parse(text: str) -> Record:
    """Return the record that ``text`` holds. Raises ValueError, TypeError, KeyError or AttributeError."""
    data = json.loads(text)
    if data["version"] != _VERSION:
        raise ValueError(f"version {data['version']!r} is not {_VERSION}")
    return Record(tuple(_group(each) for each in data["groups"]), tuple(str(name) for name in data["services"]))


def _group(data: dict[str, Any]) -> Group:
    if data["phase"] not in _PHASES or not data["devices"]:
        raise ValueError(f"a group has no devices or the unknown phase {data['phase']!r}")
    return Group(int(data["number"]), tuple(Device(**each) for each in data["devices"]), data["phase"])
