"""Whatever manifest is accepted for a cluster, what it becomes is accepted by Kubernetes: names, labels, quantities."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import kubernetes_validate
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.names import (
    is_label_name,
    object_name,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.render import files
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.settings import settings as chosen
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.workload import cpus, quantity
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.yaml_text import dump
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtime
from ansible_collections.vllmd.platform.plugins.module_utils.quantities import parse_bytes, parse_millis

IMAGE = "registry.example.com/a@sha256:" + "0" * 64
#: kubernetes.io: a Service's name (RFC 1035), a label's name and value, a canonical quantity.
SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"[0-9]+(m|Ki|Mi|Gi|Ti)?")

runtime_names = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
words = st.text(st.sampled_from("abcxyz0123456789"), min_size=1, max_size=20)
texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="\x7f"), max_size=30) | (
    st.sampled_from(
        ["yes", "1e3", "0o17", "0x1f", "1:30", "~", "=", "$(HOME)", "null", "- a", "#", "1_000", ".5", "a: b"]
    )
)


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """A manifest that is accepted for a cluster."""
    count = draw(st.integers(0, 16))
    resources: dict[str, Any] = {
        "accelerator_count": count,
        "cpu": draw(st.integers(1, 256) | st.integers(1, 256000).map(lambda millis: f"{millis}m")),
        "memory": draw(
            st.integers(128, 10**7).map(lambda mib: f"{mib}Mi") | st.integers(1, 900).map(lambda gb: f"{gb}G")
        ),
    }
    if count:
        resources |= draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "accelerator_type": st.sampled_from(["nvidia-a40", "amd-mi300x", "pci-1234-5678"]),
                    "accelerator_memory": st.integers(1, 500).map(lambda gib: f"{gib}Gi"),
                },
            )
        )
    lowest, more = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    spec: dict[str, Any] = {
        "model": draw(
            st.sampled_from(
                [
                    {"name": "m", "source": "local", "repository": "m"},
                    {"name": "a/b:c", "source": "huggingface", "repository": "a/b"},
                ]
            )
        ),
        "resources": resources,
        "scaling": {"minReplicas": lowest, "maxReplicas": max(1, lowest + more)},
        "engine": draw(
            st.dictionaries(
                st.sampled_from(["dtype", "max_model_len", "enforce-eager", "x-y"]),
                texts | st.integers() | st.booleans() | st.lists(texts, max_size=3) | st.dictionaries(words, texts),
                max_size=3,
            )
        ),
        "engine_environment": draw(st.dictionaries(st.sampled_from(["A", "B_C", "VLLM_D"]), texts, max_size=3)),
        "placement": {
            "target": "kubernetes",
            "anti_affinity": draw(st.sampled_from(["none", "preferred", "required"])),
            "strategy": draw(st.sampled_from(["pack", "spread"])),
            "hosts": draw(st.lists(words, max_size=3, unique=True)),
        },
    }
    if draw(st.booleans()):
        spec["storage"] = {"cache": {"size": draw(st.integers(64, 10**7).map(lambda mib: f"{mib}Mi"))}}
    if draw(st.booleans()):
        allow = {"to": draw(st.sampled_from(["0.0.0.0/0", "10.0.0.0/7", "192.0.2.1"])), "tcp": [443], "udp": [53, 52]}
        spec["network"] = {"mode": "isolated", "allow": [allow]}
    labels = st.dictionaries(words.filter(is_label_name), words, max_size=3)
    metadata = {"name": draw(runtime_names), "labels": draw(labels)}
    return {"apiVersion": "vllmd.com/v1alpha1", "kind": "Runtime", "metadata": metadata, "spec": spec}


def walk(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Return every value of an object with its path."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(path, value), *(found for key, below in items for found in walk(below, (*path, key)))]


@settings(max_examples=60, deadline=None)
@given(
    manifest=manifests(),
    version=st.sampled_from(["1.33", "1.34", "1.35", "1.36", "1.37"]),
    options=st.fixed_dictionaries(
        {},
        optional={
            "scaling_metric": st.sampled_from(["cpu", "queue"]),
            "start_seconds": st.integers(60, 86400),
            "drain_seconds": st.integers(0, 3600),
            "service_monitor": st.booleans(),
            "runtime_class": st.just("nvidia"),
            "secrets": st.just([{"variable": "HF_TOKEN", "secret": "a", "key": "b"}]),
        },
    ),
)
def test_kubernetes_accepts_what_an_accepted_manifest_becomes(
    manifest: dict[str, Any], version: str, options: dict[str, Any]
) -> None:
    runtime = load_runtime(yaml.dump(manifest, allow_unicode=True), "runtime.yaml")
    given_settings = chosen({"images": {"vllmd-cpu": IMAGE, "vllmd-cuda": IMAGE}, **options})
    written = files([runtime], given_settings)
    assert written == files([runtime], given_settings)
    name = runtime["metadata"]["name"]
    objects = list(yaml.safe_load_all(written[f"{name}.yaml"]))
    for each in objects:
        if each["kind"] != "ServiceMonitor":
            kubernetes_validate.validate(each, version, strict=True)
        assert SERVICE_NAME.fullmatch(each["metadata"]["name"])
        for path, value in walk(each):
            if path and path[-1] in ("labels", "matchLabels", "nodeSelector"):
                assert all(LABEL_VALUE.fullmatch(text) for text in value.values())
            if path and path[-1] in ("requests", "limits"):
                assert all(QUANTITY.fullmatch(text) and text != "0" for text in value.values())
    (deployment,) = [each for each in objects if each["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    seconds = next(int(each.partition("=")[2]) for each in container["args"] if each.startswith("--shutdown-timeout="))
    assert pod["terminationGracePeriodSeconds"] > seconds + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    environment = (
        {each["name"]: each["value"].replace("$$", "$") for each in container["env"] if "value" in each}
        if ("env" in container)
        else {}
    )
    for variable, value in runtime["spec"]["engine_environment"].items():
        assert environment[variable] == value
    limits = container["resources"]["limits"]
    shared = next(each for each in pod["volumes"] if each["name"] == "shm")["emptyDir"]["sizeLimit"]
    assert parse_bytes(shared) * 2 <= parse_bytes(limits["memory"]) + 2**20
    assert (deployment["spec"].get("replicas") is None) == any(
        each["kind"] == "HorizontalPodAutoscaler" for each in objects
    )


@given(st.integers(1, 2**62))
def test_a_quantity_is_exact_and_in_its_largest_unit(size_bytes: int) -> None:
    text = quantity(size_bytes)
    assert parse_bytes(text) == size_bytes
    assert QUANTITY.fullmatch(text)
    number = re.match(r"[0-9]+", text)
    assert number
    assert Decimal(number[0]) % 1024 or text.endswith("Ti")


@given(st.integers(1, 10**6))
def test_cpus_are_exact(millis: int) -> None:
    assert parse_millis(cpus(millis)) == millis


@given(runtime_names, runtime_names)
def test_long_names_are_cut_and_stay_apart(one: str, other: str) -> None:
    names = [object_name(each, "cache") for each in (one, other)]
    assert all(SERVICE_NAME.fullmatch(each) for each in names)
    assert (names[0] == names[1]) == (one == other)


def test_names_that_differ_at_their_end_only_stay_apart() -> None:
    one, other = (object_name("a" * 62 + end, "cache") for end in "bc")
    assert one != other
    assert len(one) == len(other) == 63


any_texts = st.text(max_size=50) | texts


@given(
    st.recursive(
        any_texts | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner) | st.dictionaries(any_texts, inner),
    )
)
def test_text_stays_text(value: Any) -> None:
    written = dump([{"value": value}], "# header\n")
    reader = YAML(typ="safe", pure=True)
    reader.version = (1, 2)
    assert list(yaml.safe_load_all(written)) == list(reader.load_all(written)) == [{"value": value}]
