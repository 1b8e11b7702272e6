"""What a host runs on, down to the PCI function, through everything that hides it."""

from __future__ import annotations

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import BlockUse, Host
from tests.support.hosts import ETHERNET, NVME, SATA, HostTree, host_of

_DISK, _OTHER, _NIC = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"


@pytest.fixture
def host() -> HostTree:
    """Return a host with two NVMe drives and a network card, nothing of them in use."""
    made = HostTree()
    made.pci(_DISK, "144d:a80a", NVME, driver="nvme")
    made.pci(_OTHER, "144d:a80a", NVME, driver="nvme")
    made.pci(_NIC, "8086:1593", ETHERNET, driver="ice")
    made.disk("nvme0n1", "259:0", _DISK, "nvme/nvme0", partitions=2)
    made.disk("nvme1n1", "259:8", _OTHER, "nvme/nvme1")
    return made


def uses(tree: HostTree) -> dict[str, BlockUse]:
    return {f"{use.purpose} {use.device}": use for use in host_of(tree.tree).storage.uses}


def test_a_partition_is_on_its_disk(host: HostTree) -> None:
    host.mount("259:2", "/", "ext4", "/dev/root")
    assert uses(host)["mount / nvme0n1p2"].pci_devices == (_DISK,)


def test_luks_over_md_over_two_drives(host: HostTree) -> None:
    host.block("md0", "9:0", "sys/devices/virtual/block/md0", 100, slaves=("nvme0n1p2", "nvme1n1"))
    host.mapped(3, "crypt-home", ("md0",))
    host.mount("253:3", "/home", "xfs", "/dev/mapper/crypt-home")
    assert uses(host)["mount /home dm-3"].pci_devices == (_DISK, _OTHER)


def test_nvme_with_multipath_has_a_virtual_disk(host: HostTree) -> None:
    base = "sys/devices/virtual/nvme-subsystem/nvme-subsys2"
    host.block("nvme2n1", "259:20", f"{base}/nvme2n1", 100)
    for name, bdf in (("nvme2", _DISK), ("nvme3", _OTHER)):
        host.directory(f"{host.places[bdf]}/nvme/{name}")
        host.link(f"{base}/{name}", f"{host.places[bdf]}/nvme/{name}")
    host.mount("259:20", "/", "ext4", "/dev/nvme2n1")
    assert uses(host)["mount / nvme2n1"].pci_devices == (_DISK, _OTHER)


def test_btrfs_names_one_of_its_drives_and_stands_on_all(host: HostTree) -> None:
    base = "sys/fs/btrfs/c0ffee/devices"
    for name in ("nvme0n1p1", "nvme1n1"):
        host.directory(f"{base}/{name}")
    host.mount("0:42", "/", "btrfs", "/dev/nvme0n1p1")
    assert {use.pci_devices for use in uses(host).values()} == {(_DISK,), (_OTHER,)}


def test_a_loop_device_stands_on_the_disk_of_its_file(host: HostTree) -> None:
    host.mount("259:1", "/var", "ext4", "/dev/nvme0n1p1")
    host.block("loop0", "7:0", "sys/devices/virtual/block/loop0", 1)
    host.text("sys/devices/virtual/block/loop0/loop/backing_file", "/var/images/a b.img")
    host.mount("7:0", "/mnt/a\\040b", "ext4", "/dev/loop0")
    assert uses(host)["mount /mnt/a b loop0"].pci_devices == (_DISK,)


def test_zfs_hides_its_drives(host: HostTree) -> None:
    host.mount("0:50", "/", "zfs", "rpool/ROOT")
    (use,) = uses(host).values()
    assert (use.device, use.pci_devices) == (None, ())


def test_network_disks_and_memory_disks_have_no_function(host: HostTree) -> None:
    host.block("sda", "8:0", "sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/block/sda", 10)
    host.block("zram0", "254:0", "sys/devices/virtual/block/zram0", 10)
    host.mount("8:0", "/data", "ext4", "/dev/sda")
    host.text(
        "proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/zram0 partition 1 0 1\n/swap\\040file file 1 0 1"
    )
    read = host_of(host.tree).storage
    assert read.devices["sda"].is_network
    assert not read.devices["zram0"].is_network
    assert [(use.purpose, use.device, use.pci_devices) for use in read.uses] == [
        ("mount /data", "sda", ()),
        ("swap", "zram0", ()),
    ]


def test_who_has_a_logical_volume_open_has_its_disks_open(host: HostTree) -> None:
    host.mapped(3, "vg0-osd", ("nvme0n1p2", "nvme1n1"))
    host.process(40, "ceph-osd", ("/dev/dm-3",), "ceph-osd@1.service")
    devices = host_of(host.tree).pci.devices
    assert [handle.path for handle in devices[_DISK].handles] == ["/dev/dm-3"]
    assert [handle.command for handle in devices[_OTHER].handles] == ["ceph-osd"]
    assert devices[_NIC].handles == ()


def test_file_systems_without_a_device_are_no_use(host: HostTree) -> None:
    for number, target, kind in (("0:1", "/proc", "proc"), ("0:2", "/run", "tmpfs"), ("0:3", "/o", "overlay")):
        host.mount(number, target, kind, kind)
    assert uses(host) == {}


def test_space_is_that_of_the_nearest_directory(host: HostTree) -> None:
    host.mount("259:1", "/", "ext4", "/dev/nvme0n1p1", gib=(100, 40))
    host.mount("259:2", "/var/lib/vllmd", "xfs", "/dev/nvme0n1p2", gib=(1000, 900))
    by_path = {each.asked_path: each for each in host_of(host.tree).storage.filesystems}
    images = by_path["/var/lib/vllmd/images"]
    assert (images.path, images.mount, images.type) == ("/var/lib/vllmd", "/var/lib/vllmd", "xfs")
    assert images.available_bytes == 900 << 30
    assert by_path["/"].size_bytes == 100 << 30


def test_hugetlbfs_tells_its_page_size(host: HostTree) -> None:
    host.mount("0:9", "/dev/hugepages", "hugetlbfs", "hugetlbfs")
    assert host_of(host.tree).memory.hugetlbfs_mounts == ("/dev/hugepages rw,relatime",)


def test_a_disk_behind_a_volume_management_device_names_that_too(host: HostTree) -> None:
    vmd = host.pci("0000:00:0e.0", "8086:467f", SATA, driver="vmd")
    place = f"{host.places[vmd]}/pci10000:e0/10000:e0:06.0/10000:e1:00.0/nvme/nvme5/nvme5n1"
    host.block("nvme5n1", "259:30", place, 100)
    host.mount("259:30", "/", "ext4", "/dev/nvme5n1")
    assert uses(host)["mount / nvme5n1"].pci_devices == ("0000:00:0e.0", "10000:e0:06.0", "10000:e1:00.0")


def network(tree: HostTree) -> Host:
    return host_of(tree.tree)


def test_a_vlan_on_a_bridge_on_a_card(host: HostTree) -> None:
    host.nic("eth0", _NIC, "ice")
    host.nic("br0", None, lowers=("eth0",))
    host.nic("br0.5", None, lowers=("br0",))
    host.route("br0.5")
    read = network(host).network
    assert read.default_route_interfaces == ("br0.5",)
    assert read.interfaces["br0.5"].pci_devices == (_NIC,)
    assert read.interfaces["eth0"].master == "br0"


def test_an_open_vswitch_bridge_may_leave_by_any_port(host: HostTree) -> None:
    host.nic("ovs-system", None)
    for name, bdf in (("br-ex", None), ("eth0", _NIC)):
        host.nic(name, bdf, "ice")
        target = host.tree[f"sys/class/net/{name}"]
        assert isinstance(target, dict)
        host.link(f"sys/{target['link'].removeprefix('../../')}/master", "sys/devices/virtual/net/ovs-system")
    assert network(host).network.interfaces["br-ex"].pci_devices == (_NIC,)


def test_a_virtual_function_names_its_physical_one(host: HostTree) -> None:
    host.pci("0000:03:01.0", "8086:1889", ETHERNET, driver="iavf")
    host.link(f"{host.places['0000:03:01.0']}/physfn", host.places[_NIC])
    host.nic("eth9", "0000:03:01.0", "iavf")
    read = network(host)
    assert read.network.interfaces["eth9"].pci_devices == (_NIC, "0000:03:01.0")
    assert read.pci.devices["0000:03:01.0"].physical_function == _NIC


def test_ssh_goes_by_the_most_specific_route(host: HostTree) -> None:
    host.nic("eth0", _NIC, "ice")
    host.nic("eth1", _NIC, "ice")
    host.route("eth0")
    host.route("eth1", "198.51.100.0/24", "192.0.2.9")
    host.ssh(peer="198.51.100.7")
    read = network(host).network
    assert read.ssh_peers == ("198.51.100.7",)
    assert read.ssh_interfaces == ("eth1",)
    assert read.default_route_interfaces == ("eth0",)


def test_ssh_without_its_variable_is_seen_in_the_connections(host: HostTree) -> None:
    host.route("eth0")
    rows = [
        "  sl  local_address rem_address   st",
        "   0: 0A0200C0:0016 076433C6:C350 01 0",
        "   1: 0A0200C0:0016 096433C6:C350 06 0",
    ]
    host.text("proc/net/tcp", "\n".join(rows))
    mapped = "0000000000000000FFFF0000086433C6"
    host.text("proc/net/tcp6", f"header\n   0: {mapped}:0016 {mapped}:C350 01 0\n   1: garbage")
    read = network(host).network
    assert read.ssh_peers == ("198.51.100.7", "198.51.100.8")
    assert read.ssh_interfaces == ("eth0",)


def test_sudo_clears_the_variable_but_not_its_caller_s(host: HostTree) -> None:
    host.route("eth0")
    host.text("proc/self/status", "Name:\tpython3\nPPid:\t700")
    host.text("proc/700/status", "Name:\tsshd\nPPid:\t1")
    host.tree["proc/700/environ"] = "A=1\0SSH_CONNECTION=203.0.113.5 1 192.0.2.1 22\0"
    assert network(host).network.ssh_peers == ("203.0.113.5",)


def test_ipv6_and_network_file_systems(host: HostTree) -> None:
    zero = "0" * 32
    reject = f"{zero} 00 {zero} 00 {zero} ffffffff 1 0 00200200 lo"
    default = f"{zero} 00 {zero} 00 {'fe80'.ljust(32, '0')} 00000400 1 0 00000003 eth6"
    prefix = f"{'20010db8'.ljust(32, '0')} 20 {zero} 00 {zero} 00000100 1 0 00000001 eth7"
    host.text("proc/net/ipv6_route", "\n".join([reject, default, prefix, "garbage"]))
    host.mount("0:77", "/models", "nfs4", "[2001:db8::5]:/models")
    host.mount("0:78", "/nfs", "nfs4", "files.example:/x rw,vers=4.2,addr=2001:db8::7,")
    host.mount("0:79", "/other", "nfs4", "files.example:/y")
    host.ssh(peer="fe80::9%eth8")
    read = network(host).network
    assert read.default_route_interfaces == ("eth6",)
    assert read.storage_interfaces == ("eth7",)
    assert read.ssh_interfaces == ("eth8",)
