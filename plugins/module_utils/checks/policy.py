# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a site asks of its hosts. Every key has a default, so that an empty policy is a usable one."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field, fields
from typing import Any

_BDF = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_VENDOR = re.compile(r"[0-9a-f]{4}")
_DEVICE = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
_CLASS = re.compile(r"[0-9a-f]{2}([0-9a-f]{2}){0,2}")
_WORD = re.compile(r"[A-Za-z0-9@._+-]+")


class PolicyError(Exception):
    """A policy that cannot be used; str() is one line for a person."""


def _about(meaning: str, allowed: Any = None) -> dict[str, Any]:
    """Return what a key carries: its meaning, and what it allows (choices, or a pattern of list elements)."""
    return {"meaning": meaning, "allowed": allowed}


@dataclass(frozen=True)
class Policy:
    """Requirements and thresholds; lists are tuples. Sizes are GiB, sizes of hugepages KiB."""

    accelerator_vendors: tuple[str, ...] = field(
        default=("10de",), metadata=_about("PCI vendor ids whose devices are accelerators", _VENDOR)
    )
    accelerator_classes: tuple[str, ...] = field(
        default=("0300", "0302", "0380", "1200"),
        metadata=_about("PCI classes, as hexadecimal prefixes, that an accelerator may have", _CLASS),
    )
    accelerator_ids: tuple[str, ...] = field(
        default=(), metadata=_about("further accelerators as `vendor:device`, of whatever class", _DEVICE)
    )
    accelerator_except: tuple[str, ...] = field(
        default=(), metadata=_about("PCI addresses that stay with the host", _BDF)
    )
    accelerator_count: int = field(default=0, metadata=_about("how many accelerators the host must have at least"))
    passthrough: str = field(
        default="auto",
        metadata=_about(
            "whether devices are handed to virtual machines; `auto`: when there are accelerators, or some must be",
            ("auto", "required", "off"),
        ),
    )
    kvm: str = field(
        default="required",
        metadata=_about(
            "`preferred` turns missing hardware virtualization from FAIL into WARN", ("required", "preferred")
        ),
    )
    nested: bool = field(
        default=False, metadata=_about("whether guests must be able to run virtual machines themselves")
    )
    minimum_cpus: int = field(default=4, metadata=_about("logical CPUs"))
    minimum_memory_gib: int = field(default=16, metadata=_about("memory of the whole host, GiB"))
    hugepages_gib: int = field(
        default=0, metadata=_about("memory that must be set aside as hugepages, GiB; 0: none is required")
    )
    hugepage_size_kib: int = field(default=0, metadata=_about("the size those hugepages must have, KiB; 0: any"))
    image_directory: str = field(
        default="/var/lib/vllmd", metadata=_about("where images and runtimes lie; it need not exist yet")
    )
    minimum_image_gib: int = field(default=20, metadata=_about("free space there, GiB"))
    runtime_user: str = field(default="vllmd", metadata=_about("the user that virtual machines run as"))
    vmms: tuple[str, ...] = field(
        default=("qemu", "cloud-hypervisor"),
        metadata=_about("virtual machine monitors of which one must be installed", _WORD),
    )
    packages: tuple[str, ...] = field(
        default=(), metadata=_about("further Debian packages that must be installed", _WORD)
    )
    confidential: str = field(
        default="off", metadata=_about("confidential computing that must work", ("off", "any", "sev-snp", "tdx"))
    )
    secure_boot: bool = field(default=False, metadata=_about("whether Secure Boot must be on"))
    strict: bool = field(default=False, metadata=_about("whether WARN and RISK make the exit status 1"))
    accept: tuple[str, ...] = field(
        default=(), metadata=_about("ids of checks whose FAIL, RISK or WARN the site accepts; they become INFO", _WORD)
    )


def _value(item: Any, given: Any) -> Any:
    """Return ``given`` as the field's type. Raises PolicyError."""
    default, allowed = item.default, item.metadata["allowed"]
    if isinstance(default, tuple):
        if not isinstance(given, (list, tuple)) or not all(isinstance(value, str) for value in given):
            raise PolicyError(f"policy key {item.name}: found {given!r}; a list of strings is wanted")
        values = tuple(value if allowed is _WORD else value.lower() for value in given)
        for value in values:
            if not allowed.fullmatch(value):
                raise PolicyError(f"policy key {item.name}: found {value!r}; each element must match {allowed.pattern}")
        return values
    if type(given) is not type(default):
        names = {bool: "true or false", int: "a whole number", str: "a string"}
        raise PolicyError(f"policy key {item.name}: found {given!r}; {names[type(default)]} is wanted")
    if isinstance(default, int) and given < 0:
        raise PolicyError(f"policy key {item.name}: found {given}; zero or more is wanted")
    if isinstance(allowed, tuple) and given not in allowed:
        raise PolicyError(f"policy key {item.name}: found {given!r}; allowed: {', '.join(allowed)}")
    return given


def make_policy(given: dict[str, Any]) -> Policy:
    """Return the policy with ``given`` over the defaults. Raises PolicyError naming the first wrong key."""
    known = {item.name: item for item in fields(Policy)}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; allowed: {', '.join(known)}"
            raise PolicyError(f"policy key {name}: unknown{hint}")
    return Policy(**{name: _value(known[name], value) for name, value in given.items()})


def as_dict(policy: Policy) -> dict[str, Any]:
    """Return the policy as plain data."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in policy.__dict__.items()}
