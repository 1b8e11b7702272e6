# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl infer``: a question to a runtime, and its answer as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import FAILED, UNREACHABLE, USAGE, CtlError, nearest
from ..options import Inventory, Output, make_play
from ..output import Format, emit, say


def infer(
    question: Annotated[
        list[str] | None, typer.Argument(metavar="[QUESTION]...", help="The question; - is standard input.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="A model, or a runtime; needed when several are served.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, envvar="VLLMD_MAX_TOKENS", help="How long the answer may become.")
    ] = 256,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0.0, max=2.0, help="0: always the same answer.")
    ] = 0.0,
    chat: Annotated[
        bool, typer.Option("--chat", help="Go on talking: every further line is a question in the same conversation.")
    ] = False,
    complete: Annotated[bool, typer.Option("--complete", help="Go on with the text instead of answering it.")] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1.0, help="Seconds that an answer may take; emulated CPUs are slow.")
    ] = 900.0,
    url: Annotated[
        list[str] | None,
        typer.Option("--url", envvar="VLLMD_URL", help="Base URL of an API; again for more that serve the same."),
    ] = None,
    inventory: Inventory = None,
    output: Output = Format.TABLE,
) -> None:
    """Ask a runtime, and print the answer as it comes."""
    if chat and (complete or output is not Format.TABLE):
        raise CtlError("--chat is a conversation; it does not go with --complete or --output", USAGE)
    text = _text(question or [], chat)
    urls, name = (list(url), model) if url else _endpoints(inventory, model)
    from vllmd.client import Client, RequestRefusedError, UnavailableError, VllmdError

    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    try:
        with Client(urls, model=name, timeout=timeout, retries=1) as llm:
            if chat:
                _converse(llm, text, options)
                return
            started = time.monotonic()
            parts = (llm.stream_complete if complete else llm.stream_chat)(text, **options)
            if output is Format.TABLE:
                _print(parts)
                return
            answer = "".join(parts)
            seconds = round(time.monotonic() - started, 2)
            emit(output, {"question": text, "answer": answer, "model": name, "urls": urls, "seconds": seconds})
    except ValueError as error:  # a wrong URL
        raise CtlError(str(error), USAGE) from None
    except UnavailableError as error:
        raise CtlError(f"{error}; 'vllmdctl runtimes status' says what runs", UNREACHABLE) from None
    except RequestRefusedError as error:
        raise CtlError(str(error), USAGE if error.status in (400, 404, 413, 422) else FAILED) from None
    except VllmdError as error:
        raise CtlError(str(error)) from None


def _text(question: list[str], chat: bool) -> str:
    """Return the question: the arguments, with standard input in the place of ``-`` or when there is nothing else."""
    piped = not sys.stdin.isatty()
    if question.count("-") > 1:
        raise CtlError("- stands for standard input, which can be read once", USAGE)
    words = question or (["-"] if piped and not chat else [])
    if not words and not chat:
        raise CtlError("no question; say it in quotes, or pipe it in", USAGE)
    try:
        text = " ".join(f"\n{sys.stdin.read().strip()}\n" if word == "-" else word for word in words).strip()
    except UnicodeDecodeError as error:
        raise CtlError(f"standard input is no text: {error}", USAGE) from None
    if not text and not chat:
        raise CtlError("the question is empty; say it in quotes, or pipe it in", USAGE)
    return text


def _print(parts: Iterable[str]) -> str:
    """Print an answer as it comes, without what a terminal would obey, and return it."""
    answer = []
    try:
        for part in parts:
            answer.append(part)
            shown = "".join(char for char in part if char.isprintable() or char in "\n\t")
            print(shown, end="", flush=True)
    finally:
        if answer and not answer[-1].endswith("\n"):
            print(flush=True)
    return "".join(answer)


def _converse(llm: Any, first: str, options: dict[str, Any]) -> None:
    """Answer question after question until the end of standard input; the model is told all of it each time."""
    messages: list[dict[str, str]] = []
    asked: str | None = first or _next()
    while asked is not None:
        if asked:
            messages.append({"role": "user", "content": asked})
            messages.append({"role": "assistant", "content": _print(llm.stream_chat(messages, **options))})
        asked = _next()


def _next() -> str | None:
    """Return the next line of standard input, or None at its end."""
    if sys.stdin.isatty():
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None


def _endpoints(inventory: str | None, wanted: str | None) -> tuple[list[str], str]:
    """Return the URLs that serve the model, and its name; asks the hosts when nothing is known yet. Raises CtlError."""
    from ..fleet import describe, recall

    play = make_play(inventory)
    known = recall().get(str(play.inventory))
    if not known or not any(each["state"] == "running" and each["model"] for each in known):
        describe(play)
        known = recall().get(str(play.inventory), [])
    return choose(known, wanted, play.inventory)


def choose(known: list[dict[str, Any]], wanted: str | None, inventory: Path) -> tuple[list[str], str]:
    """Return the URLs that serve a model, and its name. ``wanted``: that name, a runtime, a replica, or a beginning."""
    running = [each for each in known if each["state"] == "running" and each["model"]]
    if not running:
        raise CtlError(f"no runtime of {inventory} runs; 'vllmdctl runtimes start' starts them", UNREACHABLE)
    names = ("model", "runtime", "id")
    chosen = running
    if wanted:
        chosen = [each for each in running if wanted in [each[name] for name in names]]
        chosen = chosen or [each for each in running if any(each[name].startswith(wanted) for name in names)]
    models = sorted({each["model"] for each in chosen})
    if not models:
        raise CtlError(f"no model {wanted!r} runs{nearest(str(wanted), [each['model'] for each in running])}", USAGE)
    if len(models) > 1:
        raise CtlError(f"several models run: {', '.join(models)}; choose one with --model", USAGE)
    urls = [each["url"] for each in chosen if each["url"] and each["usable"]]
    if not urls:
        where = ", ".join(f"{each['url'] or 'no known address'} of {each['host']}" for each in chosen)
        raise CtlError(f"{models[0]} is served at {where}, which can't be reached from here; see --url", UNREACHABLE)
    if len(urls) < len(chosen):
        say(f"note: {len(chosen) - len(urls)} of {len(chosen)} replicas can't be reached from here")
    return list(dict.fromkeys(urls)), models[0]
