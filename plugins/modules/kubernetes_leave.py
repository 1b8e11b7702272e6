#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_leave
short_description: Make a host forget the Kubernetes cluster that it was a node of
version_added: 0.1.0
description:
  - Runs C(kubeadm reset) where something of a membership is there, and then takes away what that leaves, network
    interfaces, files of network plug-ins, packet filter rules, mounts, network namespaces and control groups.
  - Does nothing to the cluster; take the node out of it first with M(vllmd.platform.kubernetes_drain).
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what is there to be taken away.
    support: full
  diff_mode:
    description: Shows all of it.
    support: full
options:
  links:
    description: Names of network interfaces that network plug-ins made.
    type: list
    elements: str
    default: []
  paths:
    description: Directories to empty, and files to remove.
    type: list
    elements: str
    default: []
seealso:
  - module: vllmd.platform.kubernetes_drain
"""

EXAMPLES = r"""
- name: Forget the cluster
  vllmd.platform.kubernetes_leave:
    links: [cni0]
    paths: [/etc/cni/net.d, /var/lib/cni]
"""

RETURN = r"""
removed:
  description: What was there.
  returned: success
  type: list
  elements: str
"""

import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import locks
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import leftovers
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.joining import SOCKET
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import run

LOCK = Path("/run/lock/vllmd-kubernetes-node.lock")
FAMILIES = ("iptables", "ip6tables")
_RESET_SECONDS = 300


def saved_rules() -> dict[str, str]:
    """Return the rules of each family that has some of Kubernetes'. Raises NodeError."""
    found = {}
    for family in FAMILIES:
        if shutil.which(f"{family}-save") is None:
            continue
        done = run([f"{family}-save"], timeout_seconds=60)
        if done.status == 0 and leftovers.has_rules(done.output):
            found[family] = done.output
    return found


def must(*argv: str, stdin: str = "", timeout_seconds: int = 60) -> None:
    """Run a program. Raises NodeError with its last line when it fails."""
    done = run(argv, stdin=stdin, timeout_seconds=timeout_seconds)
    if done.status != 0:
        raise NodeError(f"{' '.join(argv[:2])} failed: {done.last_line}")


def remove(found: leftovers.Leftovers, rules: dict[str, str]) -> None:
    """Take away what was found after ``kubeadm reset``. Raises NodeError, OSError."""
    for target in found.mounts:
        must("umount", "--recursive", target)
    for name in found.namespaces:
        must("ip", "netns", "delete", Path(name).name)
    for name in found.links:
        must("ip", "link", "delete", name)
    for family, text in rules.items():
        must(f"{family}-restore", stdin=leftovers.filtered(text))
    for name in found.paths:
        path = Path(name)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if any(path.endswith("kubepods.slice") for path in found.cgroups):
        must("systemctl", "stop", "kubepods.slice")
    for group in found.cgroups:
        try:
            Path(group).rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise NodeError(
                f"control group {group} has processes yet ({error.strerror}); stop them and run this again"
            ) from None


def leave(module: AnsibleModule, given: dict[str, Any]) -> list[str]:
    """Reset and clean; return what was there. Raises NodeError, OSError, locks.LockedError."""
    root = Path("/")
    found, rules = leftovers.find(root, given["links"], given["paths"]), saved_rules()
    lines = [*found.lines(), *(f"packet filter {family}" for family in rules)]
    trouble = leftovers.control_plane(root)
    if trouble:
        raise NodeError(trouble)
    if not lines or module.check_mode:
        return lines
    with locks.exclusive(LOCK, "joining or leaving a cluster"):
        if found.member_files:
            if shutil.which("kubeadm") is None:
                raise NodeError(
                    f"kubeadm is not installed and {found.member_files[0]} is there; install it, or remove that by hand"
                )
            must("kubeadm", "reset", "--force", "--cri-socket", SOCKET, timeout_seconds=_RESET_SECONDS)
            # What kubeadm passes over, among it what the kubelet wrote while it was being stopped.
            for name in leftovers.MEMBER_FILES:
                path = root / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        remove(leftovers.find(root, given["links"], given["paths"]), saved_rules())
    return lines


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "links": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        removed = leave(module, module.params)
    except (NodeError, locks.LockedError) as error:
        module.fail_json(msg=f"leave: {error}")
    except OSError as error:
        module.fail_json(msg=f"leave: {error.filename}: {error.strerror}")
    module.exit_json(
        changed=bool(removed), removed=removed, diff={"before": "".join(f"{line}\n" for line in removed), "after": ""}
    )


if __name__ == "__main__":
    main()
