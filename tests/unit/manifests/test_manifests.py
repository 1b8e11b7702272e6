"""Runtime manifests: what is accepted, what is returned, and that each refusal is one line with its place."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ansible_collections.vllmd.platform.plugins.module_utils import guest_config, manifest_schema, quantities
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import (
    ManifestError,
    load_runtime,
    read_runtimes,
)

# The document that seed 000 shows under "Quick Start".
SEED = """\
apiVersion: vllmd.com/v1alpha1
kind: Runtime
metadata:
  name: r1-qwen32b-int8
spec:
  model:
    name: r1-qwen32b-int8
    source: huggingface
    repository: vllmd/deepseek-r1-distill-qwen-32b-w8a8-dynamic
  resources:
    accelerator_memory: 48Gi
    accelerator_count: 1
    accelerator_type: nvidia-a40
  scaling:
    minReplicas: 1
    maxReplicas: 3
"""

CPU = """\
apiVersion: vllmd.com/v1alpha1
kind: Runtime
metadata:
  name: smollm2
spec:
  model:
    name: smollm2
    source: local
    repository: smollm2-135m-instruct
  resources:
    accelerator_count: 0
    cpu: 2
    memory: 5Gi
  engine:
    dtype: float32
    max_model_len: 512
    enforce-eager: true
  engine_environment:
    VLLM_CPU_KVCACHE_SPACE: 1
  network:
    mode: user
    forward:
      - host_port: 8001
"""


def problems(text: str) -> list[str]:
    """Return the refusal's lines."""
    with pytest.raises(ManifestError) as caught:
        load_runtime(text, "runtime.yaml")
    assert caught.value.problems, "a refusal says why"
    for line in caught.value.problems:
        assert "\n" not in line
        assert re.match(r"runtime\.yaml:\d+:\d+: ", line), line
    return caught.value.problems


def test_the_seeds_manifest_is_accepted_with_defaults() -> None:
    spec = load_runtime(SEED, "runtime.yaml")["spec"]
    assert spec["resources"] == {
        "cpu": 4,
        "cpu_millis": 4000,
        "memory": "16Gi",
        "memory_bytes": 16 * 2**30,
        "memory_mib": 16384,
        "accelerator_count": 1,
        "accelerator_type": "nvidia-a40",
        "accelerator_memory": "48Gi",
        "accelerator_memory_bytes": 48 * 2**30,
        "accelerator_memory_mib": 49152,
    }
    assert spec["image"] == {"name": "vllmd-cuda", "version": "latest"}
    assert spec["network"]["forward"] == [{"host_address": "127.0.0.1", "host_port": 8000, "guest_port": 8000}]
    assert spec["placement"] == {
        "target": "hypervisor",
        "hosts": [],
        "numa_node": None,
        "devices": [],
        "strategy": None,
        "anti_affinity": "preferred",
    }
    assert (spec["target"], spec["priority"], spec["kubernetes"]) == ("hypervisor", 0, None)


def test_engine_options_are_returned_in_kebab_case_and_environment_as_text() -> None:
    spec = load_runtime(CPU, "runtime.yaml")["spec"]
    assert spec["engine"] == {"dtype": "float32", "max-model-len": 512, "enforce-eager": True}
    assert spec["engine_environment"] == {"VLLM_CPU_KVCACHE_SPACE": "1"}
    assert spec["image"]["name"] == "vllmd-cpu"


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("{}", (1, 1)),
        ("{minReplicas: 3}", (3, 3)),
        ("{maxReplicas: 3}", (1, 3)),
        ("{minReplicas: 0}", (0, 1)),
    ],
)
def test_scaling_defaults_never_contradict_what_is_given(scaling: str, expected: tuple[int, int]) -> None:
    text = CPU + f"  scaling: {scaling}\n"
    found = load_runtime(text, "runtime.yaml")["spec"]["scaling"]
    assert (found["minReplicas"], found["maxReplicas"]) == expected


REFUSALS = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case["new"])
def test_a_wrong_field_is_one_line_with_place_found_and_allowed(case: dict[str, str]) -> None:
    assert case["old"] in CPU
    assert f"runtime.yaml:{case['says']}" in problems(CPU.replace(case["old"], case["new"], 1))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "1:1: the file is empty; expected a mapping with apiVersion, kind, metadata and spec"),
        ("# only a comment\n", "1:1: the file is empty; expected a mapping with apiVersion, kind, metadata and spec"),
        ("- a\n- b\n", "1:1: field (document): found a list; allowed: a mapping with apiVersion, kind, metadata, spec"),
        (
            "just text\n",
            "1:1: field (document): found 'just text'; allowed: a mapping with apiVersion, kind, metadata, spec",
        ),
        (
            f"{CPU}---\n{SEED}...\n---\n{CPU}",
            "46:3: field metadata.name: 'smollm2' is also the name in runtime.yaml:4; names are unique",
        ),
        ("---\n---\n", "1:1: the file is empty; expected a mapping with apiVersion, kind, metadata and spec"),
        (f"{CPU}---\nkind: Runtime\n  name: x\n", "26:7: not YAML: mapping values are not allowed here"),
        ("a: [1\nb: 2\n", "2:2: not YAML: while parsing a flow sequence, expected ',' or ']', but got ':'"),
        (
            "a:\n\t- b\n",
            "2:1: not YAML: while scanning for the next token, found character '\\t' that cannot start any token",
        ),
        ("a: \x07\n", "1:4: not YAML: character #x0007 is not allowed"),
        ("[" * 5000, "1:25: nested deeper than 24 levels; a Runtime has at most 7"),
        ('a: "\\ud800"\n', "1:4: half of a surrogate pair is no character; write the character itself"),
    ],
)
def test_what_is_no_single_mapping_is_one_line(text: str, line: str) -> None:
    assert problems(text) == [f"runtime.yaml:{line}"]


def test_every_wrong_field_is_named_at_once_in_the_order_of_lines() -> None:
    text = CPU.replace("cpu: 2", "cpu: x").replace("source: local", "source: x").replace("kind: Runtime", "kind: x")
    fields = [line.split(": ")[1] for line in problems(text)]
    assert fields == ["field kind", "field spec.model.source", "field spec.resources.cpu"]


def test_min_above_max_is_refused_with_both_numbers() -> None:
    text = SEED.replace("minReplicas: 1", "minReplicas: 4")
    assert problems(text) == [
        "runtime.yaml:15:5: field spec.scaling.minReplicas: found 4; "
        "allowed: at most spec.scaling.maxReplicas, which is 3"
    ]


def test_directories_are_read_sorted_and_names_are_unique(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(SEED)
    (tmp_path / "a.yml").write_text(CPU)
    (tmp_path / "notes.txt").write_text("not a manifest")
    assert [each["metadata"]["name"] for each in read_runtimes([tmp_path])] == ["smollm2", "r1-qwen32b-int8"]
    (tmp_path / "c.yaml").write_text(CPU)
    with pytest.raises(
        ManifestError, match=r"c\.yaml:4:3: field metadata\.name: 'smollm2' is also the name in .*a\.yml:4"
    ):
        read_runtimes([tmp_path])


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(None, "cannot read the manifest: No such file or directory"), (b"a: 1\nb: \xff\n", "not UTF-8 text: byte 0xff")],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, content: bytes | None, sentence: str) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ManifestError) as caught:
        read_runtimes([path])
    assert len(caught.value.problems) == 1
    assert sentence in caught.value.problems[0]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + CPU.encode())
    assert read_runtimes([path])[0]["metadata"]["name"] == "smollm2"
    path.write_bytes(b"\xef\xbb\xbfkind: Runtime\nx: a\xff\n")
    with pytest.raises(ManifestError, match=r"x\.yaml:2:5: not UTF-8 text: byte 0xff; save the file as UTF-8"):
        read_runtimes([path])


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ManifestError, match=r"x\.yaml:1:1: cannot read the manifest: more than 1048576 bytes"):
        read_runtimes([path])
    with pytest.raises(ManifestError, match=r"/dev/zero:1:1: cannot read the manifest: not a regular file"):
        read_runtimes([Path("/dev/zero")])


def test_a_file_may_hold_several_runtimes_and_be_named_twice(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"---\n{CPU}---\n---\n{SEED}")
    runtimes = read_runtimes([tmp_path, path, tmp_path])
    assert [(each["metadata"]["name"], each["source"]["line"]) for each in runtimes] == [
        ("smollm2", 5),
        ("r1-qwen32b-int8", 30),
    ]
    with pytest.raises(ManifestError, match=r"x:30:3: a second Runtime, 'r1-qwen32b-int8'; allowed here: one"):
        load_runtime(path.read_text(), "x")


def test_the_problems_of_all_files_are_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CPU.replace("cpu: 2", "cpu: x"))
    (tmp_path / "b.yaml").write_text(CPU + "  scale: 1\n---\n" + SEED.replace("48Gi", "48GiB"))
    with pytest.raises(ManifestError) as caught:
        read_runtimes([tmp_path])
    assert [line.rpartition("/")[2].split(": ")[0] for line in caught.value.problems] == [
        "a.yaml:12:5",
        "b.yaml:24:3",
        "b.yaml:36:5",
    ]


def test_a_file_name_with_line_breaks_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as caught:
        read_runtimes([tmp_path / "a\nb.yaml"])
    assert len(caught.value.problems[0].splitlines()) == 1


@pytest.mark.parametrize("number", ["010", "1_000", "0b1", "1:30", "0o10"])
def test_a_number_that_reads_two_ways_is_text(number: str) -> None:
    runtime = load_runtime(CPU.replace("VLLM_CPU_KVCACHE_SPACE: 1", f"A: {number}"), "runtime.yaml")
    assert runtime["spec"]["engine_environment"] == {"A": number}
    assert len(problems(CPU.replace("host_port: 8001", f"host_port: {number}"))) == 1


KUBERNETES = """\
spec:
  kubernetes:
    api_endpoint: 10.0.0.10:6443
    ca_pins: [sha256:7c2e69131a36ae2a042a339b33381c6d0d43887e2de83720eff5359e26aec866]
    labels: {vllmd.com/model: smollm2}
"""
TOKEN = "abcdef.0123456789abcdef"


def test_a_cluster_to_join_reaches_the_guest_and_its_token_only_at_the_end() -> None:
    runtime = load_runtime(CPU.replace("spec:\n", KUBERNETES, 1), "runtime.yaml")
    guest = guest_config.runtime_json(runtime)
    assert guest["kubernetes"] == {
        "api_endpoint": "10.0.0.10:6443",
        "ca_pins": ["sha256:7c2e69131a36ae2a042a339b33381c6d0d43887e2de83720eff5359e26aec866"],
        "labels": {"vllmd.com/model": "smollm2"},
    }
    full = guest_config.with_token(guest, TOKEN)
    assert full["kubernetes"]["token"] == TOKEN
    assert guest_config.without_secrets(full) == guest
    with pytest.raises(guest_config.ConfigError, match="without a token; give kubernetes_token"):
        guest_config.with_token(guest, None)
    with pytest.raises(guest_config.ConfigError, match="no bootstrap token") as caught:
        guest_config.with_token(guest, "hunter2")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(guest_config.ConfigError, match="guest has no kubernetes"):
        guest_config.with_token({"name": "x"}, TOKEN)


def test_a_label_that_a_node_may_not_give_itself_is_refused() -> None:
    text = CPU.replace("spec:\n", KUBERNETES.replace("vllmd.com/model", "node-role.kubernetes.io/x"), 1)
    assert problems(text) == [
        "runtime.yaml:9:14: field spec.kubernetes.labels.node-role.kubernetes.io/x: a node may not give itself this "
        "label; allowed: a domain of your own, or node.kubernetes.io"
    ]


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="holds no manifest"):
        read_runtimes([tmp_path])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1Ki", 1024),
        ("16G", 16 * 10**9),
        ("1.5Gi", 3 * 2**29),
        ("1e3", 1000),
        (4096, 4096),
        ("0.1k", 100),
        ("1.0001k", 1001),
        ("+1", 1),
        (".5Ki", 512),
        ("1.", 1),
        ("1E", 10**18),
        ("1E3", 1000),
        ("5e-1", 1),
        ("-0", 0),
        (1.5, 2),
    ],
)
def test_quantities_are_kubernetes_quantities(text: str | int, size: int) -> None:
    assert quantities.parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", "Gi", "-1", "1gi", "1 Gi", "1m", "1GiB", "0x10", "1Ei5", "9" * 50, True, None, "1e999", "1e", "1n"]
)
def test_what_is_no_quantity_is_refused(text: Any) -> None:
    with pytest.raises(quantities.QuantityError, match="allowed: "):
        quantities.parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "millis", "cpus"),
    [
        (4, 4000, 4),
        ("500m", 500, 1),
        (0.5, 500, 1),
        ("1500m", 1500, 2),
        ("1e3m1", None, 0),
        ("0.0001", 1, 1),
        ("2k", 2_000_000, 2000),
    ],
)
def test_cpus_are_quantities_and_a_started_one_counts_whole(text: str | float, millis: int | None, cpus: int) -> None:
    if millis is None:
        with pytest.raises(quantities.QuantityError, match="a number of CPUs"):
            quantities.parse_millis(text)
        return
    assert quantities.parse_millis(text) == millis
    assert quantities.to_cpus(millis) == cpus


def test_the_guest_reads_what_the_contract_says() -> None:
    guest = guest_config.runtime_json(load_runtime(CPU, "runtime.yaml"), ["ssh-ed25519 AAAA me"])
    assert guest["model"] == {
        "name": "smollm2",
        "path": "/var/lib/vllmd/models/smollm2-135m-instruct",
        "repository": "smollm2-135m-instruct",
        "source": "local",
    }
    assert guest["network"] == {
        "mode": "static",
        "address": "10.0.2.15/24",
        "gateway": "10.0.2.2",
        "dns": ["10.0.2.3"],
    }
    assert guest["ssh_authorized_keys"] == ["ssh-ed25519 AAAA me"]
    assert guest["uid"] == guest_config.runtime_uid("smollm2")
    assert guest_config.runtime_json(load_runtime(SEED, "runtime.yaml"))["model"]["path"] is None


def test_the_guest_is_told_only_what_differs() -> None:
    plain = guest_config.runtime_json(load_runtime(CPU, "runtime.yaml"))
    assert not {"profile", "storage", "monitoring"} & plain.keys()
    more = """\
spec:
  profile: nvidia-a10
  storage: {cache: {device: /dev/vg/cache, format: true, required: true}}
  monitoring: {node_exporter: false}
"""
    runtime = load_runtime(CPU.replace("spec:\n", more, 1), "runtime.yaml")
    assert runtime["spec"]["storage"]["cache"]["size_mib"] == 0
    guest = guest_config.runtime_json(runtime)
    assert guest["profile"] == "nvidia-a10"
    assert guest["storage"] == {"cache": {"format": True, "required": True}}
    assert guest["monitoring"] == {"node_exporter": False}


def test_a_private_key_is_no_authorized_key() -> None:
    key = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"
    with pytest.raises(guest_config.ConfigError, match="no OpenSSH public key"):
        guest_config.runtime_json(load_runtime(CPU, "runtime.yaml"), [key])


TAP = """\
    mode: tap
    bridge: vllmd0
    address: 192.0.2.10/24
    gateway: 192.0.2.1
"""


def test_launcher_settings_follow_the_manifest() -> None:
    runtime = load_runtime(CPU, "runtime.yaml")
    assert guest_config.launcher_settings(runtime) == {
        "cpu_count": 2,
        "memory_config": "size=5120M,shared=on",
        "network": "mode=user,forward=127.0.0.1:8001:8000",
    }
    tap = load_runtime(CPU.partition("    mode: user")[0] + TAP, "runtime.yaml")
    network = guest_config.launcher_network(tap)
    assert re.fullmatch(r"mode=tap,tap=vm[0-9a-f]{10},bridge=vllmd0", network)
    assert guest_config.guest_network(tap["spec"]["network"])["gateway"] == "192.0.2.1"


def test_a_gateway_outside_of_the_network_is_refused() -> None:
    text = CPU.partition("    mode: user")[0] + TAP.replace("192.0.2.1\n", "198.51.100.1\n")
    assert problems(text) == [
        "runtime.yaml:24:5: field spec.network.gateway: found '198.51.100.1'; allowed: an address in 192.0.2.0/24, the "
        "network of address"
    ]
    text = CPU.partition("    mode: user")[0] + "    mode: tap\n    gateway: 192.0.2.1\n"
    assert problems(text) == [
        "runtime.yaml:22:5: field spec.network.gateway: needs address beside it; add address or remove gateway"
    ]


def test_network_configuration_for_a_stock_cloud_image() -> None:
    static = guest_config.network_config({"mode": "static", "address": "192.0.2.10/24", "gateway": None, "dns": []})
    assert static["ethernets"]["primary"] == {
        "match": {"name": "e*"},
        "dhcp4": False,
        "addresses": ["192.0.2.10/24"],
    }
    assert guest_config.network_config({"mode": "dhcp"})["ethernets"]["primary"]["dhcp4"] is True


def test_the_schema_is_a_schema() -> None:
    schema = json.loads(manifest_schema.SCHEMA_PATH.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
