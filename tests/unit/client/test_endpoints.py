"""Which URL takes the next try, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllmd.endpoints import LONGEST_REST_SECONDS, Endpoints, normal_url


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def endpoints(clock: Clock, *urls: str) -> Endpoints:
    return Endpoints(urls, backoff=1.0, clock=clock, jitter=lambda: 1.0)


@pytest.mark.parametrize(
    ("given_url", "base"),
    [
        ("http://gpu-01:8000", "http://gpu-01:8000/v1"),
        ("http://gpu-01:8000/", "http://gpu-01:8000/v1"),
        (" https://llm.example.com/v1/ ", "https://llm.example.com/v1"),
        ("https://llm.example.com/team/v1", "https://llm.example.com/team/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_base_urls(given_url: str, base: str) -> None:
    assert normal_url(given_url) == base


@pytest.mark.parametrize(
    "url", ["", "gpu-01:8000", "ftp://x", "http://", "http://x:99999", "http://[::1", "http://x/?a=b"]
)
def test_what_is_no_base_url_is_said(url: str) -> None:
    with pytest.raises(ValueError, match="base URL"):
        normal_url(url)


@given(st.text())
def test_any_text_is_a_base_url_or_a_valueerror(url: str) -> None:
    try:
        base = normal_url(url)
    except ValueError as error:
        assert "\n" not in str(error)
    else:
        assert normal_url(base) == base


def test_idle_urls_come_first_and_each_rest_is_twice_as_long() -> None:
    clock = Clock()
    pool = endpoints(clock, "http://a", "http://b")
    first, _wait = pool.take()
    second, _wait = pool.take()
    assert {first.url, second.url} == {"http://a/v1", "http://b/v1"}
    rests = []
    for _failure in range(8):
        pool.failed(first)
        rests.append(first.rests_until - clock.now)
        first.in_flight += 1
    assert rests[:3] == [1.0, 2.0, 4.0]
    assert max(rests) == LONGEST_REST_SECONDS


def test_a_resting_url_is_asked_when_all_rest_and_after_its_rest() -> None:
    clock = Clock()
    pool = endpoints(clock, "http://a", "http://b")
    for _url in range(2):
        endpoint, wait = pool.take()
        assert wait == 0
        pool.failed(endpoint, retry_after=5.0 if endpoint.url == "http://a/v1" else 2.0)
    endpoint, wait = pool.take()
    assert (endpoint.url, wait) == ("http://b/v1", 2.0)
    pool.succeeded(endpoint)
    endpoint, wait = pool.take()
    assert (endpoint.url, wait) == ("http://b/v1", 0)
    pool.give_back(endpoint)
    clock.now += 10
    assert {pool.take()[0].url, pool.take()[0].url} == {"http://a/v1", "http://b/v1"}
