# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action part of the module plan: it runs on the controller, where the plan's file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllmd.platform.plugins.module_utils.locks import LockedError
from ansible_collections.vllmd.platform.plugins.module_utils.placement import report, store
from ansible_collections.vllmd.platform.plugins.module_utils.placement.data import DataError
from ansible_collections.vllmd.platform.plugins.module_utils.placement.demand import Options
from ansible_collections.vllmd.platform.plugins.module_utils.placement.plan import plan_data

_SPLIT = {"type": "str", "choices": ["demand", "split"], "default": "demand"}
_NAMES = {"type": "list", "elements": "str", "default": []}
_KEPT_SHOWN = 64


class ActionModule(ActionBase):  # type: ignore[misc]
    """Plan, and write the plan; see the module's documentation."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``plan``, ``lines`` and ``path``, or fail with one line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "capacities": {"type": "list", "elements": "dict", "required": True},
                "runtimes": {"type": "list", "elements": "dict", "required": True},
                "absent": _NAMES,
                "cpu": _SPLIT,
                "memory": _SPLIT,
                "accelerators": _SPLIT,
                "strategy": {"type": "str", "choices": ["pack", "spread"], "default": "pack"},
                "numa": {"type": "str", "choices": ["prefer", "strict"], "default": "prefer"},
                "replicas": {"type": "dict", "default": {}},
                "move": _NAMES,
                "drain": _NAMES,
                "preempt": {"type": "bool", "default": False},
                "resize": {"type": "bool", "default": False},
            }
        )
        path = Path(given["path"])
        try:
            before, plan = self._plan(path, given)
        except LockedError as error:
            raise AnsibleActionFail(str(error), result={"locked": True}) from None
        except DataError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(
                f"plan: {error.filename or path}: {error.strerror or error}; the plan before is as it was"
            ) from None
        result.update(
            changed=store.differs(before, plan),
            plan=plan,
            path=str(path),
            lines=report.lines(plan, keep=len(plan["placements"]) <= _KEPT_SHOWN),
        )
        if self._task.diff:
            result["diff"] = {
                "before_header": f"{path} (before)",
                "after_header": f"{path} (after)",
                "before": report.outline(before),
                "after": report.outline(plan),
            }
        return result

    def _plan(self, path: Path, given: dict[str, Any]) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Return the plan before and the new one, which is in the file then."""
        options = Options(
            cpu=given["cpu"],
            memory=given["memory"],
            accelerators=given["accelerators"],
            strategy=given["strategy"],
            numa=given["numa"],
            preempt=given["preempt"],
            resize=given["resize"],
            replicas=_replicas(given["replicas"]),
            move=frozenset(given["move"]),
            drain=frozenset(given["drain"]),
            absent=frozenset(given["absent"]),
        )
        if self._task.check_mode:
            before = store.load(path)
            return before, plan_data(given["capacities"], given["runtimes"], before, options)
        with store.locked(path):
            before = store.load(path)
            plan = plan_data(given["capacities"], given["runtimes"], before, options)
            if store.differs(before, plan):
                store.save(path, plan)
        return before, plan


def _replicas(given: dict[str, Any]) -> dict[str, int]:
    """Return the numbers; Ansible's templates and command lines make text of them. Raises DataError."""
    numbers = {}
    for name, value in given.items():
        if isinstance(value, bool) or not str(value).isdecimal():
            raise DataError(f"replicas: {name} is {value!r}; allowed: a whole number, 0 or more")
        numbers[str(name)] = int(value)
    return numbers
