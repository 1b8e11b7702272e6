"""Whatever stands in a manifest: the result is data, or one line per wrong field, never another exception."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils import guest_config
from ansible_collections.vllmd.platform.plugins.module_utils.manifest_schema import SCHEMA_PATH
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import (
    ManifestError,
    load_runtimes,
    read_runtimes,
)
from tests.support.schema_values import values

SCHEMA = json.loads(SCHEMA_PATH.read_text(encoding="utf-8"))
VALID: dict[str, Any] = {
    "apiVersion": "vllmd.com/v1alpha1",
    "kind": "Runtime",
    "metadata": {"name": "a", "labels": {"team": "x"}},
    "spec": {
        "model": {"name": "m", "source": "local", "repository": "m"},
        "resources": {"accelerator_count": 1, "accelerator_memory": "48Gi", "cpu": 2, "memory": "4Gi"},
        "scaling": {"minReplicas": 1, "maxReplicas": 2},
        "engine": {"dtype": "float32", "list": [1, "a"], "json": {"a": {"b": 1}}},
        "engine_environment": {"A": "b"},
        "image": {"name": "vllmd-cpu", "version": "latest"},
        "network": {"mode": "user", "forward": [{"host_port": 1, "guest_port": 2, "host_address": "127.0.0.1"}]},
        "placement": {
            "hosts": ["a"],
            "numa_node": 0,
            "devices": ["0000:01:00.0"],
            "strategy": "pack",
            "target": "kubernetes",
        },
        "priority": 5,
        "target": "hypervisor",
        "kubernetes": {
            "api_endpoint": "10.0.0.10:6443",
            "ca_pins": ["sha256:" + "0" * 64],
            "labels": {"vllmd.com/model": "m"},
            "taints": [{"key": "a/b", "value": "c", "effect": "NoSchedule"}],
            "open_tcp": [179],
        },
        "storage": {"cache": {"size": "1Gi"}},
        "monitoring": {"node_exporter": True},
    },
}
ISOLATED = {"mode": "isolated", "allow": [{"to": "192.0.2.0/24", "tcp": [443], "udp": [53]}]}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["", "-1", "1e999", "0x", "4Gi", "tap", "huggingface", "2020-01-01", "~", "=", "<<", "1:30", "\x00"]
    ),
    st.dates(),
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3),
    max_leaves=6,
)


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every field in ``data``."""
    found = [path] if path else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found.extend(places(value, (*path, key)))
    return found


def accepted_or_refused_in_lines(text: str) -> None:
    """Load ``text`` and everything that is made from it."""
    try:
        runtimes = load_runtimes(text, "runtime.yaml")
    except ManifestError as error:
        assert error.problems
        assert all(line.startswith("runtime.yaml:") and len(line.splitlines()) == 1 for line in error.problems)
        return
    for runtime in runtimes:
        guest = guest_config.runtime_json(runtime)
        guest_config.config_files(guest)
        guest_config.launcher_settings(runtime)
        json.dumps(runtime, allow_nan=False).encode()


@settings(max_examples=600, deadline=None)
@given(
    isolated=st.booleans(),
    edits=st.lists(
        st.tuples(
            st.sampled_from(places(VALID) + places({"spec": {"network": ISOLATED}})),
            st.sampled_from(["set", "delete", "rename"]),
            anything,
            st.text(max_size=8),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_mutated_documents(isolated: bool, edits: list[tuple[tuple[Any, ...], str, Any, str]]) -> None:
    document = json.loads(json.dumps(VALID))
    if isolated:
        document["spec"]["network"] = json.loads(json.dumps(ISOLATED))
    for path, action, value, name in edits:
        parent = document
        try:
            for part in path[:-1]:
                parent = parent[part]
            if action == "set":
                parent[path[-1]] = value
            elif action == "delete":
                del parent[path[-1]]
            else:
                parent[name] = parent.pop(path[-1])
        except (KeyError, IndexError, TypeError, AttributeError):
            continue  # an earlier edit removed the place
    try:
        text = yaml.dump(document, allow_unicode=True)
    except (ValueError, TypeError, yaml.YAMLError):
        return  # keys that Python cannot sort, for example
    accepted_or_refused_in_lines(text)


@settings(max_examples=600, deadline=None)
@given(
    cuts=st.lists(
        st.tuples(
            st.floats(0, 1),
            st.integers(0, 12),
            st.text(alphabet=":-[]{}&*!|>'\"%@`#,?~= \n\t\\uU0x\x00\x85\ufeffaé\ud800", max_size=6),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_mutated_text(cuts: list[tuple[float, int, str]]) -> None:
    text = yaml.dump(VALID)
    for position, length, insert in cuts:
        start = int(position * len(text))
        text = text[:start] + insert + text[start + length :]
    accepted_or_refused_in_lines(text)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text(text: str) -> None:
    accepted_or_refused_in_lines(text)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-16")))
def test_any_bytes_in_a_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_runtimes([path])
    assert all(line.startswith(f"{path}:") and len(line.splitlines()) == 1 for line in caught.value.problems)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(document=values(SCHEMA, SCHEMA))
def test_documents_made_from_the_schema(document: dict[str, Any]) -> None:
    accepted_or_refused_in_lines(yaml.dump(document, allow_unicode=True))
