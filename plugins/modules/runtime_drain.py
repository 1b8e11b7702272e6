#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: runtime_drain
short_description: Let a runtime come to rest, or take requests again
version_added: 0.1.0
description:
  - A drained runtime gets no new request; its host answers each by a reset, so that a client asks another replica.
    Requests that run are waited for, by vLLM's own C(/metrics).
  - The packet filter is the nftables table C(inet vllmd_drain), which exists while something is drained. Neither a
    restart of the runtime nor the end of the play removes it; a restart of the host does.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether something would be done, and does nothing.
    support: full
  diff_mode:
    description: Shows the endpoints before and after.
    support: full
options:
  name:
    description: The runtime's name.
    type: str
    required: true
  state:
    description: V(undrained) takes requests again. It is no error if the runtime was not drained.
    type: str
    choices: [drained, undrained]
    default: drained
  endpoints:
    description:
      - Where clients reach the runtime's API, as C(ADDRESS:PORT); C(0.0.0.0:PORT) means every address of the host.
      - Those that O(record) knows are drained, too.
    type: list
    elements: str
    default: []
  record:
    description: What module M(vllmd.platform.runtime_record) wrote when the runtime served; a missing file is no error.
    type: path
  metrics_url:
    description:
      - vLLM's C(/metrics). By default beside the C(/health) that O(record) knows; without either the runtime's requests
        are not waited for.
    type: str
  exempt_user:
    description: The user that the runtimes' monitors run as. What they ask each other's runtime for is let through.
    type: str
  timeout:
    description: Seconds to wait for requests that run. What runs longer is cut off by who stops the runtime.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Take no new requests, and wait for those that run
  vllmd.platform.runtime_drain:
    name: smollm2
    endpoints: ["127.0.0.1:8000"]
    metrics_url: http://127.0.0.1:8000/metrics

- name: Take requests again
  vllmd.platform.runtime_drain:
    name: smollm2
    state: undrained
"""

RETURN = r"""
refused:
  description:
    - Whether new requests are refused. False where nftables cannot do it; then those that run were waited for only.
  returned: when O(state=drained)
  type: bool
left:
  description: How many requests still ran at the end of O(timeout); null when that is not known.
  returned: when O(state=drained)
  type: int
seconds:
  description: How long the wait took.
  returned: when O(state=drained)
  type: float
"""

import json
import pwd
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from shutil import which
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import drain, host_http, runtime_records

_PAUSE_SECONDS = 1.0
_REQUEST_SECONDS = 5.0
#: In a row: vLLM counts a request a moment after it came.
_IDLE_SAMPLES = 2
_SILENT_SAMPLES = 3


def nft(arguments: list[str], script: str = "") -> str:
    """Run nft, which reads ``script``. Returns what it prints; raises DrainError."""
    program = which("nft", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        raise drain.DrainError("nft is not installed on this host; install nftables")
    done = subprocess.run([program, *arguments], input=script, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise drain.DrainError(f"nft {' '.join(arguments)}: {said[0]}")
    return done.stdout


def drained_now() -> dict[str, list[drain.Endpoint]]:
    """Return what is drained on this host, endpoints by runtime."""
    try:
        return drain.drained(json.loads(nft(["-j", "list", "table", "inet", drain.TABLE])))
    except drain.DrainError:
        return {}  # no table, or no nft that could have made one


def wait_until_idle(url: str, timeout: float, clock: Callable[[], float] = time.monotonic) -> tuple[int | None, float]:
    """Return how many requests are left, None when that is not known, and how long that took, ``timeout`` at most.

    Idle is twice in a row without a request. Who does not say three times in a row how many there are is not waited
    for: nobody listens any more, or it is no vLLM. One that is only slow to answer is.
    """
    began, idle, silent = clock(), 0, 0
    while True:
        left: int | None = None
        slow = False
        try:
            left = drain.in_flight(host_http.fetch(url, _REQUEST_SECONDS))
        except host_http.HttpError as error:
            slow = error.timed_out
        idle = idle + 1 if left == 0 else 0
        silent = silent + 1 if left is None and not slow else 0
        seconds = clock() - began
        if idle >= _IDLE_SAMPLES or silent >= _SILENT_SAMPLES or seconds >= timeout:
            return left, seconds
        time.sleep(_PAUSE_SECONDS)


def uid_of(user: str | None) -> int | None:
    """Return the user's number, None when there is no such user."""
    try:
        return pwd.getpwnam(user).pw_uid if user else None
    except KeyError:
        return None


def metrics_beside(health_url: str) -> str:
    """Return the URL of the metrics that belong to a health URL; empty when it is not vLLM's."""
    stem = health_url.removesuffix("/health")
    return f"{stem}/metrics" if stem != health_url else ""


def begin(module: AnsibleModule) -> dict[str, Any]:
    """Drain the runtime. Returns the task's result."""
    params = module.params
    record = runtime_records.read(Path(params["record"])) if params["record"] else None
    texts = [*params["endpoints"], *((record or {}).get("endpoints") or [])]
    endpoints = sorted({drain.endpoint_of(text) for text in texts})
    before = drained_now().get(params["name"], [])
    missing = [each for each in endpoints if each not in before]
    result: dict[str, Any] = {"changed": bool(missing), "refused": bool(endpoints), "left": None, "seconds": 0.0}
    result["diff"] = shown(before, sorted({*before, *endpoints}))
    if module.check_mode:
        return result
    if missing:
        try:
            nft(["-f", "-"], drain.ruleset(uid_of(params["exempt_user"])) + drain.adding(params["name"], missing))
        except drain.DrainError as error:
            module.warn(f"runtime {params['name']}: new requests are not refused, {error}")
            result.update(changed=False, refused=False)
    if url := params["metrics_url"] or metrics_beside((record or {}).get("health_url") or ""):
        left, seconds = wait_until_idle(url, params["timeout"])
        result.update(left=left, seconds=round(seconds, 1))
    return result


def end(module: AnsibleModule) -> dict[str, Any]:
    """End the drain. Returns the task's result."""
    name, now = module.params["name"], drained_now()
    if name in now and not module.check_mode:
        nft(["-f", "-"], drain.removing(name, now))
    return {"changed": name in now, "diff": shown(now.get(name, []), [])}


def shown(before: list[drain.Endpoint], after: list[drain.Endpoint]) -> dict[str, str]:
    """Return Ansible's diff of two lists of endpoints."""
    return {
        key: "".join(f"drained {address}:{port}\n" for address, port in endpoints)
        for key, endpoints in (("before", before), ("after", after))
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["drained", "undrained"], "default": "drained"},
            "endpoints": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "path"},
            "metrics_url": {"type": "str"},
            "exempt_user": {"type": "str"},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    try:
        result = begin(module) if module.params["state"] == "drained" else end(module)
    except (drain.DrainError, runtime_records.RecordError) as error:
        module.fail_json(msg=f"runtime {module.params['name']}: {error}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
