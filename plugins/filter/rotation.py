# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What playbook rotate decides from how far all hosts are: plain data in, plain data out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import rotation


def rotation_steps(hosts: Mapping[str, Sequence[str]], goal: str) -> list[str]:
    """Return the positions that all hosts go to, one after the other, from where each of ``hosts`` is to ``goal``."""
    try:
        return rotation.next_positions(dict(hosts), goal)
    except NodeError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The collection's filters for rotations."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"rotation_steps": rotation_steps}
