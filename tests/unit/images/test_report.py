"""The build report: where the bytes are, what changed, where the time went; and a picture that says so."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils import image_report, image_report_page
from ansible_collections.vllmd.platform.plugins.module_utils.quantities import difference, human

LOG = """\
2026-01-01 | dib-run-parts Target: install.d
2026-01-01 | dib-run-parts Script                                     Seconds
2026-01-01 | dib-run-parts 10-vllmd-static                               0.050
2026-01-01 | dib-run-parts 60-vllmd-vllm                                35.942
2026-01-01 | dib-run-parts --------------------- END PROFILING ---------------------
2026-01-01 | dib-run-parts 99-not-a-row                               7.0
2026-01-01 | dib-run-parts Target: install.d
2026-01-01 | dib-run-parts 80-vllmd-runtime                              1.5
2026-01-01 | dib-run-parts --------------------- END PROFILING ---------------------
"""
MANIFEST: dict[str, Any] = {
    "name": "demo",
    "version": "0123456789ab",
    "profile": "cpu",
    "debian": {"release": "bookworm", "architecture": "amd64"},
    "kernel_release": "6.1.0-1",
    "created": "2026-01-01T00:00:00Z",
    "cmdline": "root=/dev/vda ro",
    "inputs": {"element a": "sha256:1", "setting profile": "cpu"},
    "files": {"kernel": {"sha256": "ab", "size_bytes": 12345}},
    "packages": {"systemd": "252", "containerd": "1.6"},
    "wheels": {"Torch": "2.13.0", "my_wheel": "1"},
    "models": [{"name": "m", "digest": "sha256:2"}],
}
SIZES: dict[str, Any] = {
    "total_bytes": 1_000_000,
    "files": 42,
    "services": ["vllm.service"],
    "layers": {"vllmd-debian": 300_000, "vllmd-vllm": 600_000, "vllmd-model": 100_000},
    "packages": {"systemd": 250_000, "containerd": 10_000},
    "package_layers": {"containerd": "vllmd-containerd"},
    "wheels": {"torch": 590_000, "my-wheel": 10_000},
    "models": {"m": 100_000},
    "others": {"vllmd-debian": {"/var/lib/apt": 40_000}},
}


def report(**changes: Any) -> dict[str, Any]:
    return image_report.compose(MANIFEST, SIZES, image_report.phases(LOG), **changes)


def test_parts_have_their_versions_and_layers_largest_first() -> None:
    rows = [(part["name"], part["version"], part["layer"]) for part in report()["parts"]]
    assert rows == [
        ("torch", "2.13.0", "vllmd-vllm"),
        ("systemd", "252", "vllmd-debian"),
        ("m", "", "vllmd-model"),
        ("/var/lib/apt/*", "", "vllmd-debian"),
        ("containerd", "1.6", "vllmd-containerd"),
        ("my-wheel", "1", "vllmd-vllm"),
    ]


def test_time_is_by_phase_and_counts_every_run_of_it() -> None:
    made = report()
    assert made["phases"] == {"install.d": 37.5}
    assert [row["script"] for row in made["slowest"]] == ["install.d/60-vllmd-vllm", "install.d/80-vllmd-runtime"]


def test_changes_name_old_and_new_and_what_they_weigh() -> None:
    old, old_sizes = copy.deepcopy(MANIFEST), copy.deepcopy(SIZES)
    old.update(version="ba9876543210", packages={"systemd": "251", "gone": "1"}, inputs={"element a": "sha256:0"})
    old_sizes.update(total_bytes=900_000, packages={"systemd": 240_000, "gone": 5_000})
    made = report(before=(old, old_sizes))
    assert made["since"]["packages"] == [
        {"name": "containerd", "before": "", "after": "1.6", "bytes": 10_000},
        {"name": "systemd", "before": "251", "after": "252", "bytes": 10_000},
        {"name": "gone", "before": "1", "after": "", "bytes": -5_000},
    ]
    assert made["since"]["inputs"] == ["element a", "setting profile"]
    text = image_report.markdown(made)
    assert "## Changed since ba9876543210 (+100 kB)" in text
    assert "| systemd | 251 | 252 | +10 kB |" in text
    assert "| gone | 1 | - | -5.0 kB |" in text
    assert "Changed since ba9876543210 (+100 kB)" in image_report_page.page(made)


def test_an_image_whose_elements_measured_nothing_has_a_report() -> None:
    made = image_report.compose(MANIFEST, {}, {}, before=(MANIFEST, {}))
    assert "Size by layer" not in image_report.markdown(made)
    assert "<svg" not in image_report_page.page(made)


def test_the_same_build_gives_the_same_text() -> None:
    assert image_report.markdown(report()) == image_report.markdown(report())
    assert "by key sha256:1" in image_report.markdown(report(signed_by="sha256:1"))


def test_what_comes_from_the_build_is_escaped() -> None:
    evil = "<script>alert(1)</script>|`x`\n# y"
    manifest = {**copy.deepcopy(MANIFEST), "cmdline": evil, "packages": {evil: evil}}
    sizes = {**copy.deepcopy(SIZES), "packages": {evil: 900_000}, "services": [evil]}
    made = image_report.compose(
        manifest, sizes, {evil: [(evil, 3.0)]}, layers=[{"name": evil}], before=(manifest, sizes)
    )
    for text in (image_report.markdown(made), image_report_page.page(made)):
        assert "<script" not in text
    assert not re.search(r"^# y", image_report.markdown(made), re.MULTILINE)
    assert "\\|\\`x\\`" in image_report.markdown(made)


def test_the_page_needs_nothing_beside_itself_and_says_sizes_without_colour() -> None:
    page = image_report_page.page(report())
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    svg = ET.fromstring(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])  # noqa: S314 -- our own text
    words = [node.text for node in svg.iter("text")]
    assert "vllmd-vllm 600 kB, 60 %" in words
    assert "torch" in words
    assert "590 kB" in words


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=60))
def test_boxes_fill_their_panel_in_proportion(sizes: list[int]) -> None:
    sizes.sort(reverse=True)
    boxes = image_report_page.squarify(sizes, image_report_page.Box(10, 20, 400, 300))
    assert len(boxes) == len(sizes)
    for size, box in zip(sizes, boxes, strict=True):
        assert box.width * box.height == pytest.approx(size / sum(sizes) * 400 * 300, rel=1e-6)
        assert box.x >= 10 - 1e-6
        assert box.y >= 20 - 1e-6
        assert box.x + box.width <= 410 + 1e-3
        assert box.y + box.height <= 320 + 1e-3


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (34_200_000, "34 MB"), (12_345_678_901, "12.3 GB")],
)
def test_sizes_are_said_for_a_person(size: int, words: str) -> None:
    assert human(size) == words
    assert difference(-size) == (f"-{words}" if size else "same")


def test_both_files_are_written_whole_and_readable(tmp_path: Path) -> None:
    image_report.write(tmp_path, report())
    image_report.write(tmp_path, report())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
    assert (tmp_path / "report.md").stat().st_mode & 0o777 == 0o444
