"""Labels and taints that Kubernetes takes, and what it would refuse, said before it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import names
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from tests.unit.guest.conftest import ELEMENTS, load

GUEST = load(ELEMENTS / "vllmd-kubernetes-node/static/usr/lib/vllmd/join.py")
#: apimachinery's own rule (validation.IsValidLabelValue), as the API server's message shows it.
VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
KEYS = st.sampled_from(
    ["vllmd.com/model", "kubernetes.io/hostname", "kubernetes.io/role", "node.kubernetes.io/x", "a", "-a", "a/b/c", ""]
) | st.text(max_size=20)
VALUES = st.sampled_from(["", "h100", "a b", "-", "x" * 63, "x" * 64]) | st.text(max_size=70)


@given(st.text(max_size=200))
def test_anything_becomes_a_legal_value(text: str) -> None:
    value = names.legal_value(text)
    assert len(value) <= names.LONGEST
    assert VALUE.fullmatch(value)
    assert names.is_value(value)
    assert names.legal_value(value) == value


@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_the_guest_takes_exactly_the_labels_that_a_host_does(given_labels: dict[str, str]) -> None:
    assert outcome(names.labels, NodeError, given_labels) == outcome(GUEST.labels, GUEST.SectionError, given_labels)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"key": KEYS, "effect": st.sampled_from([*names.EFFECTS, "Never"])}, optional={"value": VALUES}
        ),
        max_size=2,
    )
)
def test_the_guest_takes_exactly_the_taints_that_a_host_does(given_taints: list[dict[str, str]]) -> None:
    assert outcome(names.taints, NodeError, given_taints) == outcome(GUEST.taints, GUEST.SectionError, given_taints)


def outcome(function: Callable[[Any], Any], error: type[Exception], value: Any) -> Any:
    try:
        return function(value)
    except error:
        return None


@pytest.mark.parametrize(
    ("given_taints", "what"),
    [
        (["key=value:NoSchedule"], "write {key: ..., value: ..., effect: ...}"),
        ([{"key": "a", "effect": "noschedule"}], "allowed: NoSchedule, PreferNoSchedule, NoExecute"),
        (
            [{"key": "a", "effect": "NoSchedule", "value": "x"}, {"key": "a", "effect": "NoSchedule", "value": "y"}],
            "twice",
        ),
        ([{"key": "a b", "effect": "NoSchedule"}], "write a taint's key"),
    ],
)
def test_taints_that_are_refused(given_taints: list[Any], what: str) -> None:
    with pytest.raises(NodeError) as error:
        names.taints(given_taints)
    assert what in str(error.value)


def test_values_of_an_inventory_become_text() -> None:
    assert names.labels({"vllmd.com/rack": 7, "vllmd.com/spare": True}) == {
        "vllmd.com/rack": "7",
        "vllmd.com/spare": "true",
    }


@pytest.mark.parametrize(("text", "name"), [("GPU-01", "gpu-01"), (" gpu.example.com\n", "gpu.example.com")])
def test_a_nodes_name(text: str, name: str) -> None:
    assert names.node_name(text) == name


@pytest.mark.parametrize("text", ["", "gpu_01", "-gpu", "gpu.", "x" * 254])
def test_no_nodes_name(text: str) -> None:
    with pytest.raises(NodeError, match="write a DNS name"):
        names.node_name(text)
