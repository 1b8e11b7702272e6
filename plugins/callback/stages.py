# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Playbook output as a few named stages that show their durations and that they are alive."""

from __future__ import annotations

DOCUMENTATION = r"""
name: stages
type: stdout
short_description: Stages with names, durations and signs of life
version_added: "0.1.0"
author: vllmd.platform maintainers (@vllmd)
description:
  - Prints every play as a numbered stage, and of its tasks only what changed, was said or failed.
  - A task that takes longer than O(heartbeat) shows how long it has run and the newest line of the logs in
    O(progress_directory).
  - C(-v) shows unchanged tasks too; diffs, items and censored results come out as in the default callback.
extends_documentation_fragment:
  - default_callback
  - result_format_callback
options:
  heartbeat:
    description: Seconds between two signs of life of one task.
    type: float
    default: 10
    ini:
      - section: callback_stages
        key: heartbeat
    env:
      - name: VLLMD_STAGES_HEARTBEAT
  progress_directory:
    description: Directory on the controller whose newest log file tells what a long task is doing.
    type: path
    default: /var/log/vllmd
    ini:
      - section: callback_stages
        key: progress_directory
    env:
      - name: VLLMD_STAGES_PROGRESS_DIRECTORY
"""

import threading
import time
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.callback.default import CallbackModule as DefaultCallback

_WIDTH = 110  # columns of a log line that are shown
_TAIL_BYTES = 2000  # enough for one long line and its neighbours


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4 -> "0.4s", 75 -> "1m15s"."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def newest_line(directory: Path, since: float, role: str = "") -> str:
    """Return the last line of the log written to most recently after ``since`` (epoch seconds), or an empty string.

    Builds log to ``image-NAME.log`` beside the consoles: a ``role`` that builds or runs shows its own, not the other's.
    """
    builds = {"runtime_assembler": True, "hypervisor": False}.get(role.rpartition(".")[2])
    try:
        entries = [each for each in directory.glob("*.log") if builds in (None, each.name.startswith("image-"))]
        logs = [(entry.stat().st_mtime, entry) for entry in entries]
        modified, newest = max(logs, default=(0.0, directory))
        if modified < since:
            return ""
        with newest.open("rb") as log:
            log.seek(max(0, newest.stat().st_size - _TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    printable = "".join(char if char.isprintable() else " " for char in lines[-1]) if lines else ""
    return printable[:_WIDTH]


class CallbackModule(DefaultCallback):  # type: ignore[misc]  # ansible-core ships no types
    """The default callback, folded into stages."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "vllmd.platform.stages"

    def __init__(self) -> None:
        super().__init__()
        self._plays = 0
        self._stage = 0
        self._stage_started = 0.0
        self._stage_changed = 0
        self._stage_failed = False
        self._task_started = 0.0
        self._task_done: threading.Event | None = None

    # -- stages ---------------------------------------------------------------

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._plays = len(playbook.get_plays())

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._end_stage()
        self._play = play
        self._stage += 1
        self._stage_changed = 0
        self._stage_failed = False
        self._stage_started = time.monotonic()
        check = " (check mode: nothing is changed)" if play.check_mode else ""
        self._display.display(
            f"[{self._stage}/{self._plays}] {play.get_name().strip()}{check}", color=C.COLOR_HIGHLIGHT
        )

    def _end_stage(self) -> None:
        self._stop_heartbeat()
        if self._stage:
            unchanged = "nothing changed" if self._stage_failed else "nothing to change"
            what = f"{self._stage_changed} changed" if self._stage_changed else unchanged
            what = f"failed, {what}" if self._stage_failed else what
            self._display.display(f"      {what}, {duration(time.monotonic() - self._stage_started)}")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._end_stage()
        for host in sorted(stats.processed):
            summary = stats.summarize(host)
            color = C.COLOR_ERROR if summary["failures"] or summary["unreachable"] else C.COLOR_OK
            self._display.display(
                f"{host} : ok={summary['ok']} changed={summary['changed']} unreachable={summary['unreachable']} "
                f"failed={summary['failures']} skipped={summary['skipped']} rescued={summary['rescued']}",
                color=color,
            )

    # -- tasks ----------------------------------------------------------------

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._begin_task(task)

    def v2_playbook_on_cleanup_task_start(self, task: Any) -> None:
        self._begin_task(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._begin_task(task)

    def v2_playbook_on_include(self, included_file: Any) -> None:
        """Say nothing: a role's file structure is not the reader's business."""

    def v2_playbook_on_no_hosts_matched(self) -> None:
        self._display.display("      no host matches: nothing to do", color=C.COLOR_SKIP)

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """Say nothing: the heartbeat tells when a task takes long."""

    def _begin_task(self, task: Any) -> None:
        self._stop_heartbeat()
        self._task_started = time.monotonic()
        name = task.get_name().strip().split(" : ", 1)[-1]
        done = self._task_done = threading.Event()
        role = task._role.get_name() if task._role else ""
        threading.Thread(target=self._beat, args=(name, role, done), daemon=True).start()

    def _beat(self, name: str, role: str, done: threading.Event) -> None:
        since, started = time.time(), time.monotonic()
        directory = Path(str(self.get_option("progress_directory")))
        heartbeat = float(self.get_option("heartbeat"))
        while not done.wait(heartbeat):
            line = newest_line(directory, since, role)
            self._display.display(
                f"      {duration(time.monotonic() - started):>6}  {name}" + (f": {line}" if line else "")
            )

    def _stop_heartbeat(self) -> None:
        if self._task_done is not None:
            self._task_done.set()
            self._task_done = None

    # -- results --------------------------------------------------------------

    def v2_runner_on_ok(self, result: Any) -> None:
        self._stop_heartbeat()
        data = result.result
        task = result.task
        name = task.get_name().strip().split(" : ", 1)[-1]
        self._clean_results(data, task.action)
        self._handle_warnings_and_exception(result)
        if task.action in C._ACTION_DEBUG:
            if not task.loop:  # each item has been said
                for line in _message_lines(data.get("msg", "")):
                    self._display.display(f"      {line}")
            return
        if data.get("changed"):
            self._stage_changed += 1
            if not task.loop:
                took = duration(time.monotonic() - self._task_started)
                self._display.display(
                    f"      changed  {name}{self._host_suffix(result)}, {took}", color=C.COLOR_CHANGED
                )
        elif self._display.verbosity > 0 and not task.loop:
            self._display.display(f"      ok       {name}{self._host_suffix(result)}", color=C.COLOR_OK)
        if self._display.verbosity > 1:
            self._display.display(self._dump_results(data))

    def v2_runner_item_on_ok(self, result: Any) -> None:
        data = result.result
        if result.task.action in C._ACTION_DEBUG:
            for line in _message_lines(data.get("msg", "")):
                self._display.display(f"      {line}")
        elif data.get("changed"):
            name = result.task.get_name().strip().split(" : ", 1)[-1]
            self._display.display(
                f"      changed  {name}{self._host_suffix(result)}: {self._get_item_label(data)}", color=C.COLOR_CHANGED
            )

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._stop_heartbeat()

    def v2_runner_item_on_skipped(self, result: Any) -> None:
        """Say nothing."""

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        self._stop_heartbeat()
        self._report_failure(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._report_failure(result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._stop_heartbeat()
        self._report_failure(result)

    def _report_failure(self, result: Any) -> None:
        data = result.result
        if "results" in data and result.task.loop:
            return  # each item has been reported
        self._stage_failed = self._stage_failed or not result.task.ignore_errors
        if self._display.verbosity > 0:
            self._handle_warnings_and_exception(result)
        name = result.task.get_name().strip().split(" : ", 1)[-1]
        message = str(data.get("msg") or "no reason given").strip()
        said = str(data.get("stderr") or data.get("stdout") or "").strip().splitlines()
        if said:  # a command's own last words say more than that it failed
            message = f"{message}: {said[-1].strip()}"
        item = f" ({self._get_item_label(data)})" if "ansible_loop_var" in data else ""
        self._display.display(
            f"      FAILED   {name}{item}{self._host_suffix(result)}: {message}", color=C.COLOR_ERROR, stderr=True
        )
        if self._display.verbosity > 0:
            self._display.display(self._dump_results(data), stderr=True)

    def v2_runner_retry(self, result: Any) -> None:
        """Say nothing: the heartbeat shows that a wait goes on."""

    def _host_suffix(self, result: Any) -> str:
        """Name the host only where there is more than one."""
        hosts = getattr(getattr(self, "_play", None), "hosts", [])
        several = len(hosts) != 1 or hosts[0] in ("all", "hypervisors", "builders")
        name = result.host.get_name()
        return f" [{name}]" if several and name != "localhost" else ""


def _message_lines(message: Any) -> list[str]:
    """Return a debug message as lines: a list gives one line an element."""
    if isinstance(message, list):
        return [str(line) for line in message]
    return str(message).splitlines()
