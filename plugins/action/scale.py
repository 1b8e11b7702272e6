# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action part of the module scale: it runs on the controller, where the plan and the memory of the rule are."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.locks import LockedError
from ansible_collections.vllmd.platform.plugins.module_utils.placement import store
from ansible_collections.vllmd.platform.plugins.module_utils.placement.data import DataError
from ansible_collections.vllmd.platform.plugins.module_utils.scaling import Moment, ScalingError, recall, rule_of
from ansible_collections.vllmd.platform.plugins.module_utils.scaling_round import Round, round_of

_RULE = {
    "requests": "float",
    "waiting": "float",
    "kv_cache": "float",
    "margin": "float",
    "step": "int",
    "up_after": "float",
    "down_after": "float",
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Decide, and remember when; see the module's documentation."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``replicas``, ``scaled``, ``lines`` and ``settings``, or fail with one line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "path", "required": True},
                "plan": {"type": "path", "required": True},
                "runtimes": {"type": "list", "elements": "dict", "required": True},
                "loads": {"type": "dict", "default": {}},
                "replicas": {"type": "dict", "default": {}},
                "by_rule": {"type": "bool", "default": True},
                **{name: {"type": kind} for name, kind in _RULE.items()},
            }
        )
        path = Path(given["path"])
        try:
            with store.locked(Path(given["plan"])):
                decided, settings = self._decide(path, given)
        except LockedError as error:
            raise AnsibleActionFail(str(error), result={"locked": True}) from None
        except (DataError, ScalingError) as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(
                f"scale: {error.filename or path}: {error.strerror or error}; what was remembered before is as it was"
            ) from None
        result.update(
            changed=bool(decided.scaled),
            replicas=decided.replicas,
            scaled=decided.scaled,
            lines=decided.lines,
            settings=settings,
        )
        if self._task.diff:
            numbers = sorted(decided.scaled.items())
            result["diff"] = {
                "before": "".join(f"{name}: {each['before']}\n" for name, each in numbers),
                "after": "".join(f"{name}: {each['after']}\n" for name, each in numbers),
            }
        return result

    def _decide(self, path: Path, given: dict[str, Any]) -> tuple[Round, dict[str, Any]]:
        plan = store.load(Path(given["plan"]))
        if plan is None:
            raise ScalingError(
                f"there is no plan {given['plan']}, so nobody knows what runs where; plan and start first, by "
                "'vllmdctl runtimes configure' and 'vllmdctl runtimes start', or by playbooks plan and start"
            )
        moment = now()
        decided = round_of(
            plan["placements"],
            given["runtimes"],
            given["loads"],
            recall(_read(path), moment),
            moment,
            rule_of({name: given[name] for name in _RULE}),
            by_hand=given["replicas"],
            by_rule=given["by_rule"],
        )
        if not self._task.check_mode:
            state = decided.state(moment, datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"))
            atomic.write_file(path, (json.dumps(state, indent=2, sort_keys=True) + "\n").encode(), 0o644)
        return decided, plan.get("settings") or {}


def now() -> Moment:
    """Return the time since this machine's boot, suspended or not, which no setting of the clock changes."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return Moment(boot, time.clock_gettime(time.CLOCK_BOOTTIME))


def _read(path: Path) -> Any:
    """Return what the file holds; None when that is nothing that could be understood, which is no reason to stop."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
