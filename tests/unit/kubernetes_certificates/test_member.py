"""A host of the control plane goes through a rotation, forth and back, and on from wherever it was interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import (
    certificates,
    components,
    inventory,
    layout,
    member,
    renewal,
    rotation,
    store,
)

from .conftest import NOW, Member, kubeconfig, make_authority, make_leaf

USUAL, OWN = "/etc/kubernetes/pki/ca.crt", "/etc/kubernetes/pki/rotation/signer.crt"


@pytest.fixture(autouse=True)
def restarts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which components were started again; there is no kubelet here that would do it."""
    done: list[str] = []

    def restart(root: Path, name: str, _timeout: float, arguments: dict[str, str] | None = None) -> None:
        components.write_manifest(root, name, arguments or {})
        done.append(name)

    monkeypatch.setattr(components, "restart", restart)
    return done


def go(host: Member, position: str, *, check: bool = False) -> list[str]:
    under_way = store.read(host.root, "member")
    assert under_way is not None
    changes = store.Changes(check, [])
    member.go(under_way, position, member.Options(), changes)
    return changes.lines


def check_position(host: Member, position: str) -> None:
    under_way = store.read(host.root, "member")
    assert under_way is not None and under_way.record.position == position
    signer = under_way.certificate(rotation.signer(position))
    believed = [certificates.pin(under_way.certificate(each)) for each in rotation.believed(position)]
    for leaf in layout.AUTHORITIES["kubernetes"].leaves:
        assert certificates.is_issued_by(host.leaf(leaf), signer)
    for conf in layout.AUTHORITIES["kubernetes"].kubeconfigs:
        assert certificates.is_issued_by(host.client(conf), signer)
        assert host.believed(conf) == believed
        assert host.path(conf).stat().st_mode & 0o777 == 0o600
    pem, key = host.path("pki/ca.crt").read_bytes(), host.path("pki/ca.key").read_bytes()
    assert [certificates.pin(each) for each in certificates.parse(pem, "ca.crt")] == believed
    certificates.issuer(pem, key, "ca.crt")  # who signs comes first, where kubeadm looks
    assert host.path("pki/ca.key").stat().st_mode & 0o777 == 0o600
    both = len(believed) > 1
    assert host.signing_file() == (OWN if both else USUAL)
    if both:
        assert certificates.parse((host.root / OWN.lstrip("/")).read_bytes(), "signer") == [signer]
    # Other authorities have nothing to do with it.
    assert certificates.is_issued_by(host.leaf("etcd/peer"), host.authorities["etcd"].certificate)
    assert certificates.is_issued_by(host.leaf("front-proxy-client"), host.authorities["front-proxy"].certificate)


def test_it_goes_all_the_way_and_the_old_key_is_gone(member: Member, restarts: list[str]) -> None:
    member.begin()
    for position in ("trust", "swap", "new"):
        assert go(member, position)
        check_position(member, position)
        assert go(member, position) == []
    assert (
        restarts == ["kube-controller-manager"] * 2
    )  # where its argument changed; no process here is older than a file
    store.finish(member.root)
    assert not (member.root / layout.ROTATION).exists()
    assert store.read(member.root, "member") is None


def test_it_comes_back_from_the_swap(member: Member) -> None:
    member.begin()
    before = member.path("pki/ca.crt").read_bytes()
    for position in ("trust", "swap", "trust", "old"):
        go(member, position)
        check_position(member, position)
    assert member.path("pki/ca.crt").read_bytes() == before


def test_a_dry_run_says_it_and_does_nothing(member: Member) -> None:
    member.begin()
    before = {path: path.read_bytes() for path in member.root.rglob("*") if path.is_file()}
    lines = go(member, "trust", check=True)
    assert "ca.crt holds old and new" in lines and f"kube-controller-manager signs with {OWN}" in lines
    assert "/etc/kubernetes/admin.conf believes old and new" in lines
    assert {path: path.read_bytes() for path in member.root.rglob("*") if path.is_file()} == before


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that lets the n-th write from now on fail, or, for none, lets all succeed again."""
    left: list[int] = []
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if left:
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)

    def set_(number: int) -> None:
        left[:] = [number] if number else []

    yield set_
    set_(0)


@pytest.mark.parametrize("way", [("trust", "swap", "new"), ("trust", "swap", "trust", "old")])
def test_interrupted_at_any_write_it_goes_on(member: Member, interrupt: Any, way: tuple[str, ...]) -> None:
    member.begin()
    interruptions = 0
    for position in way:
        number = 1
        while True:
            interrupt(number)
            try:
                go(member, position)
            except KeyboardInterrupt:
                interruptions += 1
                number += 1  # each run gets one write further than the last
                continue
            finally:
                interrupt(0)
            break
        check_position(member, position)
    assert interruptions > 10
    assert not list(member.root.rglob("*.partial-*"))


def test_another_clusters_kubeconfig_is_left_alone(member: Member) -> None:
    other = make_authority()
    text = kubeconfig(other, *make_leaf(other, "me"))
    member.path("other.conf").write_bytes(text)
    member.path("program.conf").write_text("level = 3\n")
    member.begin()
    go(member, "trust")
    assert member.path("other.conf").read_bytes() == text


@pytest.mark.parametrize("authority", ["etcd", "front-proxy"])
def test_the_other_authorities_rotate_the_same_way(member: Member, authority: str) -> None:
    new = member.begin(authority)
    kept = layout.AUTHORITIES[authority]
    for position in ("trust", "swap", "new"):
        go(member, position)
    assert certificates.parse(member.path(f"pki/{kept.stem}.crt").read_bytes(), "") == [new.certificate]
    assert all(certificates.is_issued_by(member.leaf(leaf), new.certificate) for leaf in kept.leaves)
    assert certificates.is_issued_by(member.leaf("apiserver"), member.authorities["kubernetes"].certificate)


def test_a_static_pod_keeps_what_it_is_and_gets_a_new_argument(member: Member) -> None:
    path = member.path("manifests/kube-controller-manager.yaml")
    before = yaml.safe_load(path.read_text())
    components.write_manifest(member.root, "kube-controller-manager", {"root-ca-file": "/other"})
    after = yaml.safe_load(path.read_text())
    assert after["metadata"]["annotations"][components.ANNOTATION]
    command = after["spec"]["containers"][0]["command"]
    assert "--root-ca-file=/other" in command and f"--cluster-signing-cert-file={USUAL}" in command
    del after["metadata"]["annotations"]
    after["spec"]["containers"][0]["command"] = before["spec"]["containers"][0]["command"]
    assert after == before


def test_what_is_due_is_renewed_without_kubeadm_too(member: Member) -> None:
    issuer = member.authorities["kubernetes"]
    store.write_pair(member.path("pki/apiserver"), *make_leaf(issuer, "kube-apiserver", days=3, names=("a",)))
    member.path("admin.conf").write_bytes(kubeconfig(issuer, *make_leaf(issuer, "admin", days=-1)))
    options = renewal.Options(kubeadm="no-such-program")
    done = renewal.renew(member.root, NOW, options, check=True)
    assert done.renewed == ("/etc/kubernetes/pki/apiserver.crt", "/etc/kubernetes/admin.conf")
    assert inventory.state(member.leaf("apiserver"), NOW, 30) == "due"
    assert renewal.renew(member.root, NOW, options) == done
    assert inventory.state(member.leaf("apiserver"), NOW, 30) == "ok"
    assert inventory.state(member.client("admin.conf"), NOW, 30) == "ok"
    assert renewal.renew(member.root, NOW, options).renewed == ()


def test_without_the_authoritys_key_nothing_is_renewed_and_it_is_said(member: Member) -> None:
    issuer = member.authorities["etcd"]
    store.write_pair(member.path("pki/etcd/peer"), *make_leaf(issuer, "peer", days=3))
    member.path("pki/etcd/ca.key").unlink()
    done = renewal.renew(member.root, NOW, renewal.Options(kubeadm="no-such-program"))
    assert done.renewed == () and "etcd/ca.key, is not on this host" in done.left[0]


def test_a_pair_is_written_whole_or_not_at_all(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    before = member.path("pki/apiserver.key").read_bytes()

    def fail(_path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "fsync_file", fail)
    with pytest.raises(OSError, match="No space"):
        store.write_pair(member.path("pki/apiserver"), *make_leaf(member.authorities["kubernetes"], "x"))
    assert member.path("pki/apiserver.key").read_bytes() == before
    assert not list(member.root.rglob(".*"))
