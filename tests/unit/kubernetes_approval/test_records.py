"""Records: what is written is what is read, and who may come again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval import records
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_approval.records import (
    Identity,
    RecordError,
    Use,
)

from .conftest import MACHINE, NOW, Key, registered
from .test_decide import ALLOWED


def test_what_is_written_is_read(key: Key) -> None:
    record = registered(use=Use("abcdef", key.digest, MACHINE, "csr-1", "2030-01-01T12:00:00Z"), allowance=ALLOWED)
    assert records.read(records.config_map(record)) == record
    assert records.read({"metadata": {"name": "gpu-1"}}) == records.Record("gpu-1")


def test_names_and_addresses_are_in_their_usual_form() -> None:
    found = records.checked(
        Identity("gpu-1", addresses=("FD00:0::1", "10.0.0.1", "10.0.0.1"), names=("GPU-1.Example.com",))
    )
    assert found.addresses == ("10.0.0.1", "fd00::1")
    assert found.names == ("gpu-1", "gpu-1.example.com")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"node": "gpu_1"}, "name 'gpu_1': write a DNS name"),
        ({"names": ("*.example.com",)}, "write a DNS name"),
        ({"addresses": ("10.0.0",)}, "address '10.0.0': write an IP address"),
        ({"machine_id": "x y"}, "machine id of node gpu-1"),
        ({"token_id": "abcdef.0123456789abcdef"}, "token id of node gpu-1"),
        ({"valid_until": "soon"}, "'soon' is no time"),
    ],
)
def test_what_cannot_be_registered_says_why(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RecordError) as error:
        records.checked(Identity(**{"node": "gpu-1", **given}))
    assert said in str(error.value)


@pytest.mark.parametrize(
    "data", [{"identity": "{"}, {"identity": "[]"}, {"identity": "{}"}, {"identity": '{"node": "other"}'}, {"use": "1"}]
)
def test_a_damaged_record_says_what_to_do(data: dict[str, str]) -> None:
    with pytest.raises(RecordError, match=r"register the node again|DNS name"):
        records.read({"metadata": {"name": "gpu-1"}, "data": data})


def test_a_node_that_stays_keeps_what_it_came_with(key: Key) -> None:
    before = registered(use=Use("abcdef", key.digest, "", "csr-1", "2030-01-01T12:00:00Z"))
    again = Identity("gpu-1", MACHINE, addresses=("10.0.0.21",))
    assert records.registered(before, again) == before
    moved = records.registered(before, replace(again, addresses=("10.0.0.99",)))
    assert moved.identity is not None
    assert (moved.identity.addresses, moved.identity.token_id, moved.use) == (("10.0.0.99",), "abcdef", before.use)


def test_a_node_that_comes_again_or_on_another_machine_begins_anew(key: Key) -> None:
    before = registered(use=Use("abcdef", key.digest, MACHINE, "csr-1", ""))
    anew = records.registered(before, Identity("gpu-1", MACHINE, token_id="bcdefg"))
    assert anew.identity is not None
    assert (anew.use, anew.identity.token_id) == (Use(), "bcdefg")
    other = records.registered(before, Identity("gpu-1", "f" * 32))
    assert other.use == Use("abcdef", key.digest, "", "csr-1", "")
    left = records.struck_off(replace(before, allowance=ALLOWED), NOW)
    assert left.identity is not None
    assert (left.identity.left, left.allowance) == ("2030-01-01T12:00:00Z", None)
    assert records.struck_off(left, NOW.replace(year=2031)) == left
    # With the token of before it comes back, and that is used.
    back = records.registered(left, Identity("gpu-1", MACHINE, token_id="abcdef"))
    assert back.identity is not None
    assert (back.identity.left, back.use) == ("", before.use)
