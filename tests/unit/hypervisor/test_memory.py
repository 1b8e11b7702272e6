"""VLLMD_HYPERVISOR_MEMORY_CONFIG: Cloud Hypervisor's syntax, and what becomes of it in each backend."""

from __future__ import annotations

import pytest

from vllmd_hypervisor.errors import ValueProblem
from vllmd_hypervisor.memory import Memory, cloud_hypervisor_memory, parse_memory, qemu_memory, qemu_problems
from vllmd_hypervisor.quantity import GIB, KIB, MIB


@pytest.mark.parametrize(
    ("text", "memory"),
    [
        ("size=16G,shared=on", Memory(16 * GIB, shared=True)),
        ("size=512M", Memory(512 * MIB)),
        ("size=1T", Memory(1024 * GIB)),
        ("size=268435456", Memory(256 * MIB)),
        ("size=262144K", Memory(256 * MIB)),
        ("shared=off,size=1G", Memory(GIB)),
        ("size=1G,mergeable=on", Memory(GIB, mergeable=True)),
        ("size=4G,hugepages=on", Memory(4 * GIB, hugepages=True)),
        ("size=4G,hugepages=on,hugepage_size=2M", Memory(4 * GIB, hugepages=True, hugepage_size=2 * MIB)),
        ("size=4G,hugepages=on,hugepage_size=1G", Memory(4 * GIB, hugepages=True, hugepage_size=GIB)),
        ("size=1G,prefault=on,thp=off,reserve=on", Memory(GIB, prefault=True, thp=False, reserve=True)),
        (
            "size=1G,hotplug_size=3G,hotplugged_size=1G,hotplug_method=virtio-mem",
            Memory(GIB, hotplug_size=3 * GIB, hotplugged_size=GIB, hotplug_method="virtio-mem"),
        ),
    ],
)
def test_accepted(text: str, memory: Memory) -> None:
    assert parse_memory(text) == memory


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty part"),
        ("16G", "'16G' is not key=value"),
        ("size=", "'size=' is not key=value"),
        ("shared=on", "has no size"),
        ("size=1G,", "empty part"),
        ("size=1G,size=2G", "size is given twice"),
        ("sise=1G", "unknown memory key 'sise' (did you mean size?)"),
        ("size=1G,share=on", "unknown memory key 'share' (did you mean shared?)"),
        ("size=1G,zones=2", "unknown memory key 'zones'"),
        ("size=0", "a guest needs at least 16M"),
        ("size=16", "16 means bytes, write 16G for GiB"),
        ("size=4M", "size is 4M, a guest needs at least 16M"),
        ("size=-1G", "'-1G' is not a size"),
        ("size=1.5G", "'1.5G' is not a size"),
        ("size=1GiB", "'1GiB' is not a size"),
        ("size=g", "'g' is not a size"),
        ("size=" + "9" * 30 + "G", "is not a size"),
        ("size=9999999T", "more than x86-64 can address"),
        ("size=268435457", "multiple of the page size 4K"),
        ("size=1G,shared=yes", "shared: 'yes' is neither on nor off"),
        ("size=1G,hugepage_size=2M", "hugepage_size needs hugepages=on"),
        ("size=1G,hugepages=on,hugepage_size=3M", "power of two"),
        ("size=1G,hugepages=on,hugepage_size=1K", "power of two of at least 4K"),
        ("size=1537M,hugepages=on,hugepage_size=2M", "size must be a multiple of the page size 2M"),
        ("size=1G,hotplug_method=usb", "allowed are acpi, virtio-mem"),
        ("size=1G,hotplugged_size=1G", "hotplugged_size is more than hotplug_size"),
        ("size=1G,hotplug_size=1000", "hotplug_size must be a multiple"),
        ("size=1G,mergeable=on,shared=on", "mergeable=on has no effect"),
    ],
)
def test_refused(text: str, words: str) -> None:
    with pytest.raises(ValueProblem) as caught:
        parse_memory(text)
    assert words in str(caught.value)


def test_cloud_hypervisor_gets_bytes_and_booleans() -> None:
    body = cloud_hypervisor_memory(parse_memory("size=4G,hugepages=on,hugepage_size=2M,shared=on"))
    assert body["size"] == 4 * GIB
    assert body["hugepage_size"] == 2 * MIB
    assert body["shared"] is True
    assert body["hotplug_method"] == "Acpi"
    assert "hotplug_size" not in body


def test_qemu_gets_one_memory_backend() -> None:
    assert qemu_memory(parse_memory("size=16G,shared=on")) == [
        "-m",
        f"size={16 * GIB // KIB}K",
        "-object",
        f"memory-backend-memfd,id=ram0,size={16 * GIB},share=on,merge=off,prealloc=off",
    ]


def test_qemu_gets_huge_pages_prefaulted_and_reserved() -> None:
    (*_, backend) = qemu_memory(parse_memory("size=2G,hugepages=on,hugepage_size=1G,prefault=on,reserve=on"))
    assert backend.endswith(f"share=off,merge=off,prealloc=on,hugetlb=on,hugetlbsize={GIB},reserve=on")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("size=1G,hotplug_size=1G", "no memory hotplug"),
        ("size=1G,hotplug_method=virtio-mem", "no memory hotplug"),
        ("size=1G,thp=off", "cannot turn transparent huge pages off"),
    ],
)
def test_qemu_says_what_it_cannot_do(text: str, words: str) -> None:
    (problem,) = qemu_problems(parse_memory(text))
    assert words in problem


def test_qemu_can_do_the_default() -> None:
    assert qemu_problems(parse_memory("size=16G,shared=on")) == []
