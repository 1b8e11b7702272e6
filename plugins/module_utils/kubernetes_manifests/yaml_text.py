# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Objects as YAML that YAML 1.1 and 1.2 read alike: the kubelet's world reads some plain scalars that PyYAML does not.

``1e3`` and ``0o17`` are text for PyYAML and numbers for other readers, ``yes`` and ``1:30`` the other way round; so
text stands in quotes unless it is plainly a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

#: One word or path that begins with a letter or a slash; a colon or a hash never needs a second look then.
_WORD = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*")
_MEANING = frozenset(["y", "n", "yes", "no", "on", "off", "true", "false", "null"])


class _Dumper(yaml.SafeDumper):
    """Block style with lists indented."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = bool(_WORD.fullmatch(value)) and value.lower() not in _MEANING
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def dump(objects: Iterable[Mapping[str, Any]], header: str) -> str:
    """Return the objects as YAML documents below ``header``, a comment; the same objects give the same text."""
    # By way of JSON: Ansible's own kinds of text and mapping are none that PyYAML knows.
    plain = [json.loads(json.dumps(each)) for each in objects]
    documents = [
        yaml.dump(each, Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10**6)
        for each in plain
    ]
    return header + "".join(f"---\n{each}" for each in documents)
