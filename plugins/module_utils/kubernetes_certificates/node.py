# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host with a kubelet on its way through a rotation of the cluster's authority.

The kubelet gets its certificates from the cluster, as when it joined: asked for with what it has, so its keys stay with
it, and whoever approves nodes approves this one.
"""

from __future__ import annotations

import shutil
import ssl
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import atomic
from ..kubernetes.errors import NodeError
from ..kubernetes.programs import run
from . import certificates, clients, components, kubeconfigs, layout, rotation, store

with suppress(ImportError):  # libraries.missing() says so in words
    import yaml
    from cryptography import x509

#: The kubelet's own health check (kubernetes.io, KubeletConfiguration, healthzPort).
_HEALTH = ("http", "127.0.0.1", 10248, "/healthz")
#: There while the kubelet has not started again with what was written for it.
_DUE = "kubelet-start-is-due"
_SAVED_CLIENT, _SAVED_SERVER, _SAVED_CONF = "kubelet-client.pem", "kubelet-server.link", "kubelet.conf"


@dataclass(frozen=True)
class Kubelet:
    """What a kubelet believes, and what it shows; a certificate that it has not is None."""

    root: Path
    client_ca: Path
    conf: Path
    client: x509.Certificate | None
    server: x509.Certificate | None


def read(root: Path) -> Kubelet | None:
    """Return the kubelet of the host at ``root``; None for a host that is no node. Raises NodeError, OSError."""
    conf = root / layout.KUBELET_CONF
    if not conf.exists() and not (root / layout.BOOTSTRAP_CONF).exists():
        return None
    try:
        given = yaml.safe_load((root / layout.KUBELET_CONFIG).read_bytes())
        client_ca = str(given["authentication"]["x509"]["clientCAFile"])
    except (OSError, yaml.YAMLError, KeyError, TypeError):
        client_ca = f"/{layout.PKI}/ca.crt"
    shown = []
    for name in (layout.KUBELET_CLIENT, layout.KUBELET_SERVER):
        path = root / name
        shown.append(certificates.parse(path.read_bytes(), f"/{name}")[0] if path.exists() else None)
    return Kubelet(root, root / client_ca.lstrip("/"), conf, shown[0], shown[1])


def position(kubelet: Kubelet, old: x509.Certificate, new: x509.Certificate) -> str:
    """Return how far a node is of which nothing was kept. Raises NodeError for one of another cluster."""
    believed = {certificates.pin(each) for each in _believed(kubelet)}
    signers = {
        certificates.pin(each)
        for each in (old, new)
        for shown in (kubelet.client, kubelet.server)
        if shown is not None and certificates.is_issued_by(shown, each)
    }
    return rotation.derived(believed, signers, certificates.pin(old), certificates.pin(new))


def go(under_way: store.Rotation, wanted: str, timeout_seconds: float, changes: store.Changes) -> None:
    """Bring the host's kubelet to a position and keep that it is there. Raises NodeError, OSError."""
    if not changes.check:
        under_way.leaves_for(wanted)
    kubelet = read(under_way.root)
    if kubelet is None:
        raise NodeError("there is no kubelet.conf; this host is no node any more, take it out of the inventory's group")
    believed = under_way.believed(wanted)
    if not kubelet.client_ca.exists() or kubelet.client_ca.read_bytes() != believed:
        shown = kubelet.client_ca.relative_to(kubelet.root)
        if changes.will(f"/{shown} holds {' and '.join(rotation.believed(wanted))}"):
            atomic.write_file(kubelet.client_ca, believed, 0o644)
    if kubelet.conf.exists():
        _believe(kubelet, under_way, wanted, changes)
    signer, others = under_way.certificate(rotation.signer(wanted)), (under_way.old, under_way.new)
    asks_client = kubelet.client is None or not certificates.is_issued_by(kubelet.client, signer)
    asks_server = (under_way.directory / _SAVED_SERVER).is_symlink() or (
        kubelet.server is not None
        and any(certificates.is_issued_by(kubelet.server, each) for each in others)
        and not certificates.is_issued_by(kubelet.server, signer)
    )
    asks_client = asks_client or (under_way.directory / _SAVED_CLIENT).exists()
    for asked, what in ((asks_client, "client"), (asks_server, "serving")):
        if asked:
            changes.lines.append(
                f"the kubelet asks for a {what} certificate of the {rotation.signer(wanted)} authority"
            )
    if changes.check:
        return
    if asks_client:
        _give_up_client(kubelet, under_way)
    if asks_server:
        _give_up_server(kubelet, under_way)
    if asks_client or asks_server or (under_way.directory / _DUE).exists():
        _restart(timeout_seconds)
    _await(kubelet, under_way, signer, asks_client, asks_server, timeout_seconds)
    for name in (_DUE, _SAVED_CLIENT, _SAVED_CONF, _SAVED_SERVER):
        (under_way.directory / name).unlink(missing_ok=True)
    under_way.reached(wanted)


def _believe(kubelet: Kubelet, under_way: store.Rotation, wanted: str, changes: store.Changes) -> None:
    before = kubeconfigs.load(kubelet.conf.read_bytes(), str(kubelet.conf))
    after = kubeconfigs.with_authorities(before, under_way.believed(wanted))
    if after != before and changes.will(f"/{layout.KUBELET_CONF} believes {' and '.join(rotation.believed(wanted))}"):
        (under_way.directory / _DUE).touch(mode=0o600)
        store.rewrite(kubelet.conf, kubeconfigs.dump(after))


def _give_up_client(kubelet: Kubelet, under_way: store.Rotation) -> None:
    """Let the kubelet ask for its client certificate with the one that it has, as a joining one does with its token."""
    saved = under_way.directory / _SAVED_CLIENT
    current = kubelet.root / layout.KUBELET_CLIENT
    if not saved.exists():
        document = kubeconfigs.load(kubelet.conf.read_bytes(), str(kubelet.conf))
        if not isinstance(kubeconfigs.client(document, str(kubelet.conf)), str):
            raise NodeError(
                f"{kubelet.conf} has its certificate inside, which the kubelet cannot renew; let it name "
                f"/{layout.KUBELET_CLIENT}"
            )
        shutil.copy2(kubelet.conf, under_way.directory / _SAVED_CONF)
        atomic.write_file(saved, current.read_bytes(), 0o600)
    document = kubeconfigs.load((under_way.directory / _SAVED_CONF).read_bytes(), _SAVED_CONF)
    position_pem = kubelet.client_ca.read_bytes()
    path = f"/{layout.ROTATION}/{_SAVED_CLIENT}"
    asking = kubeconfigs.with_client_files(kubeconfigs.with_authorities(document, position_pem), path, path)
    atomic.write_file(kubelet.root / layout.BOOTSTRAP_CONF, kubeconfigs.dump(asking), 0o600)
    kubelet.conf.unlink(missing_ok=True)
    current.unlink(missing_ok=True)


def _give_up_server(kubelet: Kubelet, under_way: store.Rotation) -> None:
    saved, current = under_way.directory / _SAVED_SERVER, kubelet.root / layout.KUBELET_SERVER
    if not saved.is_symlink():
        atomic.write_link(saved, str(current.readlink() if current.is_symlink() else current))
    current.unlink(missing_ok=True)


def _restart(timeout_seconds: float) -> None:
    done = run(["systemctl", "restart", "kubelet"], timeout_seconds=timeout_seconds)
    if done.status != 0:
        raise NodeError(f"the kubelet does not start again: {done.last_line}; see 'journalctl -u kubelet'")
    components.wait(
        lambda: components.answer(*_HEALTH) == 200, "the kubelet to be well after it started again", timeout_seconds
    )


def _await(  # noqa: PLR0917 -- a step and its surroundings
    kubelet: Kubelet,
    under_way: store.Rotation,
    signer: x509.Certificate,
    asks_client: bool,
    asks_server: bool,
    timeout_seconds: float,
) -> None:
    """Wait for what the kubelet asked for, and until the cluster knows it by that. Puts back what nobody approved."""
    root = kubelet.root
    try:
        if asks_client:
            what = "the cluster to issue this node's client certificate; does somebody approve what nodes ask for?"
            components.wait(lambda: _has(root / layout.KUBELET_CLIENT, signer), what, timeout_seconds)
            (root / layout.BOOTSTRAP_CONF).unlink(missing_ok=True)
            (under_way.directory / _SAVED_CLIENT).unlink(missing_ok=True)
        components.wait(
            lambda: is_known(root), "the API server to know this node by its client certificate", timeout_seconds
        )
        if asks_server:
            what = "the cluster to issue this node's serving certificate; does somebody approve what nodes ask for?"
            components.wait(lambda: _has(root / layout.KUBELET_SERVER, signer), what, timeout_seconds)
    except NodeError:
        _put_back(kubelet, under_way)
        raise


def _put_back(kubelet: Kubelet, under_way: store.Rotation) -> None:
    """Give the kubelet back what it had, so that it works on until the rotation goes on."""
    saved, link, conf = (under_way.directory / each for each in (_SAVED_CLIENT, _SAVED_SERVER, _SAVED_CONF))
    changed = False
    if saved.exists():
        atomic.write_file(kubelet.root / layout.KUBELET_CLIENT, saved.read_bytes(), 0o600)
        document = kubeconfigs.load(conf.read_bytes(), _SAVED_CONF)
        atomic.write_file(kubelet.conf, kubeconfigs.dump(document), 0o600)
        (kubelet.root / layout.BOOTSTRAP_CONF).unlink(missing_ok=True)
        saved.unlink()
        conf.unlink()
        changed = True
    if link.is_symlink():
        if not (kubelet.root / layout.KUBELET_SERVER).exists():
            atomic.write_link(kubelet.root / layout.KUBELET_SERVER, str(link.readlink()))
        link.unlink()
        changed = True
    if changed:
        run(["systemctl", "restart", "kubelet"], timeout_seconds=120)


def is_known(root: Path) -> bool:
    """Return whether the cluster answers the kubelet's own credentials with its Node."""
    try:
        document = kubeconfigs.load((root / layout.KUBELET_CONF).read_bytes(), layout.KUBELET_CONF)
        client = certificates.parse((root / layout.KUBELET_CLIENT).read_bytes(), layout.KUBELET_CLIENT)[0]
        return clients.ask(root, document, f"/api/v1/nodes/{_node_name(client)}", layout.KUBELET_CONF) == 200
    except (NodeError, OSError, ssl.SSLError):
        return False


def name(root: Path) -> str:
    """Return the name of this host's Node, from the certificate that the kubelet shows; empty without one."""
    kubelet = read(root)
    return _node_name(kubelet.client) if kubelet and kubelet.client else ""


def _node_name(client: x509.Certificate) -> str:
    found = client.subject.get_attributes_for_oid(x509.oid.NameOID.COMMON_NAME)
    return str(found[0].value).removeprefix("system:node:") if found else ""


def _has(path: Path, signer: x509.Certificate) -> bool:
    try:
        return certificates.is_issued_by(certificates.parse(path.read_bytes(), str(path))[0], signer)
    except (NodeError, OSError):
        return False


def _believed(kubelet: Kubelet) -> list[x509.Certificate]:
    """Return the authorities that a kubelet believes both as a server and as a client."""
    as_server = certificates.parse(kubelet.client_ca.read_bytes(), str(kubelet.client_ca))
    document = kubeconfigs.load(kubelet.conf.read_bytes(), str(kubelet.conf))
    given = kubeconfigs.authorities(document, str(kubelet.conf))
    if isinstance(given, str):
        given = (kubelet.root / given.lstrip("/")).read_bytes()
    pins = {certificates.pin(each) for each in certificates.parse(given, str(kubelet.conf))}
    return [each for each in as_server if certificates.pin(each) in pins]
