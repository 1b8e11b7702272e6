# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""The certificates of a host: what each is for, until when it counts, who renews it, and whether that is due."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ..kubernetes.errors import NodeError
from . import certificates, kubeconfigs, layout

with suppress(ImportError):  # libraries.missing() says so in words
    from cryptography import x509

#: Of a certificate that does not live long, the last third of its life is the time to renew it.
_LAST_PART = 3


@dataclass(frozen=True)
class Entry:
    """One certificate in one place. ``path`` is without the root.

    ``renewal`` says who renews it: kubeadm (which this collection runs), kubelet (by itself), collection, rotation (it
    is an authority), nobody. ``state`` is ok, due, expired, early (it does not count yet) or unreadable; an expired one
    has negative ``days_left``.
    """

    name: str
    path: str
    renewal: str
    state: str
    days_left: float | None = None
    expires: str = ""
    subject: str = ""
    issuer: str = ""
    names: tuple[str, ...] = ()
    authority: bool = False
    trouble: str = ""

    def row(self) -> dict[str, Any]:
        """Return it as a plain dict."""
        return {**asdict(self), "names": list(self.names)}


def state(certificate: x509.Certificate, now: datetime, days: float) -> str:
    """Return ok, due, expired or early: due within ``days`` of its end, and in the last third of its life."""
    first, last = certificates.not_before(certificate), certificates.not_after(certificate)
    if now >= last:
        return "expired"
    if now < first:
        return "early"
    return "due" if last - now < min(timedelta(days=days), (last - first) / _LAST_PART) else "ok"


def of_host(root: Path, now: datetime, days: float, extra: Sequence[str] = ()) -> list[Entry]:
    """Return all certificates of the host at ``root``: kubeadm's, the kubelet's, and the files named in ``extra``.

    What cannot be read is an entry that says so.
    """
    found: list[Entry] = []
    for path, renewal in _files(root, extra):
        relative = str(path.relative_to(root))
        try:
            content = path.read_bytes()
            if path.suffix == ".conf" or path.name == "config":
                found += _kubeconfig(content, relative, renewal, now, days)
            else:
                found += _pem(content, relative, renewal, now, days)
        except NodeError as error:
            found.append(Entry(path.name, f"/{relative}", renewal, "unreadable", trouble=str(error)))
        except OSError as error:
            found.append(Entry(path.name, f"/{relative}", renewal, "unreadable", trouble=str(error.strerror)))
    return found


def _files(root: Path, extra: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield the files that hold certificates, and who renews them."""
    pki = root / layout.PKI
    authorities = {f"{authority.stem}.crt" for authority in layout.AUTHORITIES.values()}
    for path in sorted(pki.rglob("*.crt")):
        relative = str(path.relative_to(pki))
        # A rotation's own files are neither served nor trusted from there.
        if not path.is_relative_to(root / layout.ROTATION):
            renewal = (
                "rotation" if relative in authorities else "kubeadm" if layout.renewal_name(relative) else "nobody"
            )
            yield path, renewal
    for path in sorted((root / layout.KUBERNETES).glob("*.conf")):
        yield path, "kubeadm" if layout.renewal_name(path.name) else "nobody"
    kubelet = root / layout.KUBELET_PKI
    for name in ("kubelet-client-current.pem", "kubelet-server-current.pem", "kubelet.crt"):
        if (kubelet / name).exists():
            yield kubelet / name, "kubelet"
    for name in layout.COPIES:
        if (root / name).is_file():
            yield root / name, "collection"
    for name in extra:
        path = root / name.lstrip("/")
        if path.is_file():
            yield path, "collection"


def _kubeconfig(content: bytes, relative: str, renewal: str, now: datetime, days: float) -> Iterator[Entry]:
    document = kubeconfigs.load(content, f"/{relative}")
    name = Path(relative).name if not relative.endswith("/config") else relative.rpartition("/")[2]
    client = kubeconfigs.client(document, f"/{relative}")
    if isinstance(client, bytes):
        found = certificates.parse(client, f"/{relative}")[0]
        yield _entry(found, name, relative, renewal, now, days)
    authorities = kubeconfigs.authorities(document, f"/{relative}")
    if isinstance(authorities, bytes):
        for each in certificates.parse(authorities, f"/{relative}"):
            yield _entry(each, f"{name} (authority)", relative, "rotation", now, days)


def _pem(content: bytes, relative: str, renewal: str, now: datetime, days: float) -> Iterator[Entry]:
    name = relative.removeprefix(f"{layout.PKI}/").removeprefix(f"{layout.KUBELET_PKI}/")
    name = name.removesuffix(".crt").removesuffix(".pem")
    found = certificates.parse(content, f"/{relative}")
    # Several authorities in one file are all believed; of a chain, the first is whose it is.
    for each in found if certificates.is_authority(found[0]) else found[:1]:
        yield _entry(each, name, relative, renewal, now, days)


def _entry(  # noqa: PLR0917 -- the parts of one line
    found: x509.Certificate, name: str, relative: str, renewal: str, now: datetime, days: float
) -> Entry:
    last = certificates.not_after(found)
    return Entry(
        name,
        f"/{relative}",
        renewal,
        state(found, now, days),
        days_left=round((last - now) / timedelta(days=1), 2),
        expires=last.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        subject=found.subject.rfc4514_string(),
        issuer=found.issuer.rfc4514_string(),
        names=_names(found),
        authority=certificates.is_authority(found),
    )


def _names(found: x509.Certificate) -> tuple[str, ...]:
    try:
        value = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(getattr(each, "value", each)) for each in value)
