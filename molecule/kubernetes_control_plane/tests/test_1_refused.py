"""What cannot be a control plane is refused before anything is changed, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

testinfra_hosts = ["ansible://control1"]
SHARED = {"name": "a", "manifests": [], "wait": []}


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"runtime_controller_members": ["control1", "control2"]}, "there are 2; take one, three or five"),
        (
            {"runtime_controller_members": ["control1", "control2", "control3"]},
            "control2, control3 is left out",
        ),
        ({"runtime_controller_members": ["control2"]}, "this host is not among them"),
        ({"runtime_controller_virtual_router": 256}, "allowed: 1 to 255"),
        ({"runtime_controller_address": "203.0.113.1"}, "203.0.113.1 is on no interface of this host"),
        (
            {"runtime_controller_components": [{**SHARED, "after": ["b"]}]},
            "component a: it comes after b, which is no component",
        ),
        ({"runtime_controller_state": "absent"}, "(runtime_controller_confirm_last: control1)"),
    ],
)
def test_it_says_what_to_change(
    cluster: Any, converge_again: Callable[..., Any], variables: dict[str, Any], said: str
) -> None:
    refused = converge_again(variables)
    assert refused.returncode != 0
    assert said in " ".join(refused.output.split()), refused.output
    assert refused.changed == 0, refused.output
    assert cluster.is_ready("control1")
