"""Read values of vLLM's options the way vLLM does."""

from __future__ import annotations

from typing import Any

# vLLM's human-readable numbers: small letters are powers of ten, capital ones powers of two.
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_DTYPES = {"half": "F16", "float16": "F16", "bfloat16": "BF16", "float": "F32", "float32": "F32"}


def whole(value: Any) -> int | None:
    """Return a number such as ``4096``, ``"4k"`` or ``"64M"``; None for what is no such number (``auto``, -1)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = str(value).strip()
    factor = _UNITS.get(text[-1:], 1)
    digits = text[:-1] if factor > 1 else text
    try:
        number = float(digits) if "." in digits else int(digits)
        return int(number * factor) if number >= 0 else None
    except (ValueError, OverflowError):
        return None


def fraction(value: Any) -> float | None:
    """Return a share above 0 and at most 1; None for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number <= 1 else None


def dtype(value: Any, stored: str) -> str:
    """Return the safetensors name of what vLLM serves in: option ``dtype`` for a model that is ``stored`` so.

    ``auto`` keeps half precisions and takes bfloat16 for a float32 model (config/model.py).
    """
    chosen = _DTYPES.get(value, "") if isinstance(value, str) else ""
    if chosen:
        return chosen
    return stored if stored in ("F16", "BF16") else "BF16"
