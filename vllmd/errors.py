# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What the client raises. Every message is one line: what, where, why."""

from __future__ import annotations

from dataclasses import dataclass


class VllmdError(Exception):
    """Whatever the client reports."""


class RequestRefusedError(VllmdError):
    """A server refused the request itself (HTTP 4xx); sending it again would not help."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status  #: the HTTP status


class UnavailableError(VllmdError):
    """No URL answered; ``attempts`` says what each try met, oldest first."""

    def __init__(self, message: str, attempts: list[tuple[str, str]]) -> None:
        super().__init__(message)
        self.attempts = attempts  #: pairs of URL and reason


class BrokenStreamError(VllmdError):
    """An answer broke off after its first part had been handed over; it can't be taken up again elsewhere."""


@dataclass(frozen=True)
class Failure:
    """One prompt of a batch that has no answer."""

    index: int  #: its place in the batch, from 0
    prompt: str
    error: VllmdError


class BatchError(VllmdError):
    """Some prompts of a batch failed. The answers of the others are in ``results``, None where one failed."""

    def __init__(self, results: list[str | None], failures: list[Failure]) -> None:
        first = failures[0]
        super().__init__(
            f"{len(failures)} of {len(results)} prompts failed, first number {first.index}: {first.error}; "
            "the other answers are in .results, the failures in .failures"
        )
        self.results = results
        self.failures = failures
