"""Questions to a server that speaks the OpenAI API."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.openai_stub import Stub, answer_to, openai_stub
from vllmdctl.errors import UNREACHABLE, USAGE

from .conftest import Ctl


@pytest.fixture
def stub() -> Iterator[Stub]:
    """A server that answers."""
    with openai_stub() as server:
        yield server


def test_a_question_is_answered_in_a_stream(ctl: Ctl, stub: Stub) -> None:
    done = ctl("infer", "Explain why PI is so awesome.", "--url", stub.url)
    assert (done.returncode, done.stdout) == (0, answer_to("Explain why PI is so awesome.") + "\n")
    (request,) = stub.requests
    assert (request["stream"], request["model"], request["max_tokens"]) == (True, "tiny", 256)


def test_options_go_to_the_api(ctl: Ctl, stub: Stub) -> None:
    done = ctl("infer", "go on", "--complete", "-m", "other", "--max-tokens", "9", VLLMD_URL=stub.url)
    assert done.stdout == answer_to("go on") + "\n"
    (request,) = stub.requests
    assert (request["path"], request["model"], request["max_tokens"]) == ("/v1/completions", "other", 9)


@pytest.mark.parametrize(
    ("arguments", "asked"),
    [((), "a long text"), (("-",), "a long text"), (("Shorten:", "-"), "Shorten: \na long text")],
)
def test_standard_input_is_read(ctl: Ctl, stub: Stub, arguments: tuple[str, ...], asked: str) -> None:
    assert ctl("infer", *arguments, "--url", stub.url, stdin="a long text\n").returncode == 0
    assert stub.requests[0]["messages"] == [{"role": "user", "content": asked}]


def test_a_conversation_is_told_all_of_it(ctl: Ctl, stub: Stub) -> None:
    done = ctl("infer", "one", "--chat", "--url", stub.url, stdin="two\n\nthree\n")
    assert done.stdout.splitlines() == [answer_to(each) for each in ("one", "two", "three")]
    assert [len(request["messages"]) for request in stub.requests] == [1, 3, 5]


def test_programs_get_the_answer_as_json(ctl: Ctl, stub: Stub) -> None:
    told = json.loads(ctl("infer", "x", "--url", stub.url, "-o", "json").stdout)
    assert (told["question"], told["answer"]) == ("x", answer_to("x"))


def test_an_answer_does_not_command_the_terminal(ctl: Ctl, stub: Stub) -> None:
    assert ctl("infer", "\x1b[2Jx\x07", "--url", stub.url).stdout == "answer to [2Jx\n"


def test_failures_are_one_line(ctl: Ctl, stub: Stub) -> None:
    stub.behave = lambda request: (404, {"error": {"message": "no such model"}}, {}) if "model" in request else None
    done = ctl("infer", "x", "-m", "y", "--url", stub.url)
    assert done.returncode == USAGE
    assert done.stderr.endswith("HTTP 404, no such model\n")
    done = ctl("infer", "x", "--url", "http://127.0.0.1:9", "--url", "http://127.0.0.1:10")
    assert done.returncode == UNREACHABLE
    assert [port for port in ("127.0.0.1:9/", "127.0.0.1:10/") if port not in done.stderr] == []
    assert ctl("infer", "x", "--url", "here").returncode == USAGE
