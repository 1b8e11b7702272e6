#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: runtime_load
short_description: Read how busy the runtimes on a host are
version_added: 0.1.0
description:
  - Asks runtimes for their health and vLLM's own metrics, all of them at once, from the host that they are on, since
    nobody else may reach them.
  - One that does not answer is no failure; its RV(loads) has an C(error).
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Nothing is ever changed.
    support: full
  diff_mode:
    description: Nothing is ever changed.
    support: none
options:
  urls:
    description: Where each runtime's API is, by name, such as C(http://127.0.0.1:8000). An empty one is left out.
    type: dict
    required: true
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 5
seealso:
  - module: vllmd.platform.scale
"""

EXAMPLES = r"""
- name: Ask how busy they are
  vllmd.platform.runtime_load:
    urls:
      smollm2: http://127.0.0.1:8000
  register: read
"""

RETURN = r"""
loads:
  description:
    - By name, C(waiting) and C(running) requests, and C(kv_cache), the part of the KV cache in use, 0 to 1. Or
      C(error), in words.
  returned: success
  type: dict
"""

from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import host_http
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_load import ask

_AT_ONCE = 16


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "urls": {"type": "dict", "required": True},
            "timeout": {"type": "float", "default": 5},
        },
        supports_check_mode=True,
    )
    urls = {name: str(url).rstrip("/") for name, url in module.params["urls"].items() if url}
    opener = host_http.opener()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = pool.map(lambda url: ask(opener, url, module.params["timeout"]), urls.values())
        loads = dict(zip(urls, answers, strict=True))
    module.exit_json(changed=False, loads=loads)


if __name__ == "__main__":
    main()
