"""What a host is to a control plane, why it cannot be a member, and the secrets that members share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import members, membership
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.modules import kubernetes_member_secrets as secrets

ARP = """IP address       HW type     Flags       HW address            Mask     Device
10.0.0.10        0x1         0x2         52:54:00:12:34:56     *        eth0
10.0.0.11        0x1         0x0         00:00:00:00:00:00     *        eth0
"""


def make(root: Path, *names: str) -> Path:
    """Files below the root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("files", "state"),
    [
        ((), "none"),
        (("etc/kubernetes/pki/ca.crt", "etc/kubernetes/pki/ca.key"), "none"),
        (membership.MEMBER_FILES, "member"),
        ((membership.MARKER, "etc/kubernetes/pki/ca.crt"), "prepared"),
        ((membership.MARKER, "etc/kubernetes/kubelet.conf"), "interrupted"),
        ((membership.MARKER, *membership.MEMBER_FILES), "interrupted"),
    ],
)
def test_a_hosts_files_say_how_far_it_has_come(tmp_path: Path, files: tuple[str, ...], state: str) -> None:
    assert membership.state(make(tmp_path, *files)) == state


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (("etc/kubernetes/kubelet.conf", "etc/kubernetes/pki/ca.crt"), "a node that only runs pods"),
        (membership.MEMBER_FILES[:3], "/etc/kubernetes/manifests/kube-apiserver.yaml is not"),
        (("var/lib/etcd/member/snap/db",), "/var/lib/etcd/member is here"),
    ],
)
def test_what_nobody_here_made_is_never_taken_for_an_interrupted_run(
    tmp_path: Path, files: tuple[str, ...], said: str
) -> None:
    with pytest.raises(NodeError, match=said):
        membership.state(make(tmp_path, *files))


def host(**fields: object) -> members.Host:
    """A host that can be a member, but for what is given."""
    good = {"address": "10.0.0.11", "local": ("127.0.0.1", "10.0.0.11"), "listening": frozenset(), "is_new": True}
    return members.Host(**{**good, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "settings", "said"),
    [
        ({}, {}, []),
        ({"address": ""}, {}, ["the host has no default route"]),
        ({"local": ("127.0.0.1",)}, {}, ["10.0.0.11 is on no interface"]),
        (
            {"listening": frozenset({2379, 6443})},
            {},
            ["2379 is in use, and etcd", "6443 is in use, and kube-apiserver"],
        ),
        ({"listening": frozenset({2379}), "is_new": False}, {}, []),
        ({"listening": frozenset({8443})}, {}, []),
        ({"listening": frozenset({8443})}, {"virtual_address": "10.0.0.10"}, ["8443 is in use, and HAProxy"]),
        ({"listening": frozenset({8443}), "has_balancer": True}, {"virtual_address": "10.0.0.10"}, []),
        ({}, {"virtual_address": "10.0.0.11"}, ["is this member's own"]),
        (
            {},
            {"virtual_address": "10.0.0.10", "balancer_port": 6443},
            ["6443 is asked for the API server and for HAProxy"],
        ),
        ({}, {"virtual_address": "api.example.com"}, ["'api.example.com' is no address"]),
    ],
)
def test_reasons(fields: dict[str, object], settings: dict[str, object], said: list[str]) -> None:
    given = {"port": 6443, "virtual_address": "", "balancer_port": 8443, **settings}
    found = members.problems(host(**fields), **given)  # type: ignore[arg-type]
    assert len(found) == len(said)
    for line, part in zip(found, said, strict=True):
        assert part in line


@pytest.mark.parametrize(("address", "answered"), [("10.0.0.10", True), ("10.0.0.11", False), ("10.0.0.1", False)])
def test_an_address_is_taken_when_somebody_answers_for_it(address: str, answered: bool) -> None:
    assert members.is_resolved(ARP, address) == answered


def test_secrets_are_made_once_and_taken_from_others(tmp_path: Path) -> None:
    made = secrets.keep(tmp_path / "mine", {}, {})
    assert secrets.is_key(made["encryption_key"])
    assert len(made["vrrp_word"]) == 8, "what keepalived reads of it"
    assert secrets.keep(tmp_path / "mine", made, {}) == made
    assert secrets.keep(tmp_path / "other", {}, made) == made


def test_another_clusters_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="another encryption key"):
        secrets.keep(tmp_path, secrets.made(), secrets.made())


@pytest.mark.parametrize("key", ["", "VALUE_SPECIFIED_IN_NO_LOG_PARAMETER", "c2hvcnQ="])
def test_what_is_no_key_is_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(NodeError, match="32 bytes in base64"):
        secrets.keep(tmp_path, {}, {**secrets.made(), "encryption_key": key})


def test_a_damaged_file_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secrets.json"
    path.write_text('{"encryption_key": "half', encoding="utf-8")
    with pytest.raises(NodeError, match="is damaged; restore it"):
        secrets.read(path)
