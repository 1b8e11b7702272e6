# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""When a certificate ends, read without a library for certificates, which hosts have none of."""

from __future__ import annotations

import base64
import binascii
import re
from datetime import UTC, datetime

from ..kubernetes.pins import element
from .errors import KeepingError

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----\s*(.*?)-----END CERTIFICATE-----", re.DOTALL)
_VERSION, _UTC_TIME = 0xA0, 0x17
#: serialNumber, signature and issuer stand before it (RFC 5280, section 4.1).
_BEFORE_VALIDITY = 3


def ends(pem: str) -> float:
    """Return when the first certificate of a PEM text ends, in seconds since 1970. Raises KeepingError."""
    match = _PEM.search(pem)
    try:
        if match is None:
            raise ValueError("no certificate")
        der = base64.b64decode("".join(match[1].split()), validate=True)
        at = element(der, element(der, 0)[1])[1]
        for _field in range(_BEFORE_VALIDITY + (der[at] == _VERSION)):
            at = element(der, at)[2]
        _tag, start, _end = element(der, at)
        tag, start, end = element(der, element(der, start)[2])
        # RFC 5280, 4.1.2.5: UTCTime until 2049, GeneralizedTime from 2050 on, both in UTC and to the second.
        text = der[start:end].decode("ascii")
        if tag == _UTC_TIME:
            text = ("20" if int(text[:2]) < 50 else "19") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (ValueError, IndexError, binascii.Error):
        raise KeepingError("a certificate cannot be read; it is no PEM of an X.509 certificate") from None
