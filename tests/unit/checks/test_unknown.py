"""What a host does not tell is a SKIP that says so: never a crash, and never a verdict made up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from random import Random
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.checks.html import host_page
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import FAIL, RISK, SKIP, WARN
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import make_policy
from ansible_collections.vllmd.platform.plugins.module_utils.checks.run import NOT_READY, Report, run_checks
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from tests.support.healthy_host import GPU, Change, changed, changed_device, healthy_host

WORDS = (
    "10de",
    "2330",
    "intel",
    "amd",
    "identity",
    "none",
    GPU,
    "vfio-pci",
    "/dev/kvm",
    "x86_64",
    "nvidia",
    "grub",
    "",
)
POLICIES: list[dict[str, Any]] = [
    {},
    {"confidential": "any", "nested": True, "accelerator_count": 8, "hugepages_gib": 4, "packages": ["x"]},
]


def broken(report: Report) -> list[str]:
    return [f"{item.id}: {item.evidence}" for item in report.findings if "the check itself failed" in item.evidence]


def unknown_fields() -> Iterator[tuple[str, Change]]:
    """Yield every field of the tree, and of one accelerator, as a change to not known."""
    host = healthy_host()
    for part in fields(Host):
        value = getattr(host, part.name)
        for item in fields(value) if hasattr(value, "__dataclass_fields__") else ():
            # The model has no None for these: what is not known is empty.
            empty = type(getattr(value, item.name))() if isinstance(getattr(value, item.name), (tuple, dict)) else None
            yield f"{part.name}.{item.name}", changed(part.name, **{item.name: empty})
    for item in fields(host.pci.devices[GPU]):
        value = getattr(host.pci.devices[GPU], item.name)
        if item.name in ("bdf", "is_bridge", "vfio_driver", "bars_bytes", "has_rom"):
            continue
        yield f"gpu.{item.name}", changed_device(GPU, **{item.name: () if isinstance(value, tuple) else None})


CASES = list(unknown_fields())


@pytest.mark.parametrize("change", [case[1] for case in CASES], ids=[case[0] for case in CASES])
def test_one_unknown_field_is_no_failure(change: Change) -> None:
    report = run_checks(change(healthy_host()), make_policy({}))
    assert not broken(report)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_host_of_which_nothing_is_known_is_not_ready_and_nothing_else_is_invented(policy: dict[str, Any]) -> None:
    report = run_checks(Host(), make_policy(policy))
    assert not broken(report)
    assert report.verdict == NOT_READY
    assert [item.id for item in report.findings if item.status in (FAIL, RISK, WARN)] == ["facts-complete"]
    assert sum(item.status == SKIP for item in report.findings) > 100
    assert all(item.evidence for item in report.findings)


def anything(kind: Any, random: Random) -> Any:
    """Return some value of a type of the model; every field of a dataclass is filled, those with defaults too."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{item.name: anything(hints[item.name], random) for item in fields(kind)})
    if origin is tuple and arguments[-1] is Ellipsis:
        return tuple(anything(arguments[0], random) for _number in range(random.randrange(3)))
    if origin is tuple:
        return tuple(anything(argument, random) for argument in arguments)
    if origin is dict:
        pairs = range(random.randrange(4))
        return {anything(arguments[0], random): anything(arguments[1], random) for _number in pairs}
    if origin in (Union, UnionType):
        return anything(random.choice(arguments), random)
    if kind is str:
        return random.choice([*WORDS, "".join(chr(random.randrange(0x2FF)) for _number in range(4))])
    if kind is int:
        return random.choice([0, 1, 20, 0x030200, 0x068000, -1, random.randrange(-(2**40), 2**64)])
    return {float: random.random() * 64, bool: random.random() < 0.5}.get(kind)


@pytest.mark.parametrize("policy", POLICIES)
def test_any_tree_of_the_model_is_judged(policy: dict[str, Any]) -> None:
    """150 hosts of arbitrary numbers and texts in every field, such as no machine has."""
    for seed in range(150):
        host = anything(Host, Random(seed))  # noqa: S311 - a seed that repeats is the point
        report = run_checks(host, make_policy(policy))
        assert not broken(report), seed
        assert host_page({"host": "x", "checked": "now", **report.as_dict()})
