# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action part of the module runtime_manifest: it runs on the controller, where the manifests and jsonschema are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllmd.platform.plugins.module_utils.guest_config import (
    ConfigError,
    launcher_settings,
    runtime_json,
)
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import ManifestError, read_runtimes


class ActionModule(ActionBase):  # type: ignore[misc]
    """Read and validate Runtime manifests; see the module's documentation."""

    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``runtimes``, or fail with one line per wrong field."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "path": {"type": "list", "elements": "str", "required": True},
                "ssh_authorized_keys": {"type": "list", "elements": "str", "default": [], "no_log": False},
                "target": {"type": "str", "choices": ["hypervisor", "kubernetes"], "default": "hypervisor"},
            }
        )
        result["changed"] = False
        try:
            # All are judged together, whatever they are for: names are unique over both targets.
            runtimes = read_runtimes(Path(path).expanduser() for path in arguments["path"])
            chosen = [each for each in runtimes if each["spec"]["placement"]["target"] == arguments["target"]]
            result["others"] = sorted(each["metadata"]["name"] for each in runtimes if each not in chosen)
            result["runtimes"] = (
                chosen
                if arguments["target"] == "kubernetes"
                else [
                    {
                        **runtime,
                        "guest": runtime_json(runtime, arguments["ssh_authorized_keys"]),
                        "launcher": launcher_settings(runtime),
                    }
                    for runtime in chosen
                ]
            )
        except ManifestError as error:
            raise AnsibleActionFail(str(error), result={"errors": error.problems, "changed": False}) from None
        except ConfigError as error:
            raise AnsibleActionFail(str(error)) from None
        return result
