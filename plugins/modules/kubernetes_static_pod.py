#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_static_pod
short_description: Restart a part of a control plane, and wait until the API answers again
version_added: 0.1.0
description:
  - Ends the process in order (SIGTERM); the kubelet starts its container again, with the files that it reads now.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Restarts nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
options:
  name:
    description: The program.
    type: str
    choices: [kube-apiserver, kube-controller-manager, kube-scheduler, etcd]
    required: true
  server:
    description: URL of this member's own API server, which has to answer again.
    type: str
    required: true
  kubeconfig:
    description: Credentials of an administrator.
    type: path
    default: /etc/kubernetes/admin.conf
  timeout:
    description: >-
      Seconds until the API server must answer. A container that failed before is not started again for up to five
      minutes.
    type: int
    default: 360
"""

EXAMPLES = r"""
- name: Let the API server read its files again
  vllmd.platform.kubernetes_static_pod:
    name: kube-apiserver
    server: https://10.0.0.11:6443
"""

RETURN = r"""
seconds:
  description: Until the API server answered again.
  returned: when it was restarted
  type: float
"""

import os
import signal
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl

PROC = Path("/proc")
_POLL_SECONDS = 0.5


def processes(name: str) -> set[int]:
    """Return the processes whose program has this name."""
    found = set()
    for path in PROC.glob("[0-9]*/cmdline"):
        try:
            program = path.read_bytes().split(b"\0", 1)[0]
        except OSError:
            continue  # it has ended meanwhile
        if program.rpartition(b"/")[2] == name.encode():
            found.add(int(path.parent.name))
    return found


def restart(name: str, kubectl: Kubectl, server: str, timeout: int) -> float:
    """End the process and wait for its successor and the API; the seconds that took. Raises NodeError."""
    started = time.monotonic()
    before = processes(name)
    for process in before:
        try:
            os.kill(process, signal.SIGTERM)
        except ProcessLookupError:
            continue
    said = f"{name} has not been started again"
    while time.monotonic() - started < timeout:
        if processes(name) - before:
            done = kubectl.run(
                "--server", server, "get", "--raw", "/readyz", "--request-timeout", "10s", timeout_seconds=20
            )
            if done.status == 0:
                return time.monotonic() - started
            said = done.last_line
        time.sleep(_POLL_SECONDS)
    raise NodeError(
        f"{name} was restarted and {server} does not answer after {timeout} s: {said}; 'crictl ps -a' and "
        "'journalctl -u kubelet' on this host say why"
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {
                "type": "str",
                "choices": ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"],
                "required": True,
            },
            "server": {"type": "str", "required": True},
            "kubeconfig": {"type": "path", "default": "/etc/kubernetes/admin.conf"},
            "timeout": {"type": "int", "default": 360},
        },
        supports_check_mode=True,
    )
    given = module.params
    if module.check_mode:
        module.exit_json(changed=True)
    try:
        seconds = restart(given["name"], Kubectl("kubectl", given["kubeconfig"]), given["server"], given["timeout"])
    except NodeError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, seconds=round(seconds, 1))


if __name__ == "__main__":
    main()
