# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A playbook's events as lines of JSON in a file, for a program that shows progress and keeps the whole log."""

from __future__ import annotations

DOCUMENTATION = r"""
name: events
type: notification
short_description: A playbook's events as lines of JSON
version_added: "0.1.0"
author: vllmd.platform maintainers (@vllmd)
description:
  - Appends one JSON object for each play, task and result to a file while the playbook runs, and at its end what
    M(ansible.builtin.set_stats) published.
  - Results of tasks with C(no_log) come censored, as everywhere.
  - Without O(path) it does nothing.
options:
  path:
    description: The file. It is made readable for its owner only.
    type: path
    default: ""
    ini:
      - section: callback_events
        key: path
    env:
      - name: VLLMD_EVENTS_PATH
"""

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):  # type: ignore[misc]  # ansible-core ships no types
    """Writes what happens, as it happens."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "vllmd.platform.events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._file: int | None = None

    def set_options(self, task_keys: Any = None, var_options: Any = None, direct: Any = None) -> None:
        """Open the file. Raises OSError."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        path = str(self.get_option("path") or "")
        if path and self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(Path(path), flags, 0o600)

    def _write(self, event: str, **fields: Any) -> None:
        if self._file is None:
            return
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields}, default=_plain)
        os.write(self._file, line.encode("utf-8", "surrogateescape") + b"\n")

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Say how many plays there are."""
        self._write("start", plays=len(playbook.get_plays()))

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Name the play."""
        self._write("play", name=play.get_name().strip(), check=bool(play.check_mode))

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Name the task."""
        self._write("task", name=_task_name(task))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Name the handler."""
        self._write("task", name=_task_name(task))

    def v2_runner_on_ok(self, result: Any) -> None:
        """Tell what a task returned."""
        self._result("ok", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Tell that a task was left out."""
        self._result("skipped", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Tell why a task failed."""
        self._result("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Tell why a host could not be reached."""
        self._result("unreachable", result)

    def _result(self, status: str, result: Any) -> None:
        self._write(
            "result",
            status=status,
            host=result.host.get_name(),
            task=_task_name(result.task),
            action=result.task.action,
            result=result.result,
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Tell the sums, and what the playbook published."""
        self._write(
            "stats", hosts={host: stats.summarize(host) for host in sorted(stats.processed)}, published=stats.custom
        )


def _task_name(task: Any) -> str:
    """Return the task's name without its role's."""
    return str(task.get_name().strip().split(" : ", 1)[-1])


def _plain(value: Any) -> Any:
    """Return what JSON has no word for as something that it has."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return list(value)
    return str(value)
