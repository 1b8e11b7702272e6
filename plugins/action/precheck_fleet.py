# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action part of the module precheck_fleet: it runs on the controller, where the reports are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllmd.platform.plugins.module_utils.checks.store import (
    ReportError,
    fleet,
    fleet_lines,
    load,
    save_fleet,
    stem,
)


class ActionModule(ActionBase):  # type: ignore[misc]
    """Make one page of many reports; see the module's documentation."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``verdict``, ``exit_status``, ``lines`` and ``files``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "report_dir": {"type": "path", "required": True},
                "hosts": {"type": "list", "elements": "str", "required": True},
                "missing": {"type": "list", "elements": "str", "default": []},
            }
        )
        directory, missing = Path(arguments["report_dir"]), list(arguments["missing"])
        reports = []
        try:
            for host in arguments["hosts"]:
                try:
                    reports.append(load(directory / f"{stem(host)}.json"))
                except FileNotFoundError:
                    missing.append(host)
            result.update(fleet(reports, missing), changed=False, lines=fleet_lines(reports, missing), files=[])
            if not self._task.check_mode:
                result["files"] = [str(path) for path in save_fleet(reports, missing, directory)]
        except ReportError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            raise AnsibleActionFail(f"fleet report: {error.filename}: {error.strerror}") from None
        except (KeyError, TypeError) as error:
            raise AnsibleActionFail(
                f"a report in {directory} is of another version ({error!r}); run the precheck again"
            ) from None
        return result
