# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Files of certificates on a host: written as a whole, and the directory of a rotation."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import atomic
from ..kubernetes.errors import NodeError
from . import certificates, layout, rotation

with suppress(ImportError):  # libraries.missing() says so in words
    from cryptography import x509

#: What has a position in a rotation; a host may be both.
PARTS = ("member", "kubelet")


@dataclass(frozen=True)
class Changes:
    """What a step does, as lines for a person; with ``check`` it is only said."""

    check: bool
    lines: list[str]

    def will(self, line: str) -> bool:
        """Note what comes; return whether it is to be done."""
        self.lines.append(line)
        return not self.check


def write_pair(stem: Path, certificate: x509.Certificate, key: Any) -> None:
    """Write ``stem``.crt and ``stem``.key, one right after the other, for who reads between tries again.

    Raises OSError.
    """
    target, key_target = Path(f"{stem}.crt"), Path(f"{stem}.key")
    parts = (
        (key_target, certificates.key_pem(key), 0o600),
        (target, certificates.pem([certificate]), 0o644),
    )
    try:
        for path, content, mode in parts:
            new = atomic.sibling(path)
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                os.fchmod(stream.fileno(), mode)
            atomic.fsync_file(new)
        for path, _content, _mode in parts:
            atomic.sibling(path).replace(path)
        atomic.fsync_directory(target.parent)
    finally:
        for path, _content, _mode in parts:
            atomic.sibling(path).unlink(missing_ok=True)


def rewrite(path: Path, content: bytes) -> None:
    """Write another content to a file, with the owner and permissions that it has. Raises OSError."""
    before = path.stat()
    atomic.write_file(path, content, before.st_mode & 0o777)
    os.chown(path, before.st_uid, before.st_gid)


@dataclass(frozen=True)
class Rotation:
    """A rotation as a host keeps it: both authorities, and on hosts of the control plane their keys.

    ``part`` is what has this position: 'member' (of the control plane) or 'kubelet'; a host may be both.
    """

    root: Path
    directory: Path
    part: str
    record: rotation.Record
    old: x509.Certificate
    new: x509.Certificate

    def certificate(self, which: str) -> x509.Certificate:
        """Return the authority ``old`` or ``new``."""
        return self.old if which == "old" else self.new

    def issuer(self, which: str) -> certificates.Issuer:
        """Return the authority with its key. Raises NodeError, OSError."""
        where = self.directory / which
        pem, key = Path(f"{where}.crt").read_bytes(), Path(f"{where}.key").read_bytes()
        return certificates.issuer(pem, key, str(where))

    def believed(self, position: str) -> bytes:
        """Return the authorities that are believed at a position, as PEM."""
        return certificates.pem([self.certificate(each) for each in rotation.believed(position)])

    def leaves_for(self, position: str) -> None:
        """Keep that the host is on its way there. Raises OSError."""
        if position not in self.record.positions:
            self._keep(replace(self.record, towards=position))

    def reached(self, position: str) -> None:
        """Keep that the host is there. Raises OSError."""
        self._keep(replace(self.record, position=position, towards="", since=round(time.time(), 1)))

    def _keep(self, record: rotation.Record) -> None:
        atomic.write_file(self.directory / f"{self.part}.json", record.text(), 0o600)


def read(root: Path, part: str, directory: Path | None = None) -> Rotation | None:
    """Return the rotation that is under way on the host at ``root``; None without one. Raises NodeError, OSError.

    ``directory`` is where it is kept, if not where it belongs.
    """
    directory = directory or root / layout.ROTATION
    try:
        text = (directory / f"{part}.json").read_bytes()
    except FileNotFoundError:
        return None
    kept = rotation.record(text, str(directory / f"{part}.json"))
    try:
        old, new = (certificates.parse((directory / f"{each}.crt").read_bytes(), each)[0] for each in ("old", "new"))
    except FileNotFoundError as error:
        raise NodeError(f"{error.filename} is missing; write it back from a backup, or from another host") from None
    if (certificates.pin(old), certificates.pin(new)) != (kept.old, kept.new):
        raise NodeError(f"{directory}: the authorities are not those of its record; write back its backup")
    return Rotation(root, directory, part, kept, old, new)


@dataclass(frozen=True)
class Pair:
    """An authority as PEM of certificate and key; the key is empty on hosts that are given none."""

    certificate: bytes
    key: bytes = b""


def begin(directory: Path, part: str, kept: rotation.Record, old: Pair, new: Pair) -> None:
    """Keep a rotation in ``directory``: both authorities and the record. Raises NodeError, OSError."""
    if not directory.is_dir():
        directory.mkdir(mode=0o700)
    directory.chmod(0o700)
    for name, pair in (("old", old), ("new", new)):
        found = certificates.parse(pair.certificate, f"the {name} authority")[0]
        if pair.key:
            certificates.issuer(pair.certificate, pair.key, f"the {name} authority")
            atomic.write_file(directory / f"{name}.key", pair.key, 0o600)
        atomic.write_file(directory / f"{name}.crt", certificates.pem([found]), 0o600)
    atomic.write_file(directory / f"{part}.json", kept.text(), 0o600)


def finish(root: Path) -> None:
    """Forget a rotation, and with it the key of the authority that is believed no more. Raises OSError."""
    directory = root / layout.ROTATION
    # Records last: without one nobody would look for the rest.
    for path in sorted(directory.glob("*"), key=lambda each: each.suffix == ".json"):
        path.unlink()
    directory.rmdir()
