"""What a manifest may say of a cluster, the guest accepts: schema and guest agree."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings

from ansible_collections.vllmd.platform.plugins.module_utils import guest_config
from ansible_collections.vllmd.platform.plugins.module_utils.manifest_schema import SCHEMA_PATH
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import ManifestError, load_runtime
from tests.support.schema_values import values

SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
TOKEN = "abcdef.0123456789abcdef"


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(section=values(SCHEMA, SCHEMA["$defs"]["kubernetes"]))
def test_the_guest_accepts_what_the_schema_accepts(
    element_script: Callable[[str], ModuleType], section: dict[str, Any]
) -> None:
    join = element_script("vllmd-kubernetes-node/static/usr/lib/vllmd/join.py")
    document = {
        "apiVersion": "vllmd.com/v1alpha1",
        "kind": "Runtime",
        "metadata": {"name": "a"},
        "spec": {
            "model": {"name": "m", "source": "local", "repository": "m"},
            "resources": {"accelerator_count": 0},
            "kubernetes": section,
        },
    }
    try:
        runtime = load_runtime(yaml.dump(document, allow_unicode=True), "runtime.yaml")
    except ManifestError as error:
        known = ("a node may not give itself this label", "which a node has once")
        assert all(any(each in line for each in known) for line in error.problems), error.problems
        return
    checked = join.check(guest_config.with_token(guest_config.runtime_json(runtime), TOKEN)["kubernetes"])
    assert checked["token"] == TOKEN
    for name, value in section.items():
        if name not in ("ca_pins", "taints"):
            assert checked[name] == value
