# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Renewal of what kubeadm, or this collection, issued: what is due is issued again, and whoever has to starts again."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..kubernetes import versions
from ..kubernetes.errors import NodeError
from ..kubernetes.programs import run
from . import balancer, certificates, components, inventory, kubeconfigs, layout, member, store

_KUBEADM_SECONDS = 120


@dataclass(frozen=True)
class Options:
    """What is renewed: what has ``days`` left at most, or ``everything``; of further ``kubeconfigs``, too."""

    days: float = 30
    everything: bool = False
    kubeadm: str = "kubeadm"
    kubeconfigs: Sequence[str] = ()
    units: Sequence[str] = ()
    timeout_seconds: float = 180


@dataclass(frozen=True)
class Done:
    """What was renewed and started again, and what is due and cannot be renewed here, one line each."""

    renewed: tuple[str, ...]
    restarted: tuple[str, ...]
    left: tuple[str, ...]


def renew(root: Path, now: datetime, options: Options, *, check: bool = False) -> Done:
    """Renew what is due on the host at ``root``, and let components take it. Raises NodeError, OSError.

    A component that runs with an older file than is there starts again, too: after somebody else's renewal, or after an
    interrupted one.
    """
    renewed, left = [], []
    for entry in due(inventory.of_host(root, now, options.days, options.kubeconfigs), options.everything):
        trouble = _renew(root, entry, now, options, check=check)
        if trouble:
            left.append(f"{entry.path}: {trouble}")
        else:
            renewed.append(entry.path)
    restarted = components.restart_stale(root, options.timeout_seconds, check=check)
    restarted += components.restart_units(root, options.units, options.kubeconfigs, check=check)
    restarted += balancer.reload_stale(root, check=check)
    if renewed and not check:
        for process in components.processes(root, ["kube-apiserver"]):
            member.serves_its_file(root, process, components.api_address(process))
    return Done(tuple(renewed), tuple(restarted), tuple(left))


def due(entries: Sequence[inventory.Entry], everything: bool) -> list[inventory.Entry]:
    """Return those that can be renewed here and are due, or all that can be."""
    return [
        each
        for each in entries
        if each.renewal in ("kubeadm", "collection")
        and not each.authority
        and each.state != "unreadable"
        and (everything or each.state in ("due", "expired"))
    ]


def command(version: versions.Version) -> list[str]:
    """Return the subcommand that renews certificates; alpha until 1.19 (kubernetes.io, release notes of 1.20)."""
    return ["certs", "renew"] if version.release >= (1, 20) else ["alpha", "certs", "renew"]


def _renew(root: Path, entry: inventory.Entry, now: datetime, options: Options, *, check: bool) -> str:
    """Renew one certificate; return why it cannot be, empty when it can."""
    relative = entry.path.removeprefix(f"/{layout.PKI}/").removeprefix(f"/{layout.KUBERNETES}/")
    name = layout.renewal_name(relative)
    authority = _authority(relative)
    stem = root / layout.PKI / authority.stem
    try:
        issuer = certificates.issuer(Path(f"{stem}.crt").read_bytes(), Path(f"{stem}.key").read_bytes(), f"{stem}.crt")
    except FileNotFoundError:
        return f"the key of its authority, {stem}.key, is not on this host; renew it where that is"
    if check:
        return ""
    # While an authority is rotated, kubeadm would write kubeconfigs that believe only one of the two.
    if name and shutil.which(options.kubeadm) and store.read(root, "member") is None:
        said = run([options.kubeadm, "version", "--output", "short"], timeout_seconds=60)
        version = versions.parse(said.output, "kubeadm version")
        done = run([options.kubeadm, *command(version), name], timeout_seconds=_KUBEADM_SECONDS)
        if done.status != 0:
            raise NodeError(f"kubeadm does not renew {name}: {done.last_line}")
    else:
        _reissue(root, entry, issuer, now)
    return ""


def _authority(relative: str) -> layout.Authority:
    for authority in layout.AUTHORITIES.values():
        if relative.removesuffix(".crt") in authority.leaves:
            return authority
    return layout.AUTHORITIES["kubernetes"]


def _reissue(root: Path, entry: inventory.Entry, issuer: certificates.Issuer, now: datetime) -> None:
    path = root / entry.path.lstrip("/")
    content = path.read_bytes()
    if path.suffix == ".crt":
        found = certificates.parse(content, entry.path)[0]
        store.write_pair(path.with_suffix(""), *certificates.reissue(found, issuer, now))
        return
    document = kubeconfigs.load(content, entry.path)
    client = kubeconfigs.client(document, entry.path)
    if not isinstance(client, bytes):
        raise NodeError(f"{entry.path}: its certificate is in a file of its own, which is renewed instead")
    found = certificates.parse(client, entry.path)[0]
    certificate, key = certificates.reissue(found, issuer, now)
    changed = kubeconfigs.with_client(document, certificates.pem([certificate]), certificates.key_pem(key))
    store.rewrite(path, kubeconfigs.dump(changed))


def report(done: Done) -> str:
    """Return what was done in one line for a log."""
    parts = [f"renewed {', '.join(done.renewed)}" if done.renewed else "nothing is due"]
    parts += [f"started again {', '.join(done.restarted)}"] if done.restarted else []
    return "; ".join(parts)
