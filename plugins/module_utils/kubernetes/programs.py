# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Run kubeadm, kubectl and apt: their answer, or one line that says why there is none."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import NodeError


@dataclass(frozen=True)
class Done:
    """How a program ended: its status, its standard output, and both of its outputs."""

    status: int
    output: str
    said: str

    @property
    def last_line(self) -> str:
        """Return the last line that the program wrote, for a message."""
        lines = [" ".join(line.split()) for line in self.said.splitlines() if line.strip()]
        return lines[-1][:400] if lines else f"it ended with status {self.status}"


def run(
    argv: Sequence[str], *, stdin: str = "", timeout_seconds: float = 300, environment: Mapping[str, str] | None = None
) -> Done:
    """Run ``argv`` to its end, in the C locale, with ``environment`` over this process's own.

    Raises NodeError when the program is not there or does not end in time.
    """
    name = " ".join(argv[:2])
    try:
        done = subprocess.run(
            list(argv),
            check=False,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_seconds,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        )
    except FileNotFoundError:
        raise NodeError(f"{argv[0]} is not installed, or not where PATH looks") from None
    except subprocess.TimeoutExpired:
        raise NodeError(f"{name} did not end within {timeout_seconds:.0f} s") from None
    except OSError as error:
        raise NodeError(f"cannot run {argv[0]}: {error.strerror}") from None
    return Done(done.returncode, done.stdout, done.stdout + done.stderr)


@dataclass(frozen=True)
class Kubectl:
    """kubectl with the credentials of one file; every answer is checked."""

    program: str
    kubeconfig: str

    def run(self, *arguments: str, stdin: str = "", timeout_seconds: float = 120) -> Done:
        """Run kubectl with ``arguments``; the caller looks at the status. Raises NodeError."""
        return run(
            [self.program, "--kubeconfig", self.kubeconfig, *arguments], stdin=stdin, timeout_seconds=timeout_seconds
        )

    def must(self, what: str, *arguments: str, stdin: str = "", timeout_seconds: float = 120) -> str:
        """Return what kubectl wrote. Raises NodeError, which begins with ``what``, when it fails."""
        done = self.run(*arguments, stdin=stdin, timeout_seconds=timeout_seconds)
        if done.status != 0:
            raise NodeError(f"{what}: {done.last_line}")
        return done.output

    def node(self, name: str) -> dict[str, Any] | None:
        """Return the node ``name`` as the API has it, None when there is none. Raises NodeError."""
        done = self.run("get", "node", name, "--output", "json", "--request-timeout", "20s")
        if done.status == 0:
            found = json.loads(done.output)
            return found if isinstance(found, dict) else None
        if "NotFound" in done.said or "not found" in done.said:
            return None
        raise NodeError(f"cannot ask the cluster for node {name}: {done.last_line}")
