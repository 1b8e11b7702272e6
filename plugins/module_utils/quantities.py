# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Kubernetes resource quantities as whole bytes, MiB and CPUs, and sizes as a person reads them.

The grammar is Kubernetes' (apimachinery, ``resource.Quantity``): a decimal number with a binary suffix (``Gi``), a
decimal suffix (``G``, ``m``) or an exponent (``e9``). Fractions are rounded up, as Kubernetes does. Sizes in
thousandths of a byte are refused, although the grammar knows them: who writes ``400m`` means ``400M``.
"""

from __future__ import annotations

import re
from decimal import Decimal

MIB = 1024 * 1024
MILLIS = 1000

_SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}
_QUANTITY = re.compile(
    r"([+-]?)([0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]{1,2})|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)?)", re.ASCII
)
#: Kubernetes' own ceiling; nothing that a host offers comes near it.
LARGEST_BYTES = 2**63 - 1
#: A quantity has few characters; a longer text may be megabytes of digits, which are never converted.
_LONGEST = 40
_BYTES = "a number of bytes such as 48Gi, 512Mi or 16G"
_CPUS = "a number of CPUs such as 4, 0.5 or 500m"


class QuantityError(ValueError):
    """The text is no quantity; the message says what it may be."""


def parse_bytes(value: str | float) -> int:
    """Return ``value`` (``"48Gi"``, ``"16G"``, ``1048576``) in bytes, a fraction of a byte rounded up.

    Raises QuantityError for anything else, one line that says what is allowed.
    """
    exact, suffix = _parse(value, _BYTES)
    if suffix in ("m", "u", "n"):
        near = f"; did you mean {str(value)[:-1]}Mi?" if suffix == "m" else ""
        raise QuantityError(f"{str(value)!r} counts in fractions of a byte; allowed: {_BYTES}{near}")
    size = _ceiling(exact)
    if size > LARGEST_BYTES:
        raise QuantityError(f"{str(value)!r} is larger than 2^63-1 bytes; allowed: at most {LARGEST_BYTES} bytes")
    return size


def parse_millis(value: str | float) -> int:
    """Return ``value`` CPUs (``4``, ``"500m"``, ``0.5``) in thousandths of a CPU, a smaller fraction rounded up.

    Raises QuantityError for anything else, one line that says what is allowed.
    """
    exact, _suffix = _parse(value, _CPUS)
    return _ceiling(exact * MILLIS)


def _parse(value: str | float, allowed: str) -> tuple[Decimal, str]:
    """Return the exact number, not negative, and the suffix."""
    text = str(value) if not isinstance(value, int) or abs(value) <= LARGEST_BYTES else "a number above 2^63-1"
    known = isinstance(value, (str, int, float)) and not isinstance(value, bool)
    match = _QUANTITY.fullmatch(text) if known and len(text) <= _LONGEST else None
    if match is None or (match[1] == "-" and Decimal(match[2])):
        raise QuantityError(f"{text[:_LONGEST]!r} is no quantity; allowed: {allowed}")
    _sign, number, exponent, suffix = match.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""]), suffix or ""


def _ceiling(exact: Decimal) -> int:
    return int(exact) + (exact != int(exact))


def to_cpus(millis: int) -> int:
    """Return thousandths of a CPU in CPUs, a started CPU counted whole."""
    return -(-millis // MILLIS)


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
