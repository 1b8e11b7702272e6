# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Action part of the module kubernetes_manifests: it runs on the controller, where the files are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from ansible_collections.vllmd.platform.plugins.module_utils import atomic, kubernetes_fit
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.render import (
    MARK,
    files,
    runtime_objects,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.settings import RenderError, settings

_MODE = 0o644
_NAMES = {"type": "list", "elements": "str"}
_SECRET = {
    "variable": {"type": "str", "required": True},
    # Names of Secrets, not what is in them.
    "secret": {"type": "str", "required": True, "no_log": False},
    "key": {"type": "str", "required": True, "no_log": False},
    "runtimes": _NAMES,
}
_ARGUMENTS: dict[str, Any] = {
    "path": {"type": "path", "required": True},
    "runtimes": {"type": "list", "elements": "dict", "required": True},
    "namespace": {"type": "str"},
    "images": {"type": "dict"},
    "image_pull_secrets": {**_NAMES, "no_log": False},
    "accelerator_resources": {"type": "dict"},
    "runtime_class": {"type": "str"},
    "storage_class": {"type": "str"},
    "cache_access_mode": {"type": "str", "choices": ["ReadWriteMany", "ReadWriteOnce"]},
    "scratch_size": {"type": "str"},
    "scaling_metric": {"type": "str", "choices": ["cpu", "queue"]},
    "cpu_percent": {"type": "int"},
    "queue_metric": {"type": "str"},
    "queue_length": {"type": "int"},
    "start_seconds": {"type": "int"},
    "endpoint_seconds": {"type": "int"},
    "drain_seconds": {"type": "int"},
    "client_namespaces": _NAMES,
    "monitoring_namespace": {"type": "str"},
    "service_monitor": {"type": "bool"},
    "service_monitor_labels": {"type": "dict"},
    "private_networks": _NAMES,
    "cluster": {
        "type": "dict",
        "options": {
            name: {"type": "list", "elements": "dict", "required": True}
            for name in ("nodes", "pods", "runtime_classes")
        },
    },
    "secrets": {"type": "list", "elements": "dict", "options": _SECRET, "no_log": False},
}


class ActionModule(ActionBase):  # type: ignore[misc]
    """Write manifests of runtimes for a cluster; see the module's documentation."""

    _requires_connection = False
    _supports_check_mode = True
    _supports_diff = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ``written``, ``removed`` and ``files``, or fail with one line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, given = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        directory = Path(given["path"])
        try:
            wanted = files(given["runtimes"], settings(given))
            _check_places(given)
            before = _read(directory, set(wanted))
            written = [name for name, text in wanted.items() if before.get(name) != text]
            removed = sorted(set(before) - set(wanted))
            if not self._task.check_mode:
                _write(directory, {name: wanted[name] for name in written}, removed)
        except RenderError as error:
            raise AnsibleActionFail(str(error)) from None
        except OSError as error:
            where = error.filename or directory
            raise AnsibleActionFail(
                f"kubernetes_manifests: {where}: {error.strerror or error}; make room or correct its owner"
            ) from None
        result.update(
            changed=bool(written or removed),
            path=str(directory),
            files=list(wanted),
            written=written,
            removed=removed,
        )
        if self._task.diff:
            result["diff"] = [
                {
                    "before_header": f"{directory / name} (before)",
                    "after_header": f"{directory / name} (after)",
                    "before": before.get(name, ""),
                    "after": wanted.get(name, ""),
                }
                for name in sorted([*written, *removed])
            ]
        return result


def _check_places(given: dict[str, Any]) -> None:
    """Check that the cluster has a place for each runtime. Raises RenderError with a line for each that has none."""
    known = given["cluster"]
    if known is None:
        return
    classes = frozenset(str(each["metadata"]["name"]) for each in known["runtime_classes"])
    cluster = kubernetes_fit.Cluster(known["nodes"], known["pods"], classes)
    wanted = settings(given)
    objects = [each for runtime in given["runtimes"] for each in runtime_objects(runtime, wanted)]
    lines = kubernetes_fit.misfits(objects, cluster)
    if lines:
        raise RenderError("\n".join(lines))


def _read(directory: Path, wanted: set[str]) -> dict[str, str]:
    """Return our files of the directory by name. Raises RenderError when one that is wanted is somebody else's."""
    found: dict[str, str] = {}
    if not directory.is_dir():
        return found
    for path in sorted(directory.glob("*.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if text.startswith(MARK):
            found[path.name] = text
        elif path.name in wanted:
            raise RenderError(f"{path} was not written by kubernetes_manifests; move it, or name another directory")
    return found


def _write(directory: Path, texts: dict[str, str], removed: list[str]) -> None:
    if texts:
        atomic.make_directory(directory)
    for name, text in texts.items():
        atomic.write_file(directory / name, text.encode(), _MODE)
    for name in removed:
        (directory / name).unlink(missing_ok=True)
    if removed:
        atomic.fsync_directory(directory)
