"""Finding runtimes by id, and where their APIs are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllmdctl.commands.infer import choose
from vllmdctl.errors import UNREACHABLE, USAGE, CtlError
from vllmdctl.fleet import Fleet, Replica, _add, recall, remember


def fleet(*ids: str) -> Fleet:
    """Replicas of the runtimes qwen and qwen-large, and others."""
    names = [(each, each.partition(".")[0]) for each in ids]
    replicas = [Replica(each, name, "gpu-01", "running", model=name) for each, name in names]
    return Fleet(replicas, {each.runtime: f"/{each.runtime}.yaml" for each in replicas}, [])


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("qwen", ["qwen", "qwen.1"]),  # exactly a runtime's name: all its replicas, though others begin like it
        ("qwen.1", ["qwen.1"]),
        ("qwen-", ["qwen-large"]),
        ("s", ["smollm2"]),
        ("l", ["llama", "llama.1"]),  # the beginning of one runtime's replicas only
        ("llama.", ["llama.1"]),
    ],
)
def test_a_beginning_that_is_unique_is_enough(wanted: str, found: list[str]) -> None:
    all_of_them = fleet("qwen", "qwen.1", "qwen-large", "smollm2", "llama", "llama.1")
    assert [each.id for each in all_of_them.find(wanted)] == found


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("q", "'q' is the beginning of qwen, qwen-large; say more of it"),
        ("qwne", "no runtime 'qwne'; did you mean qwen"),
        ("zzz", "no runtime 'zzz'; there is qwen, qwen-large"),
        ("", "no runtime ''"),
    ],
)
def test_what_is_not_unique_or_unknown_is_said(wanted: str, said: str) -> None:
    with pytest.raises(CtlError, match=said) as caught:
        fleet("qwen", "qwen-large").find(wanted)
    assert caught.value.status == USAGE


def test_nothing_to_suggest() -> None:
    with pytest.raises(CtlError, match="no runtime 'x'; there is none"):
        fleet().find("x")


def published(url: str, states: dict[str, Any], local: bool) -> dict[str, Any]:
    runtime = {"metadata": {"name": "qwen"}, "spec": {"model": {"name": "q"}}, "source": {"path": "/qwen.yaml"}}
    return {
        "vllmd_runtimes": [runtime],
        "vllmd_urls": [url],
        "vllmd_states": states,
        "vllmd_sources": {"qwen": "/qwen.yaml"},
        "vllmd_plan_file": "",
        "vllmd_log_directory": "/var/log/vllmd",
        "vllmd_host": {"address": "192.0.2.1", "local": local},
    }


@pytest.mark.parametrize(
    ("url", "local", "reached", "usable"),
    [
        ("http://127.0.0.1:8000", True, "http://127.0.0.1:8000", True),
        ("http://127.0.0.1:8000", False, "http://127.0.0.1:8000", False),
        ("http://0.0.0.0:8000", False, "http://192.0.2.1:8000", True),
        ("http://192.0.2.7:8000", False, "http://192.0.2.7:8000", True),
        ("", False, "", False),
    ],
)
def test_urls_as_they_are_reached_from_here(url: str, local: bool, reached: str, usable: bool) -> None:
    known = Fleet([], {}, [])
    _add(known, "gpu-01", published(url, {"qwen": {"state": "running"}}, local))
    assert [(each.url, each.usable) for each in known.replicas] == [(reached, usable)]


def test_what_is_described_and_not_made_is_absent_and_what_nobody_describes_is_shown() -> None:
    known = Fleet([], {}, [])
    _add(known, "gpu-01", published("", {"old": {"state": "running"}}, True))
    found = [(each.id, each.state, each.model) for each in known.replicas]
    assert found == [("old", "running", ""), ("qwen", "absent", "q")]


def test_what_was_seen_is_remembered_and_a_broken_memory_is_none(home: Path) -> None:
    (home / "state/vllmd").mkdir(parents=True)
    remember(Path("/inventory"), fleet("qwen"))
    assert [each["id"] for each in recall()["/inventory"]] == ["qwen"]
    (home / "state/vllmd/endpoints.json").write_text("{")
    assert recall() == {}


def seen(model: str, runtime: str, url: str = "http://192.0.2.1:8000", usable: bool = True) -> dict[str, Any]:
    named = {"id": runtime, "runtime": runtime, "host": "h", "state": "running", "model": model}
    return {**named, "url": url, "usable": usable}


def test_the_only_model_needs_no_name_and_replicas_share_the_work() -> None:
    known = [seen("q", "qwen", "http://192.0.2.1:8000"), seen("q", "qwen.1", "http://192.0.2.2:8000")]
    assert choose(known, None, Path("/i")) == (["http://192.0.2.1:8000", "http://192.0.2.2:8000"], "q")


@pytest.mark.parametrize(
    ("known", "wanted", "said", "status"),
    [
        ([], None, "no runtime of /i runs", UNREACHABLE),
        ([seen("a", "one"), seen("b", "two")], None, "several models run: a, b; choose one with --model", USAGE),
        ([seen("alpha", "one")], "alpah", "no model 'alpah' runs; did you mean alpha", USAGE),
        ([seen("a", "one", "http://127.0.0.1:8000", False)], "a", "which can't be reached from here", UNREACHABLE),
    ],
)
def test_a_model_that_cannot_be_asked_is_said(known: list[Any], wanted: str | None, said: str, status: int) -> None:
    with pytest.raises(CtlError, match=said) as caught:
        choose(known, wanted, Path("/i"))
    assert caught.value.status == status


@pytest.mark.parametrize("wanted", ["b", "two", "tw"])
def test_a_model_is_named_by_itself_or_by_its_runtime(wanted: str) -> None:
    assert choose([seen("a", "one"), seen("b", "two")], wanted, Path("/i"))[1] == "b"
