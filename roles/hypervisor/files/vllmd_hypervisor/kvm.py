"""Does KVM really work here? A /dev/kvm that opens is no proof: nested clouds offer one that kernels die under."""

import os
from fcntl import ioctl
from pathlib import Path

from vllmd_hypervisor.errors import reason

_KVM_GET_API_VERSION = 0xAE00
_KVM_CREATE_VM = 0xAE01
_KVM_API_VERSION = 12
_VIRTUALIZATION_FLAGS = {"vmx", "svm"}


def kvm_trouble(root: Path = Path("/")) -> str:
    """Return why KVM cannot be used, as the end of a sentence, or an empty string when it can."""
    device = root / "dev/kvm"
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{device} cannot be opened: {reason(error)}"
    try:
        if not cpu_flags(root) & _VIRTUALIZATION_FLAGS:
            return f"{device} exists, but the CPU shows neither vmx nor svm in /proc/cpuinfo"
        return _try_vm(descriptor)
    except OSError as error:
        return f"{device} refuses to create a virtual machine: {reason(error)}"
    finally:
        os.close(descriptor)


def cpu_flags(root: Path = Path("/")) -> set[str]:
    """Return the first CPU's flags from /proc/cpuinfo; empty where there are none (not x86)."""
    with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
    return set()


def _try_vm(descriptor: int) -> str:
    version = ioctl(descriptor, _KVM_GET_API_VERSION, 0)
    if version != _KVM_API_VERSION:
        return f"KVM speaks API version {version}, not {_KVM_API_VERSION}"
    os.close(ioctl(descriptor, _KVM_CREATE_VM, 0))
    return ""
