# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The members of a control plane's etcd, and whether one of them can go without harm to the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import NodeError
from .programs import run

PKI = "/etc/kubernetes/pki/etcd"
_ENDPOINT = "https://127.0.0.1:2379"


@dataclass(frozen=True)
class EtcdMember:
    """One member. ``identity`` is as etcdctl takes it; ``name`` is empty before the member has started once."""

    identity: str
    name: str
    clients: tuple[str, ...]


def parse(text: str) -> list[EtcdMember]:
    """Return the members from ``etcdctl member list --write-out json``. Raises NodeError."""
    try:
        listed = json.loads(text)["members"]
        # etcd numbers its members in 64 bits, which it prints in decimal and takes in hexadecimal.
        return [
            EtcdMember(f"{each['ID']:x}", each.get("name", ""), tuple(each.get("clientURLs", []))) for each in listed
        ]
    except (ValueError, KeyError, TypeError):
        raise NodeError(f"etcd's list of members cannot be read: {text.strip()[:120]!r}") from None


def why_not(members: Sequence[EtcdMember], name: str, healthy: set[str], confirmed: str) -> str:
    """Return why the member ``name`` must not leave, as a sentence; empty when it may.

    ``healthy`` are the client URLs that answer; ``confirmed`` is what the operator confirmed for the last member.
    """
    others = [member for member in members if member.name != name]
    if not others:
        if confirmed == name:
            return ""
        return (
            f"{name} is the last member, and the cluster goes with it, with everything in it; if that is meant, say so "
            f"(runtime_controller_confirm_last: {name})"
        )
    ill = [member.name or member.identity for member in others if not set(member.clients) & healthy]
    if ill:
        return (
            f"{', '.join(ill)} of etcd's other members does not answer, and without {name} nobody could "
            "decide anything; bring it back first, or remove it from etcd"
        )
    return ""


def etcdctl(*arguments: str) -> str:
    """Return what etcdctl printed, asking this host's own member. Raises NodeError."""
    credentials = [f"--cacert={PKI}/ca.crt", f"--cert={PKI}/server.crt", f"--key={PKI}/server.key"]
    argv = ["etcdctl", f"--endpoints={_ENDPOINT}", *credentials, *arguments]
    done = run(argv, timeout_seconds=60, environment={"ETCDCTL_API": "3"})
    # "endpoint health" ends with 1 when one of them is ill, and lists them all the same.
    if done.status != 0 and not done.output.strip().startswith("["):
        raise NodeError(f"etcd on this host does not answer: {done.last_line}")
    return done.output


def listed() -> list[EtcdMember]:
    """Return etcd's members. Raises NodeError."""
    return parse(etcdctl("member", "list", "--write-out=json"))


def healthy() -> set[str]:
    """Return the client URLs of the members that answer. Raises NodeError."""
    output = etcdctl("endpoint", "health", "--cluster", "--write-out=json")
    try:
        return {each["endpoint"] for each in json.loads(output) if each["health"]}
    except (ValueError, KeyError, TypeError):
        raise NodeError(f"etcd's health cannot be read: {output.strip()[:120]!r}") from None


def remove(name: str) -> bool:
    """Take the member ``name`` out of etcd; whether it was in. Raises NodeError."""
    found = [member for member in listed() if member.name == name]
    for member in found:
        etcdctl("member", "remove", member.identity)
    return bool(found)
