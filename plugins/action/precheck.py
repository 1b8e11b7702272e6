# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action part of the module precheck: one round trip to the host, then the report's files on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllmd.platform.plugins.module_utils.checks.store import ReportError, compared, save, stem
from ansible_collections.vllmd.platform.plugins.module_utils.checks.text import table


class ActionModule(ActionBase):  # type: ignore[misc]
    """Check a host; see the module's documentation."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``report``, ``lines`` and ``files``; changed when a status differs from the earlier report."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "policy": {"type": "dict", "default": {}},
                "root": {"type": "path", "default": "/"},
                "report_dir": {"type": "path"},
                "earlier": {"type": "path"},
                "show": {"type": "str", "choices": ["all", "problems", "none"], "default": "all"},
                "width": {"type": "int", "default": 120},
            }
        )
        for_host = {"policy": arguments["policy"], "root": arguments["root"]}
        result.update(self._execute_module("vllmd.platform.precheck", for_host, task_vars=task_vars))
        if result.get("failed") or result.get("unreachable"):
            return result
        result.pop("invocation", None)
        report = {
            **result["report"],
            "host": str((task_vars or {}).get("inventory_hostname", result["report"]["host"])),
        }
        directory = Path(arguments["report_dir"]) if arguments["report_dir"] else None
        try:
            report, is_new = self._compare(report, directory, arguments["earlier"])
            if directory is not None:
                result["files"] = [] if self._task.check_mode else [str(path) for path in save(report, directory)]
        except ReportError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"report of {report['host']}: {error.filename}: {error.strerror}") from None
        changes = report.get("changes") or []
        result["report"] = report
        result["lines"] = [] if arguments["show"] == "none" else table(report, arguments["show"], arguments["width"])
        result["changed"] = bool(changes) or (is_new and directory is not None)
        result["diff"] = {
            side: "".join(f"{item['id']} {item['subject']}: {item[side] or 'not there'}\n" for item in changes)
            for side in ("before", "after")
        }
        return result

    @staticmethod
    def _compare(report: dict[str, Any], directory: Path | None, earlier: str | None) -> tuple[dict[str, Any], bool]:
        """Return the report with its changes, and whether there was no earlier one in the directory."""
        own = directory / f"{stem(report['host'])}.json" if directory else None
        if earlier:
            try:
                return compared(report, Path(earlier)), own is not None and not own.exists()
            except FileNotFoundError:
                raise ReportError(f"report {earlier}: it does not exist; give one that precheck saved") from None
        try:
            return (compared(report, own), False) if own else (report, True)
        except FileNotFoundError:
            return report, True
