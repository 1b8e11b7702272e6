# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host of the control plane on its way through a rotation.

Each step makes what the position wants of whatever it finds, so one that was interrupted is simply run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from .. import atomic
from ..kubernetes.errors import NodeError
from . import balancer, certificates, clients, components, kubeconfigs, layout, rotation, store

with suppress(ImportError):  # libraries.missing() says so in words
    from cryptography import x509

_MANAGER, _SIGNING = "kube-controller-manager", "cluster-signing-cert-file"
#: An API server looks at its files once a minute at the latest.
_RELOAD_SECONDS = 150


def position(root: Path, authority: layout.Authority, old: x509.Certificate, new: x509.Certificate) -> str:
    """Return how far a host of the control plane is of which nothing was kept, such as one that joined meanwhile.

    Raises NodeError, OSError.
    """
    path = root / layout.PKI / f"{authority.stem}.crt"
    found = certificates.parse(path.read_bytes(), str(path))
    pins, first = {certificates.pin(each) for each in found}, certificates.pin(found[0])
    return rotation.derived(pins, {first}, certificates.pin(old), certificates.pin(new))


@dataclass(frozen=True)
class Options:
    """``kubeconfigs`` are files beside kubeadm's own that have an authority's certificate, ``units`` their programs."""

    kubeconfigs: Sequence[str] = ()
    units: Sequence[str] = ()
    timeout_seconds: float = 180


def go(under_way: store.Rotation, position: str, options: Options, changes: store.Changes) -> None:
    """Bring the host to a position and keep that it is there. Raises NodeError, OSError."""
    if not changes.check:
        under_way.leaves_for(position)
    authority = layout.AUTHORITIES[under_way.record.authority]
    issuer = under_way.issuer(rotation.signer(position))
    signing = _signing_file(under_way, position, changes) if authority.name == "kubernetes" else ""
    _write_authority(under_way, position, authority, changes)
    if authority.name == "kubernetes":
        for path in _kubeconfigs(under_way.root, options):
            _write_kubeconfig(under_way, position, path, issuer, changes)
    for leaf in authority.leaves:
        stem = under_way.root / layout.PKI / leaf
        if not Path(f"{stem}.crt").exists():
            continue  # such as those of an etcd that is elsewhere
        found = certificates.parse(Path(f"{stem}.crt").read_bytes(), f"/{layout.PKI}/{leaf}.crt")[0]
        if not certificates.is_issued_by(found, issuer.certificate) and changes.will(f"reissue {leaf}"):
            store.write_pair(stem, *certificates.reissue(found, issuer, datetime.now(UTC)))
    if signing and not changes.check:
        components.restart(under_way.root, _MANAGER, options.timeout_seconds, {_SIGNING: signing})
    restarted = components.restart_stale(under_way.root, options.timeout_seconds, check=changes.check)
    restarted += components.restart_units(under_way.root, options.units, options.kubeconfigs, check=changes.check)
    changes.lines.extend(f"restart {name}" for name in restarted)
    changes.lines.extend(f"reload {name}" for name in balancer.reload_stale(under_way.root, check=changes.check))
    if not changes.check:
        settle(under_way, position)
        under_way.reached(position)


def settle(under_way: store.Rotation, position: str) -> None:
    """Wait until the host's API server does what its files say. Raises NodeError."""
    for process in components.processes(under_way.root, ["kube-apiserver"]):
        address = components.api_address(process)
        if under_way.record.authority == "kubernetes":
            for each in rotation.believed(position):
                components.wait(
                    partial(clients.accepts, address, under_way.issuer(each)),
                    f"the API server at {address[0]}:{address[1]} to believe the {each} authority",
                    _RELOAD_SECONDS,
                )
        serves_its_file(under_way.root, process, address)


def serves_its_file(root: Path, process: components.Process, address: tuple[str, int]) -> None:
    """Wait until an API server shows the certificate that its file has. Raises NodeError, OSError."""
    path = process.arguments.get("tls-cert-file", "")
    if not path:
        return
    on_disk = certificates.parse((root / path.lstrip("/")).read_bytes(), path)[0]
    components.wait(
        lambda: _is_served(address, on_disk),
        f"the API server at {address[0]}:{address[1]} to show the certificate in {path}",
        _RELOAD_SECONDS,
    )


def _is_served(address: tuple[str, int], wanted: x509.Certificate) -> bool:
    shown = components.served(*address)
    return bool(shown) and x509.load_der_x509_certificate(shown) == wanted


def _signing_file(under_way: store.Rotation, position: str, changes: store.Changes) -> str:
    """Return the file whose authority the controller manager signs with, empty when it does already.

    It cannot sign with a file that holds two, as its usual one does meanwhile.
    """
    path = f"/{layout.PKI}/ca.crt"
    if len(rotation.believed(position)) > 1:
        path = f"/{layout.ROTATION}/signer.crt"
        wanted = certificates.pem([under_way.certificate(rotation.signer(position))])
        file = under_way.root / path.lstrip("/")
        if not changes.check and (not file.exists() or file.read_bytes() != wanted):
            atomic.write_file(file, wanted, 0o600)
    now = components.manifest_argument(under_way.root, _MANAGER, _SIGNING)
    if not now or now == path:
        return ""
    changes.lines.append(f"{_MANAGER} signs with {path}")
    return path


def _write_authority(
    under_way: store.Rotation, position: str, authority: layout.Authority, changes: store.Changes
) -> None:
    stem = under_way.root / layout.PKI / authority.stem
    believed, signer = under_way.believed(position), under_way.issuer(rotation.signer(position))
    path, key_path = Path(f"{stem}.crt"), Path(f"{stem}.key")
    if path.read_bytes() != believed and changes.will(
        f"{authority.stem}.crt holds {' and '.join(rotation.believed(position))}"
    ):
        store.rewrite(path, believed)
    key = certificates.key_pem(signer.key)
    if certificates.key_pem(certificates.parse_key(key_path.read_bytes(), str(key_path))) != key and changes.will(
        f"{authority.stem}.key is the {rotation.signer(position)} one"
    ):
        store.rewrite(key_path, key)


def _kubeconfigs(root: Path, options: Options) -> Iterator[Path]:
    for path in sorted((root / layout.KUBERNETES).glob("*.conf")):
        if path.name not in ("bootstrap-kubelet.conf", "kubelet.conf"):
            yield path
    for name in (*layout.COPIES, *options.kubeconfigs):
        path = root / name.lstrip("/")
        if path.is_file():
            yield path


def _write_kubeconfig(
    under_way: store.Rotation, position: str, path: Path, issuer: certificates.Issuer, changes: store.Changes
) -> None:
    """Let a kubeconfig believe what the position wants, and show what its signer issued."""
    what = f"/{path.relative_to(under_way.root)}"
    try:
        before = kubeconfigs.load(path.read_bytes(), what)
        authorities = kubeconfigs.authorities(before, what)
        if isinstance(authorities, str):
            return  # it names a file, which is written on its own
        pins = {certificates.pin(each) for each in certificates.parse(authorities, what)}
    except NodeError:
        return  # no kubeconfig, such as a program's own configuration
    if not pins & {under_way.record.old, under_way.record.new}:
        return  # of another cluster
    after = kubeconfigs.with_authorities(before, under_way.believed(position))
    said = [] if after == before else ["believes " + " and ".join(rotation.believed(position))]
    client = kubeconfigs.client(before, what)
    if isinstance(client, bytes) and client:
        found = certificates.parse(client, what)[0]
        if not certificates.is_issued_by(found, issuer.certificate):
            certificate, key = certificates.reissue(found, issuer, datetime.now(UTC))
            after = kubeconfigs.with_client(after, certificates.pem([certificate]), certificates.key_pem(key))
            said.append("is reissued")
    if said and changes.will(f"{what} {', '.join(said)}"):
        store.rewrite(path, kubeconfigs.dump(after))
