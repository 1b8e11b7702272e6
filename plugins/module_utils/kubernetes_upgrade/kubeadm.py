# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What kubeadm is called with to upgrade, and why it failed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..kubernetes.versions import Version, can_patch_kubelet

PLAN, APPLY, NODE = "plan", "apply", "node"
_ERROR = re.compile(r"\[ERROR ([A-Za-z0-9-]+)\]:\s*(.+)")
_TIP = ("To see the stack trace", "[preflight] If you know what you are doing", "[preflight] Some fatal errors")


def argv(what: str, target: Version, patches: str, ignored: Sequence[str]) -> list[str]:
    """Return kubeadm's arguments. ``what``: ``plan``, ``apply`` on the first member, ``node`` on every other host.

    Patches of a kubelet's configuration are applied from 1.25 on; older ones know no option for them, or another one.
    """
    words = ["kubeadm", "upgrade", what]
    if what in (PLAN, APPLY):
        words.append(str(target))
    if what == APPLY:
        words.append("--yes")
    if patches and what != PLAN and can_patch_kubelet(target):
        words.append(f"--patches={patches}")
    if ignored:
        words.append(f"--ignore-preflight-errors={','.join(ignored)}")
    return words


def reason(said: str) -> str:
    """Return in one line why kubeadm ended: its own errors, else the last thing that it said."""
    lines = [" ".join(line.split()) for line in said.splitlines()]
    errors = [f"{match[2]} ({match[1]})" for match in map(_ERROR.search, lines) if match]
    if errors:
        return "; ".join(dict.fromkeys(errors))[:600]
    plain = [line for line in lines if line and not line.startswith(_TIP)]
    return plain[-1][:600] if plain else "it said nothing"
