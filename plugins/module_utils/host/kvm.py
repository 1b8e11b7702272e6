# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Does KVM work? A /dev/kvm that opens is no proof: nested clouds offer one under which kernels die."""

from __future__ import annotations

import os
from fcntl import ioctl

from .model import Cpu, DeviceNode, Kvm
from .tree import Tree

# include/uapi/linux/kvm.h
_KVM_GET_API_VERSION, _KVM_CREATE_VM, _KVM_API_VERSION = 0xAE00, 0xAE01, 12
_PAGING = {"kvm_intel": "ept", "kvm_amd": "npt"}
_INTERRUPTS = {"kvm_intel": "enable_apicv", "kvm_amd": "avic"}


def read_kvm(tree: Tree, cpu: Cpu, node: DeviceNode | None, members: tuple[str, ...]) -> Kvm:
    """Return whether KVM works; ``node`` is /dev/kvm, ``members`` the users in its group."""
    module = next((name for name in ("kvm_intel", "kvm_amd", "kvm") if tree.exists(f"sys/module/{name}")), None)
    parameters = f"sys/module/{module}/parameters"
    works, trouble = _works(tree, cpu, node)
    return Kvm(
        works=works,
        trouble=trouble,
        module=module,
        nested=tree.flag(f"{parameters}/nested"),
        two_dimensional_paging=tree.flag(f"{parameters}/{_PAGING[module]}") if module in _PAGING else None,
        interrupt_virtualization=tree.flag(f"{parameters}/{_INTERRUPTS[module]}") if module in _INTERRUPTS else None,
        group_members=members,
    )


def _works(tree: Tree, cpu: Cpu, node: DeviceNode | None) -> tuple[bool | None, str | None]:
    if node is None:
        return False, "/dev/kvm does not exist"
    if cpu.virtualization_flag == "" and cpu.vendor in ("intel", "amd", "hygon"):
        return False, "/dev/kvm exists, but the CPU shows neither vmx nor svm in /proc/cpuinfo"
    if tree.is_live:
        return _try()
    noted = tree.captured("kvm")
    if isinstance(noted, dict) and isinstance(noted.get("works"), bool):
        return noted["works"], str(noted["trouble"]) if noted.get("trouble") else None
    return None, None


def _try() -> tuple[bool | None, str | None]:
    """Make an empty virtual machine and let it go."""
    try:
        descriptor = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return None, "/dev/kvm may not be opened by this user"
    except OSError as error:
        return False, f"/dev/kvm cannot be opened: {error.strerror}"
    try:
        version = ioctl(descriptor, _KVM_GET_API_VERSION, 0)
        if version != _KVM_API_VERSION:
            return False, f"KVM speaks API version {version}, not {_KVM_API_VERSION}"
        os.close(ioctl(descriptor, _KVM_CREATE_VM, 0))
    except OSError as error:
        return False, f"/dev/kvm refuses to create a virtual machine: {error.strerror}"
    finally:
        os.close(descriptor)
    return True, None
