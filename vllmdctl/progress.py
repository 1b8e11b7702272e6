# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a run shows while it goes on: Ansible's stages, and on a terminal a line that tells what is being done now."""

from __future__ import annotations

import os
import re
import sys
import time
from typing import TYPE_CHECKING, Any

from .lock import duration

if TYPE_CHECKING:
    from .outcome import Outcome

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_QUIET_SECONDS = 0.5  # what is done sooner needs no sign of life


def plain(line: str) -> str:
    """Return a line without colours and without what only a terminal understands."""
    return "".join(char for char in _ESCAPES.sub("", line) if char.isprintable() or char == "\t")


class Screen:
    """Standard error as a run uses it; standard output stays free for results."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self._is_terminal and "NO_COLOR" not in os.environ
        self._live: Any = None
        self._started = time.monotonic()
        self._override = ""

    def __enter__(self) -> Screen:
        self._started = time.monotonic()
        if self._is_terminal:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), transient=True, refresh_per_second=8)
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def line(self, line: str, outcome: Outcome | None = None) -> None:
        """Show a line of the playbook, or of this program when there is no ``outcome``."""
        if outcome is not None and self._quiet:
            return
        if self._live is not None:
            from rich.text import Text

            self._live.console.print(Text.from_ansi(line), soft_wrap=True)
        else:
            print(line if self.colour else plain(line), file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """Show ``text`` instead of the progress from now on."""
        self._override = text
        if self._live is None:
            print(text, file=sys.stderr, flush=True)

    def progress(self, outcome: Outcome) -> None:
        """Show what is being done now."""
        elapsed = time.monotonic() - self._started
        if self._live is None or elapsed < _QUIET_SECONDS:
            return
        from rich.spinner import Spinner
        from rich.text import Text

        stage = f"[{outcome.play_number}/{outcome.plays}] " if outcome.plays > 1 else ""
        text = self._override or f"{stage}{outcome.task or outcome.play or outcome.verb}"
        shown = Text(f"{text}  {duration(elapsed)}", no_wrap=True, overflow="ellipsis", style="dim")
        spinner = getattr(self._live, "vllmd_spinner", None)
        if spinner is None:
            spinner = self._live.vllmd_spinner = Spinner("dots")
        spinner.update(text=shown)
        self._live.update(spinner)
