#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_rotation
short_description: Bring one host one position further in the rotation of a cluster's authority
version_added: 0.1.0
description:
  - A rotation goes over four positions, V(old), V(trust) (both authorities are believed), V(swap) (the new one issues
    everything) and V(new) (the old one is believed by nobody); from V(trust) and V(swap) back, too.
  - Each host keeps in C(/etc/kubernetes/pki/rotation) how far it is, and both authorities. A step that was interrupted
    is run again.
  - Whether a step is safe depends on all other hosts; filter P(vllmd.platform.rotation_steps#filter) decides it.
author:
  - vllmd.platform maintainers (@vllmd)
requirements:
  - cryptography
  - PyYAML
attributes:
  check_mode:
    description: Says what would be done.
    support: full
  diff_mode:
    description: Shows the same, line by line; no keys.
    support: full
options:
  part:
    description: What of the host moves, its part of the control plane or its kubelet.
    type: str
    choices: [member, kubelet]
    required: true
  state:
    description:
      - V(read) says how far it is.
      - V(begun) keeps both authorities; on a host of the control plane that is given none, a new one is made.
      - V(moved) brings it to O(position).
      - V(finished) forgets the rotation, with the key of the authority that is believed no more.
    type: str
    choices: [read, begun, moved, finished]
    default: read
  authority:
    description: Which of the three authorities that kubeadm makes.
    type: str
    choices: [kubernetes, etcd, front-proxy]
    default: kubernetes
  position:
    description: Where it goes with O(state=moved).
    type: str
    choices: [old, trust, swap, new]
  old:
    description: The authority that is replaced, C(certificate) and C(key) as PEM, the key only for members.
    type: dict
  new:
    description: The one that takes its place, the same way.
    type: dict
  kubeconfigs:
    description: Further kubeconfigs on hosts of the control plane with a certificate of the authority inside.
    type: list
    elements: path
    default: []
  units:
    description: Systemd units that are started again when one of them has changed.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that each component gets to be well again, and the cluster to issue a node's certificates.
    type: int
    default: 180
"""

EXAMPLES = r"""
- name: How far is it
  vllmd.platform.kubernetes_rotation:
    part: member
  register: rotation

- name: Believe both authorities
  vllmd.platform.kubernetes_rotation:
    part: member
    state: moved
    position: trust
  throttle: 1
"""

RETURN = r"""
under_way:
  description: Whether a rotation has begun here.
  returned: success
  type: bool
rotation:
  description: Authority, position, both pins, and since when, in Unix seconds; empty without one.
  returned: success
  type: dict
node:
  description: The node's name, with O(part=kubelet).
  returned: success
  type: str
lines:
  description: What was done, or with check mode would be.
  returned: success
  type: list
  elements: str
"""

import tempfile
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ansible_collections.vllmd.platform.plugins.module_utils import locks
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import (
    certificates,
    layout,
    libraries,
    member,
    node,
    rotation,
    store,
)

ROOT = Path("/")
LOCK = Path("/run/lock/vllmd-kubernetes-certificates.lock")
_WAIT_SECONDS = 600
_KEYS = ("certificate", "key")


def authorities(given: dict[str, Any], check: bool) -> tuple[store.Pair, store.Pair]:
    """Return the old and the new authority, as given or else with a new one made. Raises NodeError, OSError."""
    if all((given[each] or {}).get("certificate") for each in ("old", "new")):
        old, new = (store.Pair(*(str(given[each].get(key, "")).encode() for key in _KEYS)) for each in ("old", "new"))
        return old, new
    if not check and (given["old"] or given["new"] or given["part"] == "kubelet"):
        raise NodeError("both authorities have to be given, old and new; only the first host makes a new one")
    stem = ROOT / layout.PKI / layout.AUTHORITIES[given["authority"]].stem
    try:
        certificate = Path(f"{stem}.crt").read_bytes()
        key = Path(f"{stem}.key").read_bytes() if given["part"] == "member" else b""
    except FileNotFoundError as error:
        raise NodeError(
            f"{error.filename} is missing: an authority is rotated where its key is; one that is kept elsewhere is not "
            "rotated by this"
        ) from None
    found = certificates.parse(certificate, f"{stem}.crt")[0]
    if key:
        certificates.issuer(certificate, key, f"{stem}.crt")
    made = certificates.successor(found, datetime.now(UTC))
    new = store.Pair(certificates.pem([made.certificate]), certificates.key_pem(made.key))
    return store.Pair(certificates.pem([found]), key), new


def begin(given: dict[str, Any], directory: Path, check: bool) -> store.Rotation:
    """Begin a rotation that is kept in ``directory``; return it. Raises NodeError, OSError."""
    old, new = authorities(given, check)
    first, second = (certificates.parse(each.certificate, "an authority")[0] for each in (old, new))
    if given["part"] == "member":
        position = member.position(ROOT, layout.AUTHORITIES[given["authority"]], first, second)
    else:
        kubelet = node.read(ROOT)
        if kubelet is None:
            raise NodeError("there is no kubelet.conf; this host is no node, take it out of the inventory's group")
        position = node.position(kubelet, first, second)
    pins = (certificates.pin(first), certificates.pin(second))
    record = rotation.Record(given["authority"], position, *pins, round(time.time(), 1))
    store.begin(directory, given["part"], record, old, new)
    begun = store.read(ROOT, given["part"], directory)
    if begun is None:
        raise NodeError(f"{directory}: what was just written is not there")
    return begun


def move(under_way: store.Rotation, given: dict[str, Any], lines: list[str], check: bool) -> None:
    """Bring the host to a position. Raises NodeError, OSError."""
    changes = store.Changes(check, lines)
    if given["part"] == "member":
        options = member.Options(given["kubeconfigs"], given["units"], given["timeout"])
        member.go(under_way, given["position"], options, changes)
    else:
        node.go(under_way, given["position"], given["timeout"], changes)
    lines.append(f"{given['part']} is at {given['position']}")


def step(given: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what was asked for; return the module's result. Raises NodeError, OSError."""
    lines: list[str] = []
    under_way, kept = store.read(ROOT, given["part"]), ROOT / layout.ROTATION
    if under_way is not None and given["state"] != "read" and under_way.record.authority != given["authority"]:
        raise NodeError(
            f"authority {under_way.record.authority} is being rotated; finish that, or take it back, before "
            f"{given['authority']} is"
        )
    with tempfile.TemporaryDirectory(dir="/run", prefix="vllmd-rotation-") as elsewhere:
        if given["state"] in ("begun", "moved") and under_way is None:
            if given["state"] == "moved" and not check:
                raise NodeError("no rotation has begun on this host; run the playbook, which begins it everywhere")
            # A dry run makes an authority, too, to say what would be issued by it; nobody sees it.
            under_way = begin(given, Path(elsewhere) if check else kept, check)
            lines.append(f"begin to replace authority {given['authority']}")
        if given["state"] == "moved" and under_way is not None and under_way.record.positions != [given["position"]]:
            move(under_way, given, lines, check)
        elif given["state"] == "finished" and under_way is not None:
            at = under_way.record.positions
            if at not in (["old"], ["new"]):
                raise NodeError(f"it is at {' and '.join(at)}; a rotation ends at new, or back at old")
            lines.append("forget the rotation, and the key of the authority that is believed no more")
            if not check:
                store.finish(ROOT)
        now = store.read(ROOT, given["part"])
    return {
        "changed": bool(lines),
        "under_way": now is not None,
        "rotation": {**asdict(now.record), "positions": now.record.positions} if now else {},
        "node": node.name(ROOT) if given["part"] == "kubelet" else "",
        "lines": lines,
        "diff": {"before": "", "after": "".join(f"{line}\n" for line in lines)},
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "part": {"type": "str", "choices": ["member", "kubelet"], "required": True},
            "state": {"type": "str", "choices": ["read", "begun", "moved", "finished"], "default": "read"},
            "authority": {"type": "str", "choices": ["kubernetes", "etcd", "front-proxy"], "default": "kubernetes"},
            "position": {"type": "str", "choices": ["old", "trust", "swap", "new"]},
            "old": {"type": "dict", "no_log": True},
            "new": {"type": "dict", "no_log": True},
            "kubeconfigs": {"type": "list", "elements": "path", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "int", "default": 180},
        },
        required_if=[("state", "moved", ["position"])],
        supports_check_mode=True,
    )
    if missing := libraries.missing():
        module.fail_json(msg=missing_required_lib(missing))
    try:
        with locks.exclusive(LOCK, "rotating an authority", _WAIT_SECONDS):
            result = step(module.params, module.check_mode)
    except (NodeError, locks.LockedError) as error:
        module.fail_json(msg=f"rotation: {error}")
    except OSError as error:
        module.fail_json(msg=f"rotation: {error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
