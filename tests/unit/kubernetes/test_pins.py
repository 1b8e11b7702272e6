"""A cluster is known by the pin of its CA, and a host by whose CA its kubelet believes."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import pins
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from tests.unit.kubernetes.conftest import make_authority

PIN = "sha256:" + "a" * 64


@pytest.mark.parametrize("kind", ["rsa", "ec", "ed25519"])
def test_a_pin_is_that_of_kubeadm_for_every_kind_of_key(kind: str) -> None:
    authority = make_authority(kind, "k" * 64)
    assert pins.of_pem(f"text before\n{authority.pem}") == (authority.pin,)


def test_a_bundle_has_a_pin_for_each(authority: Any, other_authority: Any) -> None:
    found = pins.of_pem(authority.pem + other_authority.pem)
    assert set(found) == {authority.pin, other_authority.pin}


@given(st.binary(max_size=300))
def test_garbage_is_refused_in_one_line(content: bytes) -> None:
    text = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(content).decode()}\n-----END CERTIFICATE-----\n"
    try:
        assert all(pin.startswith("sha256:") for pin in pins.of_pem(text))
    except NodeError as error:
        assert "\n" not in str(error)


def test_a_cut_certificate_is_refused(authority: Any) -> None:
    lines = authority.pem.splitlines()
    with pytest.raises(NodeError, match="cannot be read"):
        pins.of_pem("\n".join([*lines[:5], lines[-1]]))


@pytest.mark.parametrize(
    ("given_pins", "what"),
    [
        ([], "no pin of the cluster's CA was given"),
        (["a" * 64], "write sha256: and 64 hexadecimal digits"),
        (["sha256:" + "a" * 63], "write sha256:"),
        (["sha256:" + "g" * 64], "write sha256:"),
        ([PIN, "sha512:" + "a" * 64], "write sha256:"),
        ([""], "write sha256:"),
    ],
)
def test_without_a_good_pin_nothing_goes(given_pins: list[str], what: str) -> None:
    with pytest.raises(NodeError) as error:
        pins.parse(given_pins)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


def test_pins_are_sorted_and_each_is_there_once() -> None:
    other = "sha256:" + "0" * 64
    assert pins.parse([PIN, other, PIN.upper().replace("SHA256", "sha256"), PIN]) == [other, PIN]


def test_whose_node_a_host_is(tmp_path: Path, authority: Any, joined: Callable[..., Path]) -> None:
    assert pins.membership(tmp_path) is None
    joined(tmp_path, authority)
    found = pins.membership(tmp_path)
    assert found == pins.Membership("https://10.0.0.10:6443", (authority.pin,))


def test_a_ca_in_a_file_counts_too(tmp_path: Path, authority: Any) -> None:
    (tmp_path / "etc/kubernetes/pki").mkdir(parents=True)
    (tmp_path / "etc/kubernetes/pki/ca.crt").write_text(authority.pem)
    (tmp_path / "etc/kubernetes/kubelet.conf").write_text(
        'clusters:\n- cluster:\n    certificate-authority: /etc/kubernetes/pki/ca.crt\n    server: "https://a:6443"\n'
    )
    assert pins.membership(tmp_path) == pins.Membership("https://a:6443", (authority.pin,))


@pytest.mark.parametrize(
    "text", ["", "garbage", "    server: https://a\n    certificate-authority-data: AAAA\n", "\ufffd"]
)
def test_a_broken_membership_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc/kubernetes").mkdir(parents=True)
    (tmp_path / "etc/kubernetes/kubelet.conf").write_text(text)
    with pytest.raises(NodeError, match="kubeadm reset"):
        pins.membership(tmp_path)
