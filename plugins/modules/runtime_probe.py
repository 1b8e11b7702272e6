#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: runtime_probe
short_description: Ask a runtime one real question
version_added: 0.1.0
description:
  - A healthy engine may still answer nonsense. This asks for one completion, or one embedding, and fails unless the
    answer is one.
  - It reaches a drained runtime, too.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Asks, since that changes nothing.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  url:
    description: The runtime's API, such as V(http://127.0.0.1:8000).
    type: str
    required: true
  model:
    description: The model's name in the API.
    type: str
    required: true
  kind:
    description: What is asked for.
    type: str
    choices: [completion, embedding]
    default: completion
  prompt:
    description: What the model is given.
    type: str
    default: The capital of France is
  expect:
    description: A regular expression that is searched for in the completion.
    type: str
    default: \S
  max_tokens:
    description: How long the completion may become.
    type: int
    default: 8
  timeout:
    description: Seconds for the answer.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Let it answer
  vllmd.platform.runtime_probe:
    url: http://127.0.0.1:8000
    model: smollm2-135m-instruct
    expect: Paris
"""

RETURN = r"""
text:
  description: The completion; for an embedding its number of dimensions.
  returned: success
  type: str
seconds:
  description: How long the answer took.
  returned: success
  type: float
"""

import json
import re
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import host_http

_SHOWN = 120  # characters of a wrong answer


class ProbeError(Exception):
    """The answer is none; the message is one line."""


def completion_in(answer: str, expect: str) -> str:
    """Return the text of a completion. Raises ProbeError unless ``expect`` is found in it."""
    try:
        text = json.loads(answer)["choices"][0]["text"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise ProbeError(f"it answered no completion: {shown(answer)}") from None
    if not isinstance(text, str) or not re.search(expect, text):
        raise ProbeError(f"its completion is {shown(str(text))}, in which {expect!r} is not found")
    return text


def dimensions_in(answer: str) -> str:
    """Return the number of an embedding's dimensions. Raises ProbeError when there is none."""
    try:
        vector = json.loads(answer)["data"][0]["embedding"]
        if not vector or not all(isinstance(each, (int, float)) for each in vector):
            raise ValueError
    except (ValueError, KeyError, IndexError, TypeError):
        raise ProbeError(f"it answered no embedding: {shown(answer)}") from None
    return str(len(vector))


def shown(text: str) -> str:
    """Return the beginning of a text in one line, quoted."""
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[:_SHOWN]}...")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "model": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": ["completion", "embedding"], "default": "completion"},
            "prompt": {"type": "str", "default": "The capital of France is"},
            "expect": {"type": "str", "default": r"\S"},
            "max_tokens": {"type": "int", "default": 8, "no_log": False},
            "timeout": {"type": "int", "default": 300},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        re.compile(params["expect"])
    except re.error as error:
        module.fail_json(msg=f"expect {params['expect']!r} is no regular expression: {error}")
    wants_completion = params["kind"] == "completion"
    url = f"{params['url'].rstrip('/')}/v1/{'completions' if wants_completion else 'embeddings'}"
    body = {"model": params["model"], "prompt": params["prompt"], "max_tokens": params["max_tokens"], "temperature": 0}
    if not wants_completion:
        body = {"model": params["model"], "input": params["prompt"]}
    began = time.monotonic()
    try:
        answer = host_http.fetch(url, params["timeout"], body)
        text = completion_in(answer, params["expect"]) if wants_completion else dimensions_in(answer)
    except (host_http.HttpError, ProbeError) as error:
        module.fail_json(msg=f"{url}: {error}")
    module.exit_json(changed=False, text=text, seconds=round(time.monotonic() - began, 1))


if __name__ == "__main__":
    main()
