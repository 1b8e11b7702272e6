"""The profiles that are shipped, and what is refused about one of your own."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllmd_node import profiles

from .conftest import ELEMENT, calm

GOOD = {
    "schema_version": 1,
    "name": "mine",
    "description": "one of mine",
    "devices": [{"pci": "10de:2236", "name": "A10", "memory_mib": 22515, "link": "pcie"}],
    "engine": {"max-num-seqs": 8},
}


@pytest.mark.parametrize(
    ("pci_id", "name", "memory_gib"),
    [
        ("10de:2236", "nvidia-a10", 21.9),
        ("10de:2235", "nvidia-a40", 44.3),
        ("10de:26b9", "nvidia-l40s", 44.3),
        ("10de:20b0", "nvidia-a100", 39.3),
        ("10de:20f1", "nvidia-a100", 39.3),
        ("10de:20b2", "nvidia-a100", 79.0),
        ("10de:20b5", "nvidia-a100", 79.0),
        ("10de:2330", "nvidia-h100", 79.0),
        ("10de:2331", "nvidia-h100", 79.0),
        ("10de:2335", "nvidia-h200", 139.7),
        ("10de:2901", "nvidia-b200", 178.3),
    ],
)
def test_a_device_has_its_profile(
    shipped: dict[str, dict[str, Any]], pci_id: str, name: str, memory_gib: float
) -> None:
    chosen = profiles.choose(shipped, [pci_id])
    assert chosen is not None
    assert chosen["name"] == name
    assert profiles.memory_bytes(chosen, pci_id) / 2**30 == pytest.approx(memory_gib, abs=0.1)


def test_choice(shipped: dict[str, dict[str, Any]]) -> None:
    cpu = profiles.choose(shipped, [])
    assert cpu is not None
    assert cpu["name"] == "cpu"
    assert profiles.choose(shipped, ["10de:ffff"]) is None
    assert profiles.choose(shipped, ["10de:2236", "10de:2330"]) is None
    mixed = profiles.choose(shipped, ["10de:20b0", "10de:20b2"])
    assert mixed is not None
    assert mixed["name"] == "nvidia-a100"
    assert profiles.choose(shipped, ["10de:2236"], "none") is None
    by_name = profiles.choose(shipped, ["10de:2236"], "nvidia-h100")
    assert by_name is not None
    assert by_name["name"] == "nvidia-h100"
    with pytest.raises(profiles.ProfileError, match="profile a10 is not in this image; it has cpu, nvidia-a10,"):
        profiles.choose(shipped, [], "a10")


def test_every_shipped_profile_names_its_sources(shipped: dict[str, dict[str, Any]]) -> None:
    assert len(shipped) == 8
    for profile in shipped.values():
        assert profile["sources"], profile["name"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"schema_version": True}, "schema_version is true"),
        ({"name": "No"}, 'name is "No"'),
        ({"name": "none"}, 'name is "none"'),
        ({"description": ""}, "description is"),
        ({"engines": {}}, "engines is not a known field"),
        ({"engine": []}, "engine is []; it has to be a mapping"),
        ({"engine": {"--dtype": "auto"}}, "engine.--dtype is no vLLM option"),
        ({"engine": {"port": 1}}, "engine.port comes from the runtime"),
        ({"engine": {"dtype": None}}, "engine.dtype has no value"),
        ({"tensor_parallel": 0}, "tensor_parallel is 0"),
        ({"tensor_parallel": "most"}, 'tensor_parallel is "most"'),
        ({"swap_gib": -1}, "swap_gib is -1"),
        ({"overhead_mib": 1.5}, "overhead_mib is 1.5"),
        ({"environment": {"A": 1}}, "environment is"),
        ({"devices": {}}, "devices is {}"),
        ({"devices": [{}]}, "devices[0] is {}; it has to have exactly pci, name, memory_mib, link"),
        ({"devices": [{**GOOD["devices"][0], "pci": "10DE:2236"}]}, "vendor:device such as 10de:2236"),  # type: ignore[index,dict-item]
        ({"devices": [{**GOOD["devices"][0], "link": "usb"}]}, 'link is "usb"; it has to be pcie or nvlink'),  # type: ignore[index,dict-item]
        ({"devices": [{**GOOD["devices"][0], "memory_mib": 24}]}, "memory_mib is 24"),  # type: ignore[index,dict-item]
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(profiles.ProfileError) as caught:
        profiles.check({**GOOD, **change}, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml")
    assert expected in str(caught.value)


@pytest.mark.parametrize("field", ["schema_version", "name", "description", "devices", "engine"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(profiles.ProfileError, match=f"{field} is missing; it is "):
        profiles.check({name: value for name, value in GOOD.items() if name != field}, "mine.yaml")


def test_one_device_has_one_profile() -> None:
    other = {**copy.deepcopy(GOOD), "name": "other"}
    with pytest.raises(profiles.ProfileError, match=r"b\.yaml: 10de:2236 is also in profile mine"):
        profiles.check_all({"a.yaml": GOOD, "b.yaml": other})
    with pytest.raises(profiles.ProfileError, match=r"b\.yaml: name mine is also another file's"):
        profiles.check_all({"a.yaml": GOOD, "b.yaml": GOOD})


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@calm
@given(field=st.sampled_from([*GOOD, "environment", "swap_gib", "sources", "tensor_parallel"]), value=ANY)
def test_any_value_is_taken_or_refused_in_words(field: str, value: Any) -> None:
    try:
        profiles.check({**GOOD, field: value}, "mine.yaml")
    except profiles.ProfileError as error:
        assert "mine.yaml" in str(error)


def convert(directory: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Run the build's converter."""
    script = [sys.executable, ELEMENT / "lib/vllmd_profiles.py", directory, ELEMENT / "static/usr/lib/vllmd", output]
    return subprocess.run([str(part) for part in script], capture_output=True, text=True, check=False)


def test_the_build_converts_what_is_shipped(tmp_path: Path, shipped: dict[str, dict[str, Any]]) -> None:
    output = tmp_path / "profiles.json"
    result = convert(ELEMENT / "profiles", output)
    assert (result.returncode, result.stderr) == (0, "")
    assert profiles.load(str(output)) == shipped


def test_the_build_refuses_a_wrong_profile_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("schema_version: 1\n")
    result = convert(tmp_path, tmp_path / "out")
    assert (result.returncode, result.stderr) == (
        1,
        "vllmd-runtime: mine.yaml: name is missing; it is text of a-z, 0-9 and -\n",
    )
    (tmp_path / "mine.yaml").write_text("a: [\n")
    assert "mine.yaml is not YAML" in convert(tmp_path, tmp_path / "out").stderr
    (tmp_path / "mine.yaml").unlink()
    assert "holds no profile" in convert(tmp_path, tmp_path / "out").stderr


@pytest.mark.parametrize("text", ["", "[]", "{", json.dumps({"a": []}), "[" * 50_000])
def test_a_damaged_file_in_the_guest_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "profiles.json"
    path.write_text(text)
    with pytest.raises(profiles.ProfileError):
        profiles.load(str(path))
    with pytest.raises(profiles.ProfileError, match="cannot read"):
        profiles.load(str(tmp_path / "none"))
