#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: hypervisor_runtime
short_description: Start, stop or restart one virtual machine, and wait for it
version_added: 0.1.0
description:
  - Brings a runtime of C(vllmd-hypervisor) into a state, by its systemd unit or, where systemd does not run, by the
    launcher itself.
  - A running one is current as long as the files it was started from are as they were then. One that is not current
    is restarted, and no other one is touched. This holds also when an earlier run was interrupted between writing a
    file and restarting, and whatever somebody does to the clock. Where systemd itself started it last, after a crash or
    a boot, files that are newer than that start count as changed.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says what would be done, and does nothing.
    support: full
  diff_mode:
    description: Shows the state before and after, with the reason of a restart.
    support: full
options:
  name:
    description: The runtime's name.
    type: str
    required: true
  state:
    description: V(restarted) restarts a running one even if it is current.
    type: str
    choices: [started, stopped, restarted]
    default: started
  enabled:
    description: Whether it starts at boot. By default that is left as it is. Has no effect with O(manager=direct).
    type: bool
  manager:
    description:
      - V(systemd) uses O(unit). V(direct) runs O(launcher) detached, for machines where systemd is not PID 1; nothing
        starts such a runtime again after a crash or a reboot.
    type: str
    choices: [systemd, direct]
    default: systemd
  scope:
    description: Which systemd the unit belongs to.
    type: str
    choices: [system, user]
    default: system
  unit:
    description: The systemd unit. By default C(vllmd-hypervisor@NAME.service).
    type: str
  env_file:
    description: The runtime's environment file, read by the same rules as by systemd.
    type: path
    required: true
  sources:
    description: Further files the runtime is started from, such as its config image. One that is missing is left out.
    type: list
    elements: path
    default: []
  launcher:
    description: The launcher.
    type: path
    default: /usr/local/bin/vllmd-hypervisor
  run_dir:
    description: Directory below which the launcher keeps one directory for each runtime.
    type: path
    default: /run/vllmd
  log_path:
    description:
      - The guest's console log. Its end is part of an error message.
      - With V(direct) it takes the launcher's own lines too.
    type: path
    required: true
  user:
    description:
      - With V(direct), the user that the launcher and the virtual machine run as. By default the module's own.
    type: str
  timeout:
    description: Seconds that a start may take until the virtual machine runs.
    type: int
    default: 300
  health_url:
    description: Wait until this answers 200. The wait ends early when the virtual machine does.
    type: str
  health_timeout:
    description: Seconds to wait for O(health_url).
    type: int
    default: 600
"""

EXAMPLES = r"""
- name: Start a runtime and wait until it serves
  vllmd.platform.hypervisor_runtime:
    name: smollm2
    env_file: /etc/vllmd/hypervisor/smollm2.env
    log_path: /var/log/vllmd/smollm2.log
    sources:
      - /var/lib/vllmd/runtimes/smollm2/config.iso
    health_url: http://127.0.0.1:8000/health

- name: Stop it where systemd does not run
  vllmd.platform.hypervisor_runtime:
    name: smollm2
    state: stopped
    manager: direct
    env_file: /etc/vllmd/hypervisor/smollm2.env
    log_path: /var/log/vllmd/smollm2.log
"""

RETURN = r"""
before:
  description: V(running), V(starting) or V(stopped), before the task.
  returned: success
  type: str
state:
  description: V(running) or V(stopped), after the task.
  returned: success
  type: str
pid:
  description: The virtual machine's process; null when it is stopped, and in check mode when it would be started.
  returned: success
  type: int
reason:
  description: Why a running one was restarted; empty otherwise.
  returned: success
  type: str
health_seconds:
  description: How long the wait for O(health_url) took.
  returned: when O(health_url) was waited for
  type: float
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import hypervisor_sources
from ansible_collections.vllmd.platform.plugins.module_utils.consoles import size
from ansible_collections.vllmd.platform.plugins.module_utils.env_files import EnvFileError
from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_health import wait_until_healthy
from ansible_collections.vllmd.platform.plugins.module_utils.hypervisor_managers import (
    RUNNING,
    STOPPED,
    DirectManager,
    LaunchError,
    Manager,
    SystemdManager,
)


def make_manager(module: AnsibleModule) -> Manager:
    """Return what starts and stops the runtime on this host."""
    params = module.params
    run_path = Path(params["run_dir"]) / params["name"]
    log_path = Path(params["log_path"])
    if params["manager"] == "systemd":
        unit = params["unit"] or f"vllmd-hypervisor@{params['name']}.service"
        return SystemdManager(unit, params["scope"], run_path, log_path)
    return DirectManager(Path(params["launcher"]), Path(params["env_file"]), run_path, log_path, params["user"])


def files_of(params: dict[str, Any], manager: Manager) -> list[Path]:
    """Return the files that a start reads."""
    return [Path(params["env_file"]), *map(Path, params["sources"]), *manager.sources()]


def reason_to_restart(module: AnsibleModule, manager: Manager) -> str:
    """Return why a running runtime must be restarted; an empty string when it is current."""
    files = files_of(module.params, manager)
    changed, by_content = hypervisor_sources.changed(manager.started_marker, files)
    if changed:
        return f"{'changed since' if by_content else 'newer than'} its start: {', '.join(changed)}"
    if not by_content and not module.check_mode:
        hypervisor_sources.remember(manager.started_marker, hypervisor_sources.digests(files))
    return "it was asked for" if module.params["state"] == "restarted" else ""


def bring(module: AnsibleModule, manager: Manager) -> dict[str, Any]:
    """Bring the runtime into its state. Returns the task's result."""
    before, pid = manager.observe()
    after = STOPPED if module.params["state"] == "stopped" else RUNNING
    reason = reason_to_restart(module, manager) if before == after == RUNNING else ""
    act = before != after or bool(reason)
    if act and not module.check_mode:
        if before != STOPPED:
            manager.stop()
            hypervisor_sources.forget(manager.started_marker)
        if after == RUNNING:
            # Before the start: what is written while it starts may not have been read by it.
            found = hypervisor_sources.digests(files_of(module.params, manager))
            manager.start(module.params["timeout"])
            hypervisor_sources.remember(manager.started_marker, found)
    if act:
        pid = None if module.check_mode or after == STOPPED else manager.observe()[1]
    enabled, enable = manager.enabled(), module.params["enabled"]
    enable = enabled if enable is None or enabled is None else enable
    if enable is not None and enable != enabled and not module.check_mode:
        manager.enable(enable)
    at_boot = {None: "", True: "enabled\n", False: "disabled\n"}
    return {
        "changed": act or enable != enabled,
        "before": before,
        "state": after,
        "pid": pid,
        "reason": reason,
        "diff": {
            "before": f"{before}\n{at_boot[enabled]}",
            "after": f"{f'restarted, {reason}' if reason else after}\n{at_boot[enable]}",
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped", "restarted"], "default": "started"},
            "enabled": {"type": "bool"},
            "manager": {"type": "str", "choices": ["systemd", "direct"], "default": "systemd"},
            "scope": {"type": "str", "choices": ["system", "user"], "default": "system"},
            "unit": {"type": "str"},
            "env_file": {"type": "path", "required": True},
            "sources": {"type": "list", "elements": "path", "default": []},
            "launcher": {"type": "path", "default": "/usr/local/bin/vllmd-hypervisor"},
            "run_dir": {"type": "path", "default": "/run/vllmd"},
            "log_path": {"type": "path", "required": True},
            "user": {"type": "str"},
            "timeout": {"type": "int", "default": 300},
            "health_url": {"type": "str"},
            "health_timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    try:
        manager = make_manager(module)
        logged_before = size(manager.log_path)
        result = bring(module, manager)
        if module.params["health_url"] and result["state"] == RUNNING and not module.check_mode:
            since = logged_before if result["changed"] else 0
            seconds = wait_until_healthy(module.params["health_url"], module.params["health_timeout"], manager, since)
            result["health_seconds"] = round(seconds, 1)
    except (LaunchError, EnvFileError) as error:
        module.fail_json(msg=f"runtime {module.params['name']}: {error}")
    except OSError as error:
        module.fail_json(msg=f"runtime {module.params['name']}: {error.filename}: {error.strerror}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
