"""Sizes and switches as Cloud Hypervisor's command line writes them."""

from vllmd_hypervisor.errors import ValueProblem

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_FACTORS = {"K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}
_MAX_DIGITS = 20


def parse_size(text: str) -> int:
    """Return the bytes of `4096`, `512M`, `16G` or `2T` (powers of 1024); ValueProblem says what is wrong."""
    digits, factor = text, 1
    if text[-1:] in _FACTORS:
        digits, factor = text[:-1], _FACTORS[text[-1]]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > _MAX_DIGITS:
        raise ValueProblem(f"{text!r} is not a size; write a whole number with K, M, G or T, for example 16G")
    return int(digits) * factor


def format_size(size: int) -> str:
    """Write bytes in the largest unit that keeps the number whole: 17179869184 -> `16G`."""
    for suffix in ("T", "G", "M", "K"):
        if size and size % _FACTORS[suffix] == 0:
            return f"{size // _FACTORS[suffix]}{suffix}"
    return f"{size} bytes"


def about(size: int) -> str:
    """Write bytes for a person, in GiB or MiB with one decimal."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.1f} MiB"


def parse_switch(text: str) -> bool:
    """Return the truth of `on` or `off`."""
    if text not in ("on", "off"):
        raise ValueProblem(f"{text!r} is neither on nor off")
    return text == "on"


def parse_whole_number(text: str, low: int, high: int) -> int:
    """Return the integer in low..high that `text` spells in plain digits; ValueProblem otherwise."""
    body = text[1:] if text[:1] == "-" else text
    if not (body.isascii() and body.isdigit()):
        raise ValueProblem(f"must be a whole number from {low} to {high}, in digits")
    if len(body) > _MAX_DIGITS or not low <= int(text) <= high:
        raise ValueProblem(f"must be from {low} to {high}")
    return int(text)


def parse_pairs(text: str) -> list[tuple[str, str]]:
    """Split `a=1,b=2` into pairs, in order; keys may repeat, empty parts and parts without `=` are refused."""
    pairs = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if not part:
            raise ValueProblem("has an empty part between commas")
        if not equals or not key or not value:
            raise ValueProblem(f"{part!r} is not key=value")
        pairs.append((key, value))
    return pairs
