# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a check is, what it answers, and the one registry of all checks.

A check is a function over ``(host, policy)`` that returns one Outcome, or several (one for each device, say). The
decorator ``check`` registers it. Whatever the host could not tell (``None``) is a SKIP that says what could not be
read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Union

from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host

PASS, INFO, WARN, RISK, FAIL, SKIP = "PASS", "INFO", "WARN", "RISK", "FAIL", "SKIP"
# What a reader should see first.
STATUSES = (FAIL, RISK, WARN, SKIP, INFO, PASS)
MEANING = {
    FAIL: "a runtime cannot work here, or a boundary that the platform promises is missing",
    RISK: "it works, but a boundary is weaker than it should be",
    WARN: "it works, but slower or less reliably than this hardware can",
    SKIP: "could not be decided; the evidence says why",
    INFO: "worth knowing, nothing to do",
    PASS: "as it should be",
}


@dataclass(frozen=True)
class Outcome:
    """One answer of a check.

    ``evidence`` says what was found, with units. ``remedy`` is an exact command or file change, and may hold
    ``{subjects}``. ``subject`` is the device, node or file it is about; outcomes that differ only in it become one
    finding.
    """

    status: str
    evidence: str
    remedy: str = ""
    subject: str = ""


Examine = Callable[[Host, Policy], Union[Outcome, Iterable[Outcome]]]  # noqa: UP007  # | fails before Python 3.10


@dataclass(frozen=True)
class Check:
    """A check with everything a reader needs to judge its findings."""

    id: str
    subsystem: str
    title: str
    why: str
    reference: str
    examine: Examine


@dataclass(frozen=True)
class Finding:
    """One line of a report: a check's answer about ``subjects`` (empty: the host as a whole)."""

    id: str
    subsystem: str
    title: str
    status: str
    subjects: tuple[str, ...]
    evidence: str
    why: str
    remedy: str
    reference: str

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data, its fields by their names."""
        return {**self.__dict__, "subjects": list(self.subjects)}


REGISTRY: dict[str, Check] = {}


def check(name: str, subsystem: str, title: str, *, why: str, reference: str) -> Callable[[Examine], Examine]:
    """Register the decorated function as a check. ValueError for an id that is taken."""

    def register(examine: Examine) -> Examine:
        if name in REGISTRY:
            raise ValueError(f"check {name} is registered twice")
        REGISTRY[name] = Check(name, subsystem, title, why, reference, examine)
        return examine

    return register


def unknown(what: str) -> Outcome:
    """Return the outcome of a check whose input the host could not tell."""
    return Outcome(SKIP, f"{what} could not be read")
