# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a host remembers about a runtime, in the runtime's directory, so that an update can go on or back at any point.

- ``served.json``: the runtime's files as they were when it served last, the way back.
- ``update.json``: an update of it has begun and has not ended.
- ``refused.json``: a configuration that was tried and did not serve, why, and what is kept instead.

Each is one file, written as a whole, readable by root only: an environment file or config image may hold a secret.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import atomic

SERVED, UPDATE, REFUSED = "served.json", "update.json", "refused.json"
_SCHEMA = 1
_MODE = 0o600
#: What an entry of role hypervisor is compared by, with the words for people.
FIELDS = {
    "image": "image",
    "cpu_count": "CPUs",
    "memory": "memory",
    "devices": "devices",
    "network": "network",
    "cache_image": "cache disk",
    "cpus": "the host's CPUs",
    "numa_nodes": "NUMA nodes",
}
#: What is remembered of an entry beside those.
_KNOWN = ("replica_of", "revision", "health_url", "endpoints")


class RecordError(Exception):
    """A record cannot be read or used; the message is one line."""


def read(path: Path) -> dict[str, Any] | None:
    """Return a record, None when there is none. Raises RecordError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise RecordError(f"{path} is not JSON; remove it") from None
    if not isinstance(record, dict) or record.get("schema") != _SCHEMA:
        raise RecordError(f"{path} is not a record of schema version {_SCHEMA}; remove it")
    return record


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record. Raises OSError."""
    text = json.dumps({"schema": _SCHEMA, **record}, indent=1, sort_keys=True) + "\n"
    atomic.write_file(path, text.encode(), _MODE)


def about(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is remembered of an entry of role hypervisor."""
    return {key: entry[key] for key in (*FIELDS, *_KNOWN) if key in entry}


def differences(before: Mapping[str, Any], entry: Mapping[str, Any]) -> list[str]:
    """Return in words what an entry changes for a runtime of which ``before`` is remembered."""
    return [
        f"{word} {_shown(before.get(key))} -> {_shown(entry.get(key))}"
        for key, word in FIELDS.items()
        if (before.get(key) or None) != (entry.get(key) or None)
    ]


def snapshot(paths: Iterable[Path]) -> dict[str, Any]:
    """Return files as data: ``files`` by path with content, mode and owner, and ``directories``, which hold no others.

    One of ``paths`` that is a directory stands for its ``*.conf``; one that is missing is left out, and a missing
    directory is an empty one. Raises OSError.
    """
    directories, files = [], {}
    for path in paths:
        if path.suffix == ".d":
            directories.append(str(path))
            files.update({str(each): _file(each) for each in sorted(path.glob("*.conf"))})
        elif path.exists():
            files[str(path)] = _file(path)
    return {"directories": sorted(directories), "files": files}


def restore(record: Mapping[str, Any], only_check: bool = False) -> list[str]:
    """Bring the files of a snapshot back, and remove what came to its directories. Returns what differed, as paths.

    Raises OSError.
    """
    wanted = record["files"]
    differing = [path for path, file in wanted.items() if not _same(Path(path), file)]
    come = [
        str(path)
        for directory in record["directories"]
        for path in sorted(Path(directory).glob("*.conf"))
        if str(path) not in wanted
    ]
    if not only_check:
        for name in differing:
            path, file = Path(name), wanted[name]
            atomic.make_directory(path.parent)
            atomic.write_file(path, _content(file), file["mode"])
            if (file["uid"], file["gid"]) != (path.stat().st_uid, path.stat().st_gid):
                os.chown(path, file["uid"], file["gid"])
        for name in come:
            Path(name).unlink(missing_ok=True)
    return sorted([*differing, *come])


def refusal(served: Mapping[str, Any] | None, tried: Mapping[str, Any], reason: str, time: str) -> dict[str, Any]:
    """Return the record of a refused configuration: ``tried`` is what ``about`` gives, ``time`` ISO 8601."""
    kept = {key: served[key] for key in (*FIELDS, *_KNOWN) if key in served} if served else None
    return {
        "replica_of": tried.get("replica_of", ""),
        "image": tried.get("image", ""),
        "revision": tried.get("revision", ""),
        "reason": " ".join(reason.split()),
        "time": time,
        "kept": kept,
    }


def is_refused(refused: Mapping[str, Any] | None, entry: Mapping[str, Any]) -> bool:
    """Return whether an entry is what was refused here: its image, where that was what changed, else all of it."""
    if not refused or not refused.get("kept"):
        return False
    if _image_failed(refused):
        return bool(entry.get("image") == refused["image"])
    return bool(entry.get("revision") == refused["revision"])


def hold(
    entry: Mapping[str, Any], record: Mapping[str, Any], refusals: Iterable[Mapping[str, Any]] = ()
) -> Mapping[str, Any]:
    """Return an entry of role hypervisor, ``held`` (why) when it was refused; then it has the image that is kept.

    ``record``: the replica's own, as module runtime_records_info returns it. ``refusals``: those of all replicas, with
    ``where``; an image that one replica of a runtime refused is not tried by another that serves from an older one.
    """
    own, served = record.get("refused"), record.get("served") or {}
    if is_refused(own, entry):
        return _held(entry, own["kept"], {**own, "where": "here"}) if own else entry
    for refused in refusals:
        same = (refused["replica_of"], refused["image"]) == (entry.get("replica_of"), entry.get("image"))
        if same and _image_failed(refused) and served and served.get("image") != entry.get("image"):
            return _held(entry, served, refused)
    return entry


def refusals(records: Mapping[str, Mapping[str, Mapping[str, Any]] | None]) -> list[dict[str, Any]]:
    """Return what was refused anywhere, from the records of each host; ``where`` is replica and host."""
    return [
        {key: refused.get(key, "") for key in ("replica_of", "image", "time", "reason", "kept")}
        | {"where": f"by {name} on {host}"}
        for host, found in sorted(records.items())
        for name, record in sorted((found or {}).items())
        if (refused := record.get("refused"))
    ]


def _image_failed(refused: Mapping[str, Any]) -> bool:
    """Return whether another image was what the refused configuration brought."""
    return bool(refused["image"]) and bool(refused["kept"]) and refused["image"] != refused["kept"].get("image")


def _held(entry: Mapping[str, Any], kept: Mapping[str, Any], refused: Mapping[str, Any]) -> dict[str, Any]:
    why = f"{refused['image']} was refused {refused['where']} on {refused['time']}: {refused['reason']}"
    known = {key: kept[key] for key in ("image", "health_url", "endpoints") if key in kept}
    return {**entry, **known, "held": why}


def _file(path: Path) -> dict[str, Any]:
    status, content = path.stat(), path.read_bytes()
    file: dict[str, Any] = {"mode": stat.S_IMODE(status.st_mode), "uid": status.st_uid, "gid": status.st_gid}
    try:
        file["text"] = content.decode("utf-8")
    except UnicodeDecodeError:
        file["base64"] = base64.b64encode(content).decode("ascii")
    return file


def _content(file: Mapping[str, Any]) -> bytes:
    return file["text"].encode() if "text" in file else base64.b64decode(file["base64"])


def _same(path: Path, file: Mapping[str, Any]) -> bool:
    try:
        return path.read_bytes() == _content(file)
    except OSError:
        return False


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value)) or "none"
    return str(value) if value else "none"
