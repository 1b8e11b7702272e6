"""Certificates are read, judged and issued again as they were."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import pins
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import certificates, inventory

from .conftest import NOW, Member, make_authority, make_leaf


def test_the_same_is_issued_again_with_a_new_key() -> None:
    old, new = make_authority(), make_authority("other")
    before, _key = make_leaf(old, "kube-apiserver", names=("kubernetes", "control.example.com"))
    after, key = certificates.reissue(before, new, NOW)
    assert (after.subject, after.issuer) == (before.subject, new.certificate.subject)
    kind = x509.SubjectAlternativeName
    assert after.extensions.get_extension_for_class(kind) == before.extensions.get_extension_for_class(kind)
    assert certificates.public_bytes(after) != certificates.public_bytes(before)
    assert certificates.public_bytes(after) == certificates._public_bytes(key.public_key())
    assert certificates.not_after(after) - NOW == timedelta(days=365)
    assert certificates.not_before(after) < NOW
    assert certificates.is_issued_by(after, new.certificate) and not certificates.is_issued_by(after, old.certificate)
    after.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)


def test_no_certificate_outlives_its_authority() -> None:
    authority = make_authority(days=10)
    before, _key = make_leaf(authority, "kube-apiserver", days=5)
    after, _key = certificates.reissue(before, authority, NOW)
    assert certificates.not_after(after) == certificates.not_after(authority.certificate)


@pytest.mark.parametrize("key", [rsa.generate_private_key(public_exponent=65537, key_size=2048), None])
def test_a_successor_is_of_the_same_kind_with_a_name_of_its_own(key: Any) -> None:
    old = make_authority()
    first = certificates.successor(old.certificate, NOW)
    second = certificates.successor(first.certificate, NOW + timedelta(days=1))
    names = [each.certificate.subject.rfc4514_string() for each in (old, first, second)]
    assert names == ["CN=kubernetes", "CN=kubernetes-20260601T000000Z", "CN=kubernetes-20260602T000000Z"]
    assert isinstance(first.key, ec.EllipticCurvePrivateKey)
    assert certificates.is_authority(first.certificate)
    assert certificates.is_issued_by(first.certificate, first.certificate)


def test_who_only_has_the_name_did_not_issue_it() -> None:
    right, wrong = make_authority(), make_authority()
    leaf, _key = make_leaf(right, "leaf")
    assert certificates.is_issued_by(leaf, right.certificate)
    assert not certificates.is_issued_by(leaf, wrong.certificate)


def test_a_pin_is_the_one_that_joining_nodes_are_given() -> None:
    authority = make_authority()
    pem = certificates.pem([authority.certificate]).decode()
    assert pins.of_pem(pem) == (certificates.pin(authority.certificate),)


@pytest.mark.parametrize("text", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_no_certificate_is_said(text: bytes) -> None:
    with pytest.raises(NodeError, match=r"a\.crt: "):
        certificates.parse(text, "a.crt")


def test_a_key_of_another_certificate_is_refused() -> None:
    one, other = make_authority(), make_authority()
    with pytest.raises(NodeError, match="do not belong together"):
        certificates.issuer(certificates.pem([one.certificate]), certificates.key_pem(other.key), "ca.crt")


@pytest.mark.parametrize(
    ("days", "state"), [(335, "ok"), (31, "ok"), (29, "due"), (0.1, "due"), (-1, "expired"), (-29, "expired")]
)
def test_a_certificate_of_a_year_is_due_thirty_days_before(days: float, state: str) -> None:
    leaf, _key = make_leaf(make_authority(), "leaf", days=days + 0)
    started = max(days, 300)  # a life of about a year
    leaf, _key = make_leaf(make_authority(), "leaf", days=started)
    assert inventory.state(leaf, NOW + timedelta(days=started - days), 30) == state


def test_a_short_life_is_due_in_its_last_third_and_one_to_come_is_early() -> None:
    leaf, _key = make_leaf(make_authority(), "leaf", days=0)  # 30 days long
    begin = NOW - timedelta(days=30)
    seen = {days: inventory.state(leaf, begin + timedelta(days=days), 30) for days in (-1, 1, 19, 21, 30)}
    assert seen == {-1: "early", 1: "ok", 19: "ok", 21: "due", 30: "expired"}


def test_everything_on_a_host_is_listed(member: Member) -> None:
    copy = member.root / "root/.kube/config"
    copy.parent.mkdir(parents=True)
    copy.write_bytes(member.path("admin.conf").read_bytes())
    kubelet = member.root / "var/lib/kubelet/pki"
    kubelet.mkdir(parents=True)
    certificate, key = make_leaf(member.authorities["kubernetes"], "system:node:control", days=2)
    (kubelet / "kubelet-client-current.pem").write_bytes(certificates.pem([certificate]) + certificates.key_pem(key))
    (member.path("pki") / "broken.crt").write_text("nothing")
    found = inventory.of_host(member.root, NOW, 30, ["/nowhere"])
    by_name = {(each.name, each.renewal): each for each in found}
    assert by_name["apiserver", "kubeadm"].days_left == 335
    assert by_name["apiserver", "kubeadm"].names == ("kubernetes", "control")
    assert by_name["etcd/peer", "kubeadm"].issuer == "CN=etcd"
    assert by_name["admin.conf", "kubeadm"].state == "ok"
    assert by_name["admin.conf (authority)", "rotation"].authority
    assert by_name["ca", "rotation"].authority
    assert by_name["config", "collection"].path == "/root/.kube/config"
    assert by_name["kubelet-client-current", "kubelet"].state == "due"
    assert by_name["broken.crt", "nobody"].state == "unreadable"
    assert "no PEM certificate" in by_name["broken.crt", "nobody"].trouble
    assert all(each.row()["path"].startswith("/") for each in found)


def test_a_host_with_nothing_has_nothing(tmp_path: Path) -> None:
    assert inventory.of_host(tmp_path, NOW, 30) == []
