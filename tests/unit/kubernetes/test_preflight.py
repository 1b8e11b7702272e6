"""Why a host cannot be a node: each reason alone, in one line, with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.host_state import HostState, read_state
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.pins import Membership
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.preflight import (
    Around,
    Wanted,
    problems,
    sysctl_differs,
)
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.versions import Version

PIN, OTHER = "sha256:" + "a" * 64, "sha256:" + "b" * 64
MACHINE = "0123456789abcdef0123456789abcdef"
HOST = HostState(
    hostname="gpu-1",
    machine_id=MACHINE,
    product_uuid="11111111-2222-3333-4444-555555555555",
    modules=frozenset({"overlay"}),
    loadable=frozenset({"br_netfilter"}),
    sysctl={"net.ipv4.ip_forward": "0"},
    listening=frozenset({22}),
)
WANTED = Wanted(
    name="gpu-1",
    version=Version(1, 33, 1),
    modules=("overlay", "br_netfilter"),
    sysctl={"net.ipv4.ip_forward": 1, "net.bridge.bridge-nf-call-iptables": 1},
    pins=(PIN,),
    endpoint="10.0.0.10:6443",
)
AROUND = Around(is_clock_synchronized=True)


def test_nothing_stands_against_a_good_host() -> None:
    assert problems(HOST, WANTED, AROUND) == []


@pytest.mark.parametrize(
    ("host", "wanted", "around", "what", "remedy"),
    [
        ({"swaps": ("/dev/sda2",)}, {"swap": "refuse"}, {}, "swap: /dev/sda2 is on", "kubernetes_node_swap"),
        ({"loadable": frozenset()}, {}, {}, "module: br_netfilter", "install the kernel's modules"),
        ({}, {"sysctl": {"vm.nothing": 1}}, {}, "sysctl: the kernel has no vm.nothing", "kubernetes_node_sysctl"),
        ({}, {}, {"init": "other"}, "cgroup driver: systemd is wanted", "cgroupfs"),
        ({}, {"version": Version(1, 35, 0)}, {"cgroup_layout": "hybrid"}, "cgroups: the layout is hybrid", "boot with"),
        ({}, {}, {"clock_offset": -500.0}, "clock: 500 s behind", "synchronise it"),
        ({}, {}, {"clock_offset": 300.0}, "clock: 300 s ahead of", "synchronise it"),
        ({}, {}, {"is_clock_synchronized": False}, "clock: it is not synchronised", "chrony"),
        ({"listening": frozenset({10250})}, {}, {}, "port: 10250 is in use", "stop that"),
        ({}, {}, {"unresolved": ["api.example.com"]}, "name: api.example.com does not resolve", "/etc/hosts"),
        ({}, {}, {"unresolved": ["gpu-1"]}, "name: gpu-1 does not resolve", "kubernetes_node_address"),
        ({"machine_id": ""}, {}, {}, "machine-id: /etc/machine-id is empty", "systemd-machine-id-setup"),
        ({}, {}, {"nodes": [{"name": "gpu-1"}]}, "node name: the cluster has a node gpu-1", "kubernetes_node_name"),
        ({}, {}, {"nodes": [{"name": "b", "machine_id": MACHINE}]}, "machine-id: node b has the same", "clone"),
        (
            {},
            {},
            {"nodes": [{"name": "b", "system_uuid": "11111111-2222-3333-4444-555555555555".upper()}]},
            "product uuid: node b has the same",
            "one of its own",
        ),
        (
            {},
            {},
            {"membership": Membership("https://10.0.0.9:6443", (OTHER,))},
            "cluster: this host is a node of https://10.0.0.9:6443",
            "kubernetes_node_state: left",
        ),
        (
            {},
            {},
            {"membership": Membership("https://10.0.0.10:6443", (PIN,)), "kubelet": "1.32.4-1.1"},
            "version: this node's kubelet is 1.32.4, and v1.33.1 is asked for",
            "drain the node",
        ),
    ],
)
def test_each_reason_is_one_line(
    host: dict[str, Any], wanted: dict[str, Any], around: dict[str, Any], what: str, remedy: str
) -> None:
    found = problems(replace(HOST, **host), replace(WANTED, **wanted), replace(AROUND, **around))
    assert len(found) == 1, found
    assert found[0].startswith(what)
    assert remedy in found[0]
    assert "\n" not in found[0]


@pytest.mark.parametrize(
    ("host", "wanted", "around"),
    [
        ({"swaps": ("/dev/sda2",)}, {}, {}),
        ({"swaps": ("/dev/sda2",)}, {"swap": "allow"}, {}),
        # It has the clock, and the product uuid, of the machine below.
        ({}, {}, {"is_clock_synchronized": False, "virtualization": "systemd-nspawn"}),
        (
            {},
            {},
            {
                "virtualization": "systemd-nspawn",
                "nodes": [{"name": "b", "system_uuid": "11111111-2222-3333-4444-555555555555"}],
            },
        ),
        ({}, {"address": "10.0.0.21"}, {"unresolved": ["gpu-1"]}),
        ({}, {"version": Version(1, 34, 9)}, {"cgroup_layout": "hybrid"}),
        # A member already: its own kubelet has the ports, and its own name is in the cluster.
        (
            {"listening": frozenset({10248, 10250})},
            {},
            {"membership": Membership("https://10.0.0.10:6443", (PIN,)), "nodes": [{"name": "gpu-1"}]},
        ),
        ({}, {}, {"membership": Membership("https://10.0.0.10:6443", (PIN,)), "kubelet": "1.33.0-1.1"}),
        ({}, {}, {"kubelet": "1.20.2-1"}),
        ({}, {"state": "prepared", "pins": ()}, {"membership": Membership("https://10.0.0.9:6443", (OTHER,))}),
    ],
)
def test_what_is_no_reason(host: dict[str, Any], wanted: dict[str, Any], around: dict[str, Any]) -> None:
    assert problems(replace(HOST, **host), replace(WANTED, **wanted), replace(AROUND, **around)) == []


def test_what_differs_of_the_kernels_settings() -> None:
    assert sysctl_differs(HOST, WANTED.sysctl) == {
        "net.ipv4.ip_forward": "1",
        "net.bridge.bridge-nf-call-iptables": "1",
    }
    assert sysctl_differs(HOST, {"net.ipv4.ip_forward": 0}) == {}


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_host_is_read_below_a_root(tmp_path: Path) -> None:
    put(
        tmp_path,
        {
            "proc/sys/kernel/hostname": "gpu-1\n",
            "proc/sys/kernel/osrelease": "6.1.0\n",
            "etc/machine-id": f"{MACHINE}\n",
            "sys/class/dmi/id/product_uuid": "11111111-2222-3333-4444-55555555ABCD\n",
            "proc/swaps": "Filename Type Size Used Priority\n/dev/sda2 partition 8 0 -2\n",
            "etc/fstab": "# /dev/sdz none swap sw 0 0\nUUID=1 / ext4 defaults 0 1\n/dev/sda2\tnone\tswap\tsw\t0 0\n\n",
            "proc/filesystems": "nodev\tsysfs\nnodev\toverlay\n",
            "lib/modules/6.1.0/modules.dep": "kernel/net/bridge/br_netfilter.ko.xz: kernel/net/bridge/bridge.ko.xz\n",
            "lib/modules/6.1.0/modules.builtin": "kernel/net/ipv4/ip-tables.ko\n",
            "proc/sys/net/ipv4/ip_forward": "1\n",
            "proc/sys/net/ipv4/tcp_rmem": "4096\t131072\t6291456\n",
            "proc/net/tcp": "  sl  local_address rem_address   st\n"
            "   0: 00000000:280A 00000000:0000 0A 0\n   1: 0100007F:0050 0100007F:1F90 01 0\n",
            "proc/net/tcp6": "  sl  local_address remote_address st\n   0: "
            "" + "0" * 32 + ":0016 " + "0" * 32 + ":0000 0A\n",
            "usr/bin/nvidia-container-runtime": "",
        },
    )
    keys = ["net.ipv4.ip_forward", "net.ipv4.tcp_rmem", "vm.nothing"]
    found = read_state(tmp_path, ["overlay", "br_netfilter", "ip_tables", "nothing"], keys)
    assert found == HostState(
        hostname="gpu-1",
        machine_id=MACHINE,
        product_uuid="11111111-2222-3333-4444-55555555abcd",
        swaps=("/dev/sda2",),
        swaps_at_boot=("/dev/sda2",),
        modules=frozenset({"overlay"}),
        loadable=frozenset({"br_netfilter", "ip_tables"}),
        sysctl={"net.ipv4.ip_forward": "1", "net.ipv4.tcp_rmem": "4096 131072 6291456"},
        listening=frozenset({10250, 22}),
        has_nvidia_runtime=True,
    )


def test_nothing_to_read_is_no_error(tmp_path: Path) -> None:
    assert read_state(tmp_path, ["overlay"], ["vm.x"]) == HostState()
