"""When a guest's health lets it go on and when it does not; and the probe against a real server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.health import (
    HEALTHY,
    REFUSED,
    SERVED,
    SILENT,
    TRIGGER,
    WAIT,
    Decision,
    Health,
    History,
    Probe,
    decide,
    parse_health,
)
from vllmd_hypervisor.watch import _EndedError, ask

URL = "url=http://127.0.0.1:8000/health"
HEALTH = Health("127.0.0.1", 8000, "/health", interval=10, silence=120, start=900)


def after(*probes: tuple[float, str]) -> History:
    """The history of a guest that began to run at 0: probes as (time, outcome)."""
    history = History.beginning(0)
    for time, outcome in probes:
        history = history.after(Probe(outcome, "" if outcome == SERVED else f"{outcome} at {time:g}"), time)
    return history


@pytest.mark.parametrize(
    ("probes", "now", "action", "reason"),
    [
        ([], 899, WAIT, ""),
        ([(10, SILENT)], 899, WAIT, ""),
        ([(10, REFUSED), (890, SILENT)], 899, WAIT, ""),
        ([(10, REFUSED)], 900, TRIGGER, "did not serve within 900 s of its start"),
        ([(10, SERVED)], 11, HEALTHY, ""),
        ([(10, SERVED), (20, SERVED)], 20, HEALTHY, ""),
        ([(10, SERVED), (40, SILENT)], 40, WAIT, ""),
        ([(10, SERVED), (40, SILENT), (129, SILENT)], 129, WAIT, ""),
        ([(10, SERVED), (40, SILENT), (130, SILENT)], 130, TRIGGER, "has not answered at all for 120 s"),
        ([(10, SERVED), (40, SILENT), (100, REFUSED), (219, SILENT)], 219, WAIT, ""),
        ([(10, SERVED), (40, REFUSED), (900, REFUSED)], 909, WAIT, ""),
        ([(10, SERVED), (40, REFUSED), (900, REFUSED)], 910, TRIGGER, "has not been healthy for 900 s"),
        ([(10, SERVED), (40, SILENT), (900, REFUSED), (905, SERVED)], 905, HEALTHY, ""),
        ([(899, REFUSED), (901, SERVED)], 901, HEALTHY, ""),
    ],
)
def test_decisions(probes: list[tuple[float, str]], now: float, action: str, reason: str) -> None:
    decision = decide(HEALTH, after(*probes), now)
    assert (decision.action, decision.reason.partition(" (")[0]) == (action, reason)


def test_a_reason_has_the_url_and_what_it_answered_last() -> None:
    history = after((10, SERVED), (130, SILENT))
    assert decide(HEALTH, history, 131) == Decision(
        TRIGGER, "has not answered at all for 121 s (http://127.0.0.1:8000/health: silent at 130)"
    )


STEPS = st.lists(st.tuples(st.floats(0.1, 60), st.sampled_from((SERVED, REFUSED, SILENT))), max_size=40)


def at_times(steps: list[tuple[float, str]]) -> list[tuple[float, str]]:
    now, probes = 0.0, []
    for seconds, outcome in steps:
        now += seconds
        probes.append((now, outcome))
    return probes


@given(STEPS, st.floats(0, 2000))
def test_a_guest_that_served_a_moment_ago_goes_on_and_one_that_did_not_for_long_does_not(
    steps: list[tuple[float, str]], later: float
) -> None:
    probes = at_times(steps)
    now = (probes[-1][0] if probes else 0) + later
    decision = decide(HEALTH, after(*probes), now)
    served = [time for time, outcome in probes if outcome == SERVED]
    bad = now - (served[-1] if served else 0)
    if probes and probes[-1][1] == SERVED:
        assert decision.action == HEALTHY
    elif bad < HEALTH.silence:
        assert decision.action == WAIT
    elif bad >= HEALTH.start:
        assert decision.action == TRIGGER
    if decision.action == TRIGGER and bad < HEALTH.start:
        answers = [time for time, outcome in probes if outcome != SILENT]
        assert now - answers[-1] >= HEALTH.silence
    assert (decision.action == TRIGGER) == bool(decision.reason)


@given(STEPS)
def test_a_history_counts_failures_since_the_last_good_answer(steps: list[tuple[float, str]]) -> None:
    outcomes = [outcome for _, outcome in steps]
    history = after(*at_times(steps))
    since = outcomes[::-1].index(SERVED) if SERVED in outcomes else len(outcomes)
    assert history.failures == since
    assert bool(history.error) == (since > 0)
    assert history.changed <= (at_times(steps) or [(0.0, "")])[-1][0]


def test_parsing() -> None:
    assert parse_health("") is None
    assert parse_health(URL) == HEALTH
    given = parse_health("start=60,silence=20,interval=5,url=http://10.0.0.2/")
    assert given == Health("10.0.0.2", 80, "/", interval=5, silence=20, start=60)
    assert (given.url, given.probe_seconds, given.longest_pause) == ("http://10.0.0.2:80/", 5, 10)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("interval=10", "has no url=http://ADDRESS:PORT/PATH"),
        ("url=https://127.0.0.1/health", "is not http://ADDRESS:PORT/PATH with an IPv4 address"),
        ("url=http://localhost:8000/health", "is not http://ADDRESS:PORT/PATH with an IPv4 address"),
        ("url=http://127.0.0.1:8000", "is not http://ADDRESS:PORT/PATH with an IPv4 address"),
        ("url=http://127.0.0.1:8000/a b", "is not http://ADDRESS:PORT/PATH"),
        ("url=http://127.0.0.1:0/health", "the port must be from 1 to 65535"),
        (f"{URL},every=5", "unknown health key 'every'; known are url, interval, silence, start"),
        (f"{URL},{URL}", "url is given twice"),
        (f"{URL},interval=0", r"interval must be from 1 to 3600 \(seconds\)"),
        (f"{URL},silence=2m", r"silence must be a whole number from 1 to 86400, in digits \(seconds\)"),
        (f"{URL},silence=5", "interval=10 is longer than silence=5"),
        (f"{URL},start=60", "silence=120 is longer than start=60"),
        (f"{URL},", "has an empty part between commas"),
    ],
)
def test_refusals(text: str, problem: str) -> None:
    with pytest.raises(ValueProblem, match=problem):
        parse_health(text)


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


@pytest.fixture
def living() -> Iterator[int]:
    """A pidfd of this process, which does not end."""
    descriptor = os.pidfd_open(os.getpid())
    yield descriptor
    os.close(descriptor)


def reached(server: socket.socket) -> Health:
    return replace(HEALTH, port=server.getsockname()[1], silence=1, interval=1)


@pytest.mark.parametrize(
    ("answer", "probe"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nok", Probe(SERVED)),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", Probe(REFUSED, "it answered 503")),
        (b"HTTP/1.0 404\r\n\r\n", Probe(REFUSED, "it answered 404")),
        (b"", Probe(REFUSED, "it closed the connection without an answer")),
        (b"SSH-2.0-OpenSSH\r\n", Probe(REFUSED, "it does not speak HTTP")),
        (b"HTTP/1.1 \x1b[2J\xff\r\n", Probe(REFUSED, "it answered [2J\ufffd")),
        (None, Probe(SILENT, "no answer within 1 s")),
    ],
)
def test_what_a_probe_makes_of_an_answer(
    server: socket.socket, living: int, answer: bytes | None, probe: Probe
) -> None:
    done = threading.Event()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            assert connection.recv(4096).startswith(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1:")
            if answer is None:
                done.wait(20)
            else:
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ask(reached(server), living) == probe
    finally:
        done.set()
        thread.join()


def test_a_closed_port_is_a_refusal_and_no_route_is_none(server: socket.socket, living: int) -> None:
    health = reached(server)
    server.close()
    assert ask(health, living) == Probe(REFUSED, "Connection refused")
    assert ask(replace(health, address="255.255.255.255"), living).outcome == SILENT


def test_a_probe_ends_with_the_virtual_machine(server: socket.socket) -> None:
    """Nobody accepts, nobody answers, and the probe would wait for 30 s."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfd = os.pidfd_open(process.pid)
    threading.Timer(0.2, process.kill).start()
    with pytest.raises(_EndedError):
        ask(replace(reached(server), silence=120), pidfd)
    process.communicate()
    os.close(pidfd)
