"""What the guest makes of runtime.json: everything or one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def test_a_static_runtime_becomes_files(configure: ModuleType, runtime: dict[str, Any]) -> None:
    files, links, hostname = configure.plan(runtime)
    options = json.loads(files["/run/vllmd/engine.yaml"])
    assert options["model"] == runtime["model"]["path"]
    assert options["served-model-name"] == "smollm2"
    assert (options["host"], options["port"]) == ("192.0.2.5", 8000)
    assert options["enforce-eager"] is True
    assert options["compilation-config"] == '{"mode": 0}'
    assert "HF_HUB_OFFLINE=1" in files["/run/vllmd/engine.env"].splitlines()
    assert "Address=10.0.2.15/24" in files["/run/systemd/network/10-vllmd.network"]
    assert files["/run/vllmd/resolv.conf"] == "nameserver 10.0.2.3\n"
    assert hostname == "local"
    assert links == {}
    assert not any("authorized_keys" in path for path in files)


def test_dhcp_takes_name_servers_from_resolved(configure: ModuleType, runtime: dict[str, Any]) -> None:
    runtime["network"] = {"mode": "dhcp"}
    files, links, _hostname = configure.plan(runtime)
    assert "DHCP=ipv4" in files["/run/systemd/network/10-vllmd.network"]
    assert "/run/vllmd/dhcp" in files
    assert links == {"/run/vllmd/resolv.conf": "/run/systemd/resolve/resolv.conf"}


def test_a_model_from_the_network_is_named_by_its_repository(configure: ModuleType, runtime: dict[str, Any]) -> None:
    runtime["model"] = {"name": "m", "source": "huggingface", "repository": "org/model", "path": None}
    files, _links, _hostname = configure.plan(runtime)
    assert json.loads(files["/run/vllmd/engine.yaml"])["model"] == "org/model"
    assert "VLLMD_MODEL_SOURCE=huggingface" in files["/run/vllmd/engine.env"].splitlines()


def test_keys_are_written_only_when_delivered(configure: ModuleType, runtime: dict[str, Any]) -> None:
    runtime["ssh_authorized_keys"] = ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"]
    files, _links, _hostname = configure.plan(runtime)
    assert files["/run/vllmd/ssh/authorized_keys"] == "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n"


@pytest.mark.parametrize(
    ("asked", "opened"),
    [
        ((8000, [], False), "8000"),
        ((8000, [], True), "8000, 9100"),
        ((8000, ["ssh-ed25519 AAAA one"], True), "22, 8000, 9100"),
        ((22, ["ssh-ed25519 AAAA one"], False), "22"),
    ],
)
def test_only_its_own_ports_are_opened(
    configure: ModuleType, runtime: dict[str, Any], asked: tuple[int, list[str], bool], opened: str
) -> None:
    runtime["api"]["port"], runtime["ssh_authorized_keys"], metrics = asked
    runtime["monitoring"] = {"node_exporter": metrics}
    files, _links, _hostname = configure.plan(runtime)
    assert files["/run/vllmd/firewall.d/runtime.nft"] == f"add element inet vllmd tcp_open {{ {opened} }}\n"


def test_environment_values_are_quoted_for_systemd(configure: ModuleType, runtime: dict[str, Any]) -> None:
    runtime["environment"] = {"TOKEN": 'a "b" $c \\ d'}
    files, _links, _hostname = configure.plan(runtime)
    assert 'TOKEN="a \\"b\\" \\$c \\\\ d"' in files["/run/vllmd/engine.env"].splitlines()


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        (["schema_version"], 2, "schema_version is 2"),
        (["schema_version"], True, "schema_version is true"),
        (["name"], "Local", 'name is "Local"'),
        (["name"], None, "name is missing"),
        (["hostname"], "a\nb", "hostname"),
        (["model", "source"], "nfs", 'model.source is "nfs"; it has to be local or huggingface'),
        (["model", "path"], "/nowhere", "/nowhere is not in this image"),
        (["model", "extra"], 1, "model.extra is not a known field"),
        (["api", "port"], 70000, "api.port is 70000; it has to be 1 to 65535"),
        (["api", "port"], "8000", 'api.port is "8000"; it has to be a whole number'),
        (["api", "port"], True, "api.port is true"),
        (["engine"], [], "engine is []; it has to be an object"),
        (["engine", "model"], "x", "engine.model is set from model and api"),
        (["engine", "--dtype"], "x", "engine.--dtype"),
        (["environment", "lower"], "x", "environment.lower"),
        (["environment", "A"], 1, "environment.A is 1"),
        (["environment", "A"], "a\nb", "environment.A"),
        (["network"], {"mode": "wlan"}, 'network.mode is "wlan"; it has to be dhcp or static'),
        (["network"], {"mode": "static"}, "network.address is missing"),
        (["network", "dns"], "10.0.2.3", "network.dns"),
        (["ssh_authorized_keys"], ["a\nb"], "ssh_authorized_keys"),
        (["unknown"], 1, "unknown is not a known field"),
        (["uid"], 7, "uid is 7; it has to be one line of text"),
        (["profile"], "a b", 'profile is "a b"'),
        (["storage"], [], "storage is []; it has to be an object"),
        (["storage"], {"disk": {}}, "storage.disk is not a known field; known: cache"),
        (["storage"], {"cache": {"format": 1}}, "storage.cache.format is 1; it has to be true or false"),
        (["storage"], {"cache": {"size": True}}, "storage.cache.size is not a known field"),
        (["monitoring"], {"node_exporter": "no"}, 'monitoring.node_exporter is "no"'),
    ],
)
def test_a_wrong_field_is_named(
    configure: ModuleType, runtime: dict[str, Any], path: list[str], value: object, expected: str
) -> None:
    target = runtime
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(configure.ConfigurationError) as caught:
        configure.plan(runtime)
    assert expected in str(caught.value)


@pytest.mark.parametrize("field", ["uid", "model", "engine", "environment", "api", "hostname", "network"])
def test_a_missing_field_is_named(configure: ModuleType, runtime: dict[str, Any], field: str) -> None:
    del runtime[field]
    with pytest.raises(configure.ConfigurationError, match=f"{field} is missing"):
        configure.plan(runtime)


def test_the_optional_fields(configure: ModuleType, runtime: dict[str, Any]) -> None:
    assert "/run/vllmd/monitoring" in configure.plan(runtime)[0]
    runtime.update(profile="nvidia-a10", storage={"cache": {"required": True}}, monitoring={"node_exporter": False})
    files, _links, _hostname = configure.plan(runtime, (("HF_HOME", "/var/lib/vllmd/disk/huggingface"),))
    assert "/run/vllmd/monitoring" not in files
    lines = files["/run/vllmd/engine.env"].splitlines()
    assert {"VLLMD_HARDWARE_PROFILE=nvidia-a10", "HF_HOME=/var/lib/vllmd/disk/huggingface"} <= set(lines)
    # What the runtime says itself comes last and wins.
    assert lines[-1].startswith("OMP_NUM_THREADS=")


def test_a_config_image_of_another_runtime_is_refused(configure: ModuleType, tmp_path: Path) -> None:
    cmdline = tmp_path / "cmdline"
    cmdline.write_text("root=/dev/vda ro\n")
    configure.check_owner("0f8fad5b", str(cmdline))
    cmdline.write_text("root=/dev/vda vllmd.uid=0f8fad5b quiet\n")
    configure.check_owner("0f8fad5b", str(cmdline))
    with pytest.raises(
        configure.ConfigurationError, match=r"another runtime: its uid is x, .* started for 0f8fad5b; attach"
    ):
        configure.check_owner("x", str(cmdline))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = [
    "profile",
    "storage",
    "monitoring",
    "schema_version",
    "name",
    "uid",
    "model",
    "engine",
    "environment",
    "api",
    "hostname",
    "ssh_authorized_keys",
]
INNER = [
    ("model", "name"),
    ("model", "source"),
    ("model", "path"),
    ("api", "host"),
    ("api", "port"),
    ("network", "dns"),
    ("storage", "cache"),
    ("storage", "cache", "format"),
    ("monitoring", "node_exporter"),
]


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from([(place,) for place in [*PLACES, "network"]] + INNER), value=JSON)
def test_any_value_anywhere_is_taken_or_refused_in_words(
    configure: ModuleType, runtime: dict[str, Any], place: tuple[str, ...], value: object
) -> None:
    document = copy.deepcopy(runtime)
    target = document
    for key in place[:-1]:
        target = target.setdefault(key, {})
    target[place[-1]] = value
    try:
        files, _links, _hostname = configure.plan(document)
    except configure.ConfigurationError as error:
        assert str(error)
    else:
        assert "/run/vllmd/engine.yaml" in files


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        *[("", "is not JSON"), ("[1]", "is not a JSON object"), ("{", "is not JSON"), ("[" * 100_000, "is not JSON")],
        *[(" " * 2**21, "larger than 1 MiB"), ("\ufffe", "is not JSON")],
    ],
)
def test_a_broken_document_is_said_to_be_broken(
    configure: ModuleType, tmp_path: Path, content: str, expected: str
) -> None:
    path = tmp_path / "runtime.json"
    path.write_text(content)
    with pytest.raises(configure.ConfigurationError, match=expected):
        configure.load(str(path))


def test_an_absent_document_is_said_to_be_absent(configure: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(configure.ConfigurationError, match=r"cannot read vllmd/runtime.json.*No such file"):
        configure.load(str(tmp_path / "runtime.json"))


def volume(label: bytes) -> bytes:
    """Return a disk whose primary volume descriptor (ECMA-119 8.4) says ``label``."""
    return bytes(16 * 2048) + b"\x01CD001\x01\x00" + bytes(32) + label.ljust(32) + bytes(2048 - 72)


def test_the_config_disk_is_found_by_its_label(configure: ModuleType, tmp_path: Path) -> None:
    devices, nodes = tmp_path / "devices", tmp_path / "nodes"
    nodes.mkdir()
    for name, content in {
        "vda": b"short",
        "vdb": volume(b"OTHER"),
        "vdc": volume(b"CIDATA"),
        "loop0": volume(b"CIDATA"),
    }.items():
        (devices / name).mkdir(parents=True)
        (nodes / name).write_bytes(content)
    (devices / "vdd").mkdir()
    assert configure.find_volume(str(devices), str(nodes)) == f"{nodes}/vdc"
    (nodes / "vdc").write_bytes(volume(b"CIDATB"))
    with pytest.raises(configure.ConfigurationError, match="labelled CIDATA"):
        configure.find_volume(str(devices), str(nodes))
