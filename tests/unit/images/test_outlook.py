"""What check mode says of a build: which layers are reused, which are built, why, how long, how large, where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils import image_outlook

NOW = [("debian", "a"), ("node", "b"), ("engine", "c")]


def told(rows: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(row["name"], row["action"], row["reason"]) for row in rows]


@pytest.mark.parametrize(
    ("before", "cached", "expected"),
    [
        (
            {},
            (),
            [("build", "was never built"), ("build", "stands on debian"), ("build", "stands on debian")],
        ),
        (
            {"debian": "a", "node": "b", "engine": "old"},
            ("a", "b"),
            [("reuse", "unchanged"), ("reuse", "unchanged"), ("build", "its inputs changed")],
        ),
        (
            {"debian": "a", "node": "old", "engine": "old"},
            ("a",),
            [("reuse", "unchanged"), ("build", "its inputs changed"), ("build", "stands on node")],
        ),
        (
            {"debian": "a", "node": "b", "engine": "c"},
            (),
            [("build", "unchanged, but not in the cache")] * 3,
        ),
        (
            {"debian": "x", "node": "x", "engine": "x"},
            ("c",),
            [("reuse", "was built before with these inputs")] * 3,
        ),
    ],
)
def test_each_layer_says_what_and_why(
    before: dict[str, str], cached: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    rows = image_outlook.layers(NOW, before, cached, {})
    names = ["debian", "node", "engine"]
    assert told(rows)[:3] == [(name, *row) for name, row in zip(names, expected, strict=True)]
    assert told(rows)[3] == ("runtime", "build", "made in every build")


def test_the_plan_is_readable() -> None:
    about = {
        "debian": {"seconds": 45, "size_bytes": 400_000_000},
        "engine": {"seconds": 90, "size_bytes": 1_700_000_000},
        "runtime": {"seconds": 30},
    }
    rows = image_outlook.layers(NOW, {"debian": "a", "node": "b", "engine": "old"}, ("a", "b"), about)
    assert image_outlook.lines(
        "image demo 012 would be built: inputs changed: wheelhouse",
        rows,
        target=Path("/store/demo/012"),
        log=Path("/log/demo.log"),
        files={"system.raw": {"size_bytes": 2_100_000_000}, "kernel": {"size_bytes": 12_000_000}},
        goes=["/store/demo/old"],
    ) == [
        "image demo 012 would be built: inputs changed: wheelhouse",
        "  layer debian   reused  unchanged (400 MB)",
        "  layer node     reused  unchanged",
        "  layer engine   built   its inputs changed (about 90 s, 1.7 GB)",
        "  layer runtime  built   made in every build (about 30 s)",
        "  time   about 2 min 0 s, by the builds before",
        "  size   about 2.1 GB, as the latest image has",
        "  to     /store/demo/012",
        "  log    /log/demo.log",
        "  goes   /store/demo/old",
    ]


def test_nothing_is_claimed_that_is_not_known() -> None:
    rows = image_outlook.layers([], {}, (), {})
    said = image_outlook.lines("image demo", rows, target=Path("/s"), log=Path("/l"), files={})
    assert said == ["image demo", "  layer runtime  built   made in every build", "  to     /s", "  log    /l"]
