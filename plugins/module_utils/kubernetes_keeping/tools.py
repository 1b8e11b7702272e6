# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""etcdctl and etcdutl: save a snapshot, look at one, make a data directory of one.

etcdutl works on files and exists from etcd 3.5 on; before, and for what asks a server, it is etcdctl.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..kubernetes.errors import NodeError
from ..kubernetes.programs import Done, run
from .errors import KeepingError
from .member import PKI, Member

#: Beyond any revision that clients may have seen after the snapshot (etcd.io, "Disaster recovery").
_BUMP = "1000000000"
_ASK_SECONDS = 30


@dataclass(frozen=True)
class Tools:
    """The programs, by name or path; ``etcdutl`` is empty where there is none."""

    etcdctl: str
    etcdutl: str

    @property
    def for_files(self) -> str:
        """Return the program that works on files."""
        return self.etcdutl or self.etcdctl


def find(directory: str = "") -> Tools:
    """Return the programs in ``directory``, or those on PATH. Raises KeepingError when there is no etcdctl."""
    ctl, util = (shutil.which(name, path=directory or None) for name in ("etcdctl", "etcdutl"))
    if ctl is None:
        where = f"in {directory}" if directory else "on PATH"
        raise KeepingError(f"etcdctl is not {where}; install Debian's etcd-client, or name the directory that has it")
    return Tools(ctl, util or "")


def must(what: str, *argv: str, environment: Mapping[str, str] | None = None, seconds: float = 600) -> str:
    """Return what a program wrote on standard output. Raises KeepingError, which begins with ``what``."""
    try:
        done: Done = run(argv, environment={"ETCDCTL_API": "3", **(environment or {})}, timeout_seconds=seconds)
    except NodeError as error:
        raise KeepingError(f"{what}: {error}") from None
    if done.status != 0:
        raise KeepingError(f"{what}: {done.last_line}")
    return done.output


def version(program: str) -> str:
    """Return the version of etcdctl or etcdutl, such as 3.5.16. Raises KeepingError."""
    match = re.search(
        r"version: v?([0-9]+\.[0-9]+\.[0-9]+)", must("no version", program, "version", seconds=_ASK_SECONDS)
    )
    if match is None:
        raise KeepingError(f"{program} does not say its version")
    return match[1]


@dataclass(frozen=True)
class Client:
    """etcdctl as a client of one member."""

    tools: Tools
    url: str
    credentials: Mapping[str, str]

    def ask(self, what: str, *arguments: str, seconds: float = _ASK_SECONDS) -> str:
        """Return what etcdctl answers. Raises KeepingError, which begins with ``what``."""
        return must(
            what,
            self.tools.etcdctl,
            f"--endpoints={self.url}",
            *arguments,
            environment=self.credentials,
            seconds=seconds,
        )

    def status(self) -> dict[str, Any]:
        """Return version, db size and revision of the member after it has shown that it has a leader.

        Raises KeepingError.
        """
        self.ask("etcd is not healthy", "endpoint", "health", "--command-timeout=10s")
        answer = self.ask("etcd does not say its status", "endpoint", "status", "--write-out=json")
        try:
            status: dict[str, Any] = json.loads(answer)[0]["Status"]
        except (ValueError, LookupError, TypeError):
            raise KeepingError("etcdctl's answer about the member's status cannot be read") from None
        return status

    def save(self, path: Path, seconds: float = 900) -> None:
        """Write a snapshot to ``path``. Raises KeepingError."""
        self.ask("the snapshot was not taken", "snapshot", "save", str(path), seconds=seconds)


def client(tools: Tools, member: Member, root: Path = Path("/")) -> Client:
    """Return a client of the host's member, with the certificate that kubeadm made for looking after it."""
    if not member.client_url.startswith("https:"):
        return Client(tools, member.client_url, {})
    pki = root / PKI / "etcd"
    return Client(
        tools,
        member.client_url,
        {
            "ETCDCTL_CACERT": str(root / member.ca_file.lstrip("/")),
            "ETCDCTL_CERT": str(pki / "healthcheck-client.crt"),
            "ETCDCTL_KEY": str(pki / "healthcheck-client.key"),
        },
    )


def inspect(tools: Tools, path: Path) -> dict[str, Any]:
    """Return ``revision``, ``totalKey`` and ``hash`` of a snapshot; reads all of it. Raises KeepingError."""
    answer = must(f"{path} is no whole snapshot", tools.for_files, "snapshot", "status", str(path), "--write-out=json")
    try:
        found: dict[str, Any] = json.loads(answer)
        return {"revision": int(found["revision"]), "totalKey": int(found["totalKey"]), "hash": int(found["hash"])}
    except (ValueError, LookupError, TypeError):
        raise KeepingError(f"what {tools.for_files} says about {path} cannot be read: {answer[:120]!r}") from None


def restore(
    tools: Tools, snapshot: Path, target: Path, member: Member, *, peers: Mapping[str, str], token: str
) -> None:
    """Make the data directory ``target`` of a snapshot, for a new cluster of ``peers`` (name to peer URL).

    Raises KeepingError. Where the program can, revisions go on beyond those that clients have seen.
    """
    arguments = [
        "snapshot",
        "restore",
        str(snapshot),
        f"--data-dir={target}",
        f"--name={member.name}",
        f"--initial-advertise-peer-urls={member.peer_url}",
        f"--initial-cluster={','.join(f'{name}={url}' for name, url in sorted(peers.items()))}",
        f"--initial-cluster-token={token}",
    ]
    usage = must("no help", tools.for_files, "snapshot", "restore", "--help", seconds=_ASK_SECONDS)
    if "--bump-revision" in usage:
        arguments += [f"--bump-revision={_BUMP}", "--mark-compacted"]
    must(f"{snapshot} cannot be restored", tools.for_files, *arguments, seconds=1800)


def unfit(tools_version: str, etcd_version: str) -> str:
    """Return why this program cannot make a data directory for this etcd, as a sentence; empty when it can.

    A data directory has the format of the minor version that wrote it (etcd.io, "Upgrading etcd").
    """
    if not etcd_version or tools_version.split(".")[:2] == etcd_version.split(".")[:2]:
        return ""
    return (
        f"the etcd of this cluster is {etcd_version} and the program that restores is {tools_version}; put etcdctl and "
        f"etcdutl of {'.'.join(etcd_version.split('.')[:2])} in a directory and name it (runtime_controller_etcd_tools)"
    )
