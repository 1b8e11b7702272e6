"""A kubelet goes through a rotation; the cluster that issues its certificates is played here, the rest is real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Done
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_certificates import (
    certificates,
    components,
    kubeconfigs,
    layout,
    node,
    rotation,
    store,
)

from .conftest import NOW, kubeconfig, make_authority, make_leaf


@dataclass
class Host:
    """A node, and the cluster that signs what its kubelet asks for."""

    root: Path
    old: certificates.Issuer
    new: certificates.Issuer
    signer: certificates.Issuer
    approves: bool = True
    restarts: int = 0
    issued: list[Path] = field(default_factory=list)

    def start_kubelet(self) -> None:
        """What a kubelet does when it starts: ask for what it lacks, and write its kubeconfig."""
        self.restarts += 1
        conf, asking = self.root / layout.KUBELET_CONF, self.root / layout.BOOTSTRAP_CONF
        if not conf.exists():
            document = kubeconfigs.load(asking.read_bytes(), "bootstrap")
            shown = kubeconfigs.client(document, "bootstrap")
            assert isinstance(shown, str)
            asked_with = certificates.parse((self.root / shown.lstrip("/")).read_bytes(), shown)[0]
            assert certificates.is_issued_by(asked_with, self.old.certificate) or certificates.is_issued_by(
                asked_with, self.new.certificate
            )
            path = f"/{layout.KUBELET_CLIENT}"
            conf.write_bytes(kubeconfigs.dump(kubeconfigs.with_client_files(document, path, path)))
        for name in (layout.KUBELET_CLIENT, layout.KUBELET_SERVER):
            if not (self.root / name).exists() and self.approves:
                self.issue(name)

    def issue(self, name: str) -> None:
        current = self.root / name
        file = current.with_name(f"{current.name}.{len(self.issued)}")
        certificate, key = make_leaf(self.signer, "system:node:gpu-01")
        file.write_bytes(certificates.pem([certificate]) + certificates.key_pem(key))
        self.issued.append(file)
        current.unlink(missing_ok=True)
        current.symlink_to(file)

    def shown(self, name: str) -> Any:
        return certificates.parse((self.root / name).read_bytes(), name)[0]

    def believed(self) -> list[str]:
        document = kubeconfigs.load((self.root / layout.KUBELET_CONF).read_bytes(), "kubelet.conf")
        pem = kubeconfigs.authorities(document, "kubelet.conf")
        assert isinstance(pem, bytes)
        assert pem == (self.root / layout.PKI / "ca.crt").read_bytes()
        return [certificates.pin(each) for each in certificates.parse(pem, "kubelet.conf")]

    def go(self, position: str, *, check: bool = False) -> list[str]:
        self.signer = self.old if rotation.signer(position) == "old" else self.new
        under_way = store.read(self.root, "kubelet")
        assert under_way is not None
        changes = store.Changes(check, [])
        node.go(under_way, position, 1, changes)
        return changes.lines


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    old = make_authority()
    new = certificates.successor(old.certificate, NOW)
    made = Host(tmp_path, old, new, old)
    (tmp_path / layout.KUBELET_PKI).mkdir(parents=True)
    (tmp_path / layout.PKI).mkdir(parents=True)
    (tmp_path / layout.PKI / "ca.crt").write_bytes(certificates.pem([old.certificate]))
    for name in (layout.KUBELET_CLIENT, layout.KUBELET_SERVER):
        made.issue(name)
    document = kubeconfigs.load(kubeconfig(old, *make_leaf(old, "x")), "kubelet.conf")
    path = f"/{layout.KUBELET_CLIENT}"
    (tmp_path / layout.KUBELET_CONF).write_bytes(kubeconfigs.dump(kubeconfigs.with_client_files(document, path, path)))
    pins = (certificates.pin(old.certificate), certificates.pin(new.certificate))
    pairs = [store.Pair(certificates.pem([each.certificate])) for each in (old, new)]
    record = rotation.Record("kubernetes", "old", *pins, 0.0)
    store.begin(tmp_path / layout.ROTATION, "kubelet", record, *pairs)

    def run(argv: list[str], **_options: Any) -> Done:
        assert argv == ["systemctl", "restart", "kubelet"]
        made.start_kubelet()
        return Done(0, "", "")

    monkeypatch.setattr(node, "run", run)
    monkeypatch.setattr(components, "answer", lambda *_where: 200)
    monkeypatch.setattr(node, "is_known", lambda root: (root / layout.KUBELET_CLIENT).exists())
    return made


def check_position(host: Host, position: str) -> None:
    under_way = store.read(host.root, "kubelet")
    assert under_way is not None and under_way.record.position == position
    signer = host.old if rotation.signer(position) == "old" else host.new
    assert certificates.is_issued_by(host.shown(layout.KUBELET_CLIENT), signer.certificate)
    assert certificates.is_issued_by(host.shown(layout.KUBELET_SERVER), signer.certificate)
    assert host.believed() == [certificates.pin(under_way.certificate(each)) for each in rotation.believed(position)]
    assert not (host.root / layout.BOOTSTRAP_CONF).exists()
    left = {path.name for path in (host.root / layout.ROTATION).iterdir()}
    assert left == {"kubelet.json", "old.crt", "new.crt"}, "something of a step stayed; no key is ever here"


@pytest.mark.parametrize("way", [("trust", "swap", "new"), ("trust", "swap", "trust", "old")])
def test_it_goes_along(host: Host, way: tuple[str, ...]) -> None:
    for position in way:
        before = host.restarts
        host.go(position)
        check_position(host, position)
        assert host.restarts == before + 1
        kubelet = node.read(host.root)
        assert kubelet is not None
        assert node.position(kubelet, host.old.certificate, host.new.certificate) == position


def test_a_dry_run_does_nothing(host: Host) -> None:
    before = {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()}
    assert host.go("trust", check=True) == [
        "/etc/kubernetes/pki/ca.crt holds old and new",
        "/etc/kubernetes/kubelet.conf believes old and new",
    ]
    assert {path: path.read_bytes() for path in host.root.rglob("*") if path.is_file()} == before


def test_what_nobody_approves_is_put_back_and_tried_again(host: Host) -> None:
    host.go("trust")
    host.approves = False
    with pytest.raises(NodeError, match="waited 1 s for the cluster to issue this node's client certificate"):
        host.go("swap")
    assert certificates.is_issued_by(host.shown(layout.KUBELET_CLIENT), host.old.certificate)
    assert certificates.is_issued_by(host.shown(layout.KUBELET_SERVER), host.old.certificate)
    assert host.believed()
    host.approves = True
    host.go("swap")
    check_position(host, "swap")


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """A function that lets the n-th change of a file from now on end the run, or, for none, lets all succeed again."""
    left: list[int] = []
    for name in ("replace", "unlink", "touch"):
        original = getattr(Path, name)

        def failing(self: Path, *given: Any, _original: Any = original, **options: Any) -> Any:
            if left:
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
            return _original(self, *given, **options)

        monkeypatch.setattr(Path, name, failing)

    def set_(number: int) -> None:
        left[:] = [number] if number else []

    yield set_
    set_(0)


@pytest.mark.parametrize("first", range(1, 24, 2))
def test_interrupted_at_any_change_it_goes_on(host: Host, interrupt: Callable[[int], None], first: int) -> None:
    for position in ("trust", "swap", "new"):
        interrupt(first)
        try:
            host.go(position)
        except KeyboardInterrupt:
            interrupt(0)
            host.go(position)
        interrupt(0)
        check_position(host, position)


@pytest.mark.parametrize("first", range(1, 24, 2))
def test_interrupted_at_any_change_it_goes_back(host: Host, interrupt: Callable[[int], None], first: int) -> None:
    host.go("trust")
    interrupt(first)
    try:
        host.go("swap")
    except KeyboardInterrupt:
        interrupt(0)
    interrupt(0)
    under_way = store.read(host.root, "kubelet")
    assert under_way is not None
    steps = rotation.next_positions({"gpu-01": under_way.record.positions}, "old")
    assert steps == ["trust", "old"] or (steps == ["old"] and first == 1)  # nothing at all was done then
    for position in steps:
        host.go(position)
    check_position(host, "old")


def test_a_host_without_a_kubelet_says_so(host: Host) -> None:
    (host.root / layout.KUBELET_CONF).unlink()
    assert node.read(host.root) is None
    with pytest.raises(NodeError, match="this host is no node any more"):
        host.go("trust")
