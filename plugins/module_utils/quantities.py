# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Kubernetes resource quantities as whole bytes and MiB, and sizes as a person reads them.

The grammar is Kubernetes' (apimachinery, ``resource.Quantity``): a decimal number with a binary suffix (``Gi``), a
decimal suffix (``G``) or an exponent (``e9``). Milli and smaller suffixes are refused: no resource here is measured
in fractions of a byte.
"""

from __future__ import annotations

import re
from decimal import Decimal

MIB = 1024 * 1024

_SUFFIXES = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(?:[eE]([0-9]{1,2})|(Ki|Mi|Gi|Ti|Pi|Ei|k|M|G|T|P|E)?)")
#: Kubernetes' own ceiling; nothing that a host offers comes near it.
LARGEST_BYTES = 2**63 - 1


class QuantityError(ValueError):
    """The text is no quantity; the message says what it may be."""


def parse_bytes(value: str | int) -> int:
    """Return ``value`` (``"48Gi"``, ``"16G"``, ``1048576``) in bytes, a fraction of a byte rounded up.

    Raises QuantityError for anything else, one line that says what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise QuantityError(f"{value!r} is no quantity; allowed: a number of bytes such as 48Gi, 512Mi or 16G")
    # A refused quantity may be megabytes of digits; it is never converted.
    text = str(value) if isinstance(value, str) or abs(value) <= LARGEST_BYTES else "a number above 2^63-1"
    match = _QUANTITY.fullmatch(text) if len(text) <= 40 else None
    if match is None:
        raise QuantityError(f"{text[:40]!r} is no quantity; allowed: a number of bytes such as 48Gi, 512Mi or 16G")
    number, exponent, suffix = match.groups()
    factor = Decimal(10) ** int(exponent) if exponent else Decimal(_SUFFIXES[suffix or ""])
    exact = Decimal(number) * factor
    size = int(exact) + (exact != int(exact))
    if size > LARGEST_BYTES:
        raise QuantityError(f"{text!r} is larger than 2^63-1 bytes; allowed: at most {LARGEST_BYTES} bytes")
    return size


def to_mib(size_bytes: int) -> int:
    """Return ``size_bytes`` in MiB, a started MiB counted whole."""
    return -(-size_bytes // MIB)


def human(size_bytes: int) -> str:
    """Return a size for a person: ``1.2 GB``, ``34 MB``, ``5 kB`` (powers of ten, as disks are sold)."""
    size = float(abs(size_bytes))
    sign = "-" if size_bytes < 0 else ""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= factor:
            digits = 1 if size < 10 * factor or unit == "GB" else 0
            return f"{sign}{size / factor:.{digits}f} {unit}"
    return f"{size_bytes} B"


def difference(size_bytes: int) -> str:
    """Return a difference of sizes with its sign: ``+1.2 GB``, or ``same``."""
    return "same" if size_bytes == 0 else f"{'+' if size_bytes > 0 else ''}{human(size_bytes)}"
