"""What the machines have in common: a board's idle devices, Debian 13 with what a hypervisor host has."""

from __future__ import annotations

from tests.support.hosts import HOST_BRIDGE, SYSTEM, HostTree

KIB, MIB = 1 << 10, 1 << 20
ACS_FULL = (0x001F, 0x001D)
CONNECTX7 = "15b3:1021"


def board(host: HostTree, bdf: str, ids: str, node: int) -> None:
    """Add a host bridge, and the devices of a board that sit right on the root bus and matter to no one."""
    host.pci(bdf, ids, HOST_BRIDGE, group=0, node=node, resets="")
    for index in range(1, 5):
        host.pci(f"0000:f{index}:00.1", "8086:09a4", SYSTEM, group=200 + index, node=node, resets="")


def software(host: HostTree, firmware: str, loader: str, cmdline: str, modules: tuple[str, ...]) -> None:
    """Add Debian 13 with what a hypervisor host has."""
    full = f"BOOT_IMAGE=/boot/vmlinuz-{host.kernel} root=/dev/mapper/root ro {cmdline}".strip()
    host.text("proc/cmdline", full)
    host.text(
        "proc/modules", "\n".join([*modules, "kvm 1400000 1 kvm_intel, Live 0x0", "vhost_net 36864 0 - Live 0x0"])
    )
    for name, value in (
        ("osrelease", host.kernel),
        ("version", "#1 SMP PREEMPT_DYNAMIC"),
        ("tainted", 0),
        ("hostname", "node1"),
    ):
        host.text(f"proc/sys/kernel/{name}", value)
    host.tree["etc/os-release"] = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_ID="13"\n'
    if firmware == "uefi":
        host.tree["sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"] = {"hex": "0600000000"}
    if loader == "grub":
        host.tree["etc/default/grub"] = f'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="{cmdline}"\n'
        host.present("boot/grub/grub.cfg")
    else:
        info = "systemd-boot 257.8-1~deb13u2".encode("utf-16-le").hex()
        host.tree["sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"] = {
            "hex": f"06000000{info}0000"
        }
        host.tree["etc/kernel/cmdline"] = f"root=/dev/nvme0n1p2 ro {cmdline}\n"
    host.present(f"boot/vmlinuz-{host.kernel}")
    host.present("usr/sbin/update-initramfs")
    options = (
        "INTEL_IOMMU",
        "AMD_IOMMU",
        "IRQ_REMAP",
        "KVM",
        "VFIO",
        "VFIO_PCI",
        "IOMMUFD",
        "PCI_IOV",
        "NUMA",
        "HUGETLBFS",
        "MODULE_SIG",
    )
    host.tree[f"boot/config-{host.kernel}"] = "".join(f"CONFIG_{name}=y\n" for name in options)
    base = f"lib/modules/{host.kernel}"
    host.tree[f"{base}/modules.dep"] = "".join(
        f"kernel/drivers/{name}.ko.xz:\n"
        for name in ("vfio/vfio", "vfio/pci/vfio-pci", "vfio/vfio_iommu_type1", "vhost/vhost_vsock", "net/tun")
    )
    host.tree.setdefault(f"{base}/modules.alias", "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci\n")
    host.tree[f"{base}/modules.builtin"] = "kernel/fs/hugetlbfs/hugetlbfs.ko\n"
    host.text("sys/kernel/security/lockdown", "[none] integrity confidentiality")
    host.text("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory hugetlb pids")
    for path, node in (
        ("dev/kvm", (0o660, 0, 104)),
        ("dev/net/tun", (0o666, 0, 0)),
        ("dev/vfio/vfio", (0o666, 0, 0)),
        ("dev/vhost-net", (0o660, 0, 104)),
    ):
        host.device_node(path, *node)
    host.tree["etc/group"] = "root:x:0:\nvideo:x:44:\nkvm:x:104:vllmd\n"
    host.tree["etc/passwd"] = "root:x:0:0::/:\nvllmd:x:990:990::/:\n"
    names = {
        "qemu-system-x86": "1:10.0.2+ds-2",
        "ovmf": "2025.02-8",
        "linux-image-amd64": "6.12.43-1",
        "initramfs-tools": "0.148.3",
    }
    host.tree["var/lib/dpkg/status"] = "".join(
        f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n\n" for name, version in names.items()
    )
    for path in ("usr/bin/qemu-system-x86_64", "usr/share/OVMF/OVMF_CODE_4M.fd"):
        host.present(path)
    for path in ("run/systemd/system", "run/systemd/timesync", "var/lib/vllmd"):
        host.directory(path)
    host.present("run/systemd/timesync/synchronized")
    host.tree["proc/self/limits"] = "Max locked memory         8388608              8388608              bytes     \n"


def drm(host: HostTree, bdf: str, card: int, render: int) -> None:
    """Add the nodes of a graphics card."""
    for name in (f"card{card}", f"renderD{render}"):
        host.link(f"sys/class/drm/{name}", f"{host.places[bdf]}/drm/{name}")
        host.directory(f"{host.places[bdf]}/drm/{name}")
        host.device_node(f"dev/dri/{name}", 0o660, 0, 44)
