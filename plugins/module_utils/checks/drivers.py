# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Who holds the accelerators now, and can VFIO take them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from shlex import quote

from ansible_collections.vllmd.platform.plugins.module_utils.checks.common import (
    NVIDIA,
    accelerators,
    debian_architecture,
    each,
    for_passthrough,
    group_endpoints,
    join,
    on_vfio,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import (
    FAIL,
    INFO,
    PASS,
    RISK,
    SKIP,
    WARN,
    Outcome,
    check,
    unknown,
)
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, OpenHandle, PciDevice

_VFIO_MODULES = ("vfio_pci", "vfio_iommu_type1")
_NVIDIA_MODULES = ("nvidia", "nvidia_drm", "nvidia_modeset", "nvidia_uvm")


def _stop(handles: Iterable[OpenHandle]) -> str:
    """Return the command that ends who holds them: services where they are known, else processes."""
    by_service: dict[str, set[int]] = {}
    for item in handles:
        # Stopping a scope would end a whole login session.
        by_service.setdefault(item.unit if item.unit and item.unit.endswith(".service") else "", set()).add(item.pid)
    pids = sorted(by_service.pop("", ()))
    units = sorted(by_service)
    commands = [f"systemctl stop {' '.join(map(quote, units))}"] * bool(units)
    return " && ".join(commands + [f"kill {' '.join(map(str, pids))}"] * bool(pids))


@check(
    "accelerator-driver",
    "driver",
    "No host driver holds an accelerator",
    why="A device belongs to one driver. The host's own GPU driver lets go only when nothing uses it, and takes "
    "the device "
    "again at the next boot.",
    reference="Linux: Documentation/driver-api/vfio.rst; ABI sysfs-bus-pci, driver_override",
)
def accelerator_driver(host: Host, policy: Policy) -> Iterator[Outcome]:
    """PASS on VFIO or free, INFO on a host driver: role vfio rebinds it."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        if device.driver is None:
            return Outcome(PASS, "no driver")
        if on_vfio(device):
            return Outcome(PASS, f"on {device.driver}")
        return Outcome(INFO, f"on {device.driver}; role vfio moves it to {device.vfio_driver}")

    yield from each(found, map(judge, found))


@check(
    "open-handles",
    "driver",
    "No process uses an accelerator",
    why="Unbinding a device that is in use hangs, or kills what uses it. Monitoring agents are the usual holders.",
    reference="/proc/PID/fd; Linux: Documentation/driver-api/driver-model/binding.rst",
)
def open_handles(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL with process, command and file for a device on a host driver; a virtual machine may hold one on VFIO."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        if not device.handles:
            if host.processes.unreadable:
                return Outcome(
                    SKIP, f"the files of {host.processes.unreadable} processes were not readable; run as root"
                )
            return Outcome(PASS, f"none among {host.processes.scanned} processes")
        holders = join(sorted({f"{item.command} (pid {item.pid})" for item in device.handles}), 4)
        if on_vfio(device):
            return Outcome(INFO, f"used by {holders}")
        return Outcome(FAIL, f"used by {holders}", _stop(device.handles))

    yield from each(found, map(judge, found))


@check(
    "nouveau",
    "driver",
    "nouveau does not drive an accelerator",
    why="nouveau takes every NVIDIA GPU at boot, puts a console on it and leaves it in a state that guests' "
    "drivers stumble over.",
    reference="Linux: drivers/gpu/drm/nouveau; modprobe.d(5), blacklist",
)
def nouveau(host: Host, policy: Policy) -> Outcome:
    """WARN when it holds one, INFO when it is merely loaded."""
    if not host.modules.loaded and not host.modules.states:
        return unknown("/proc/modules")
    held = [device.bdf for device in accelerators(host, policy) if device.driver == "nouveau"]
    remedy = (
        "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/vllmd-nouveau.conf && "
        "update-initramfs -u && systemctl reboot"
    )
    if held:
        return Outcome(WARN, f"drives {join(held)}", remedy)
    if "nouveau" in host.modules.loaded:
        return Outcome(INFO, "loaded, and drives no accelerator", remedy)
    return Outcome(PASS, "not loaded")


@check(
    "nvidia-driver",
    "driver",
    "The host does not run NVIDIA's driver for GPUs that guests get",
    why="It takes the GPUs at each boot before VFIO does, and its daemons keep them open.",
    reference="NVIDIA driver README, chapter on GPU passthrough",
)
def nvidia_driver(host: Host, policy: Policy) -> Outcome:
    """WARN when loaded on a host that passes NVIDIA devices through."""
    if not host.modules.loaded and not host.modules.states:
        return unknown("/proc/modules")
    loaded = [name for name in _NVIDIA_MODULES if name in host.modules.loaded]
    if not loaded:
        return Outcome(PASS, "not loaded")
    version = f" {host.modules.nvidia.version}" if host.modules.nvidia and host.modules.nvidia.version else ""
    kept = [
        device
        for device in host.pci.devices.values()
        if device.driver == "nvidia" and device.bdf in policy.accelerator_except
    ]
    if kept:
        return Outcome(INFO, f"nvidia{version} drives {join(device.bdf for device in kept)}, which stay with the host")
    if not any(device.vendor_id == NVIDIA for device in accelerators(host, policy)):
        return Outcome(INFO, f"nvidia{version} is loaded, and no NVIDIA device is an accelerator by the policy")
    remedy = (
        "echo 'softdep nvidia pre: vfio-pci' > /etc/modprobe.d/vllmd-nvidia.conf && update-initramfs -u; role "
        "vfio does it by address"
    )
    return for_passthrough(host, policy, Outcome(WARN, f"loaded: {join(loaded)}{version}", remedy))


@check(
    "vfio-modules",
    "driver",
    "The kernel has VFIO",
    why="Some cloud kernels leave it out; without vfio-pci and its IOMMU backend nothing can be handed over.",
    reference="Linux: drivers/vfio/Kconfig",
)
def vfio_modules(host: Host, policy: Policy) -> Outcome:
    """FAIL when a module is missing."""
    states = {name: host.modules.states.get(name) for name in _VFIO_MODULES}
    if None in states.values():
        return unknown(f"the state of {join(_VFIO_MODULES)}")
    evidence = join(f"{name} {state}" for name, state in states.items())
    if "missing" not in states.values():
        return Outcome(PASS, evidence)
    return for_passthrough(
        host,
        policy,
        Outcome(
            FAIL,
            evidence,
            f"apt-get install linux-image-{debian_architecture(host)} (not the cloud kernel) && systemctl reboot",
        ),
    )


@check(
    "vfio-variant",
    "driver",
    "The variant VFIO driver that a device asks for is there",
    why="Some devices (Grace Hopper's GPUs among them) work only with a VFIO driver of their own; plain vfio-pci "
    "binds and then fails.",
    reference="Linux: Documentation/driver-api/vfio-pci-device-specific-driver-acceptance.rst",
)
def vfio_variant(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN when a device that has a variant driver is on plain vfio-pci or the module is missing."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        variant = device.vfio_driver.replace("-", "_")
        if variant == "vfio_pci":
            return Outcome(PASS, "plain vfio-pci")
        if host.modules.states.get(variant) == "missing":
            return Outcome(
                WARN, f"wants {device.vfio_driver}, which this kernel lacks", "install a kernel with that module"
            )
        if device.driver == "vfio-pci":
            return Outcome(
                WARN,
                f"on vfio-pci, wants {device.vfio_driver}",
                "run playbooks/configure.yml with role vfio: it binds the variant driver",
            )
        return Outcome(PASS, f"variant driver {device.vfio_driver}")

    yield from each(found, map(judge, found))


@check(
    "vfio-blocked",
    "driver",
    "No modprobe.d line keeps VFIO from loading",
    why="A leftover 'blacklist' or 'install ... /bin/false' makes the binding fail at the next boot only.",
    reference="modprobe.d(5)",
)
def vfio_blocked(host: Host, policy: Policy) -> Outcome:
    """FAIL for blacklist or install lines that name a vfio module."""
    if not host.modules.states and not host.modules.modprobe:
        return unknown("/etc/modprobe.d")
    lines = [
        line
        for line in host.modules.modprobe
        if line.module.replace("-", "_").startswith("vfio")
        and (line.verb == "blacklist" or (line.verb == "install" and ("/false" in line.rest or "/true" in line.rest)))
    ]
    if not lines:
        return Outcome(PASS, "none")
    found = join(f"{line.path}:{line.line} ({line.verb} {line.module})" for line in lines)
    return for_passthrough(
        host, policy, Outcome(FAIL, found, f"sed -i '{lines[0].line}d' {quote(lines[0].path)} && update-initramfs -u")
    )


@check(
    "vfio-persistent",
    "driver",
    "What is bound to VFIO will be bound after a reboot",
    why="A binding made by hand is gone after a reboot, and with it every runtime on the host.",
    reference="modules-load.d(5); modprobe.d(5)",
)
def vfio_persistent(host: Host, policy: Policy) -> Outcome:
    """WARN when accelerators are on VFIO and nothing loads it at boot."""
    bound = [device.bdf for device in accelerators(host, policy) if on_vfio(device)]
    if not bound:
        return Outcome(SKIP, "no accelerator is on VFIO")
    names = {name.replace("-", "_") for name in host.modules.load_at_boot}
    mentioned = any("vfio" in f"{line.module} {line.rest}" for line in host.modules.modprobe)
    if any(name.startswith("vfio") for name in names) or mentioned or host.modules.states.get("vfio_pci") == "builtin":
        return Outcome(PASS, f"{len(bound)} bound, and VFIO is loaded at boot")
    return Outcome(
        WARN,
        f"{len(bound)} bound, and nothing loads VFIO at boot",
        "run playbooks/configure.yml with role vfio: it makes the binding permanent",
    )


@check(
    "vfio-permissions",
    "driver",
    "The runtimes' user may open the VFIO groups of bound accelerators",
    why="Virtual machines run as an unprivileged user; a group that only root may open stops them at start.",
    reference="Linux: Documentation/driver-api/vfio.rst, VFIO Usage Example",
)
def vfio_permissions(host: Host, policy: Policy) -> Iterator[Outcome]:
    """WARN for /dev/vfio/N of a bound accelerator that is root's alone, RISK for one open to all."""
    found = [device for device in accelerators(host, policy) if on_vfio(device) and device.iommu_group is not None]

    def judge(device: PciDevice) -> Outcome:
        path = f"/dev/vfio/{device.iommu_group}"
        node = host.nodes.get(path)
        if node is None:
            return unknown(path)
        evidence = (
            f"{path}: mode {node.mode & 0o777:04o}, owner {node.owner or node.uid}, group {node.group or node.gid}"
        )
        if node.mode & 0o006:
            return Outcome(
                RISK,
                f"{evidence}: open to everybody",
                f"chmod o-rw {path}, and remove the udev rule that gives it a wider MODE",
            )
        if policy.runtime_user in (node.owner, node.group) or node.gid:
            return Outcome(PASS, evidence)
        return Outcome(
            WARN, f"{evidence}: for root alone", "run playbooks/configure.yml: role hypervisor writes the udev rule"
        )

    if not found:
        yield Outcome(SKIP, "no accelerator is on VFIO")
    else:
        yield from each(found, map(judge, found))


@check(
    "companion-handles",
    "driver",
    "No process uses what goes along with an accelerator",
    why="Audio or USB functions of the card are bound together with it; one that is open blocks all of them.",
    reference="/proc/PID/fd",
)
def companion_handles(host: Host, policy: Policy) -> Iterator[Outcome]:
    """FAIL for an open handle on another endpoint of an accelerator's group."""
    found = accelerators(host, policy)

    def judge(device: PciDevice) -> Outcome:
        held = [
            (item, handle) for item in group_endpoints(host, device) if not on_vfio(item) for handle in item.handles
        ]
        if not held:
            return Outcome(PASS, "none")
        holders = (f"{item.bdf}: {handle.command} (pid {handle.pid}, {handle.path})" for item, handle in held)
        return Outcome(FAIL, join(holders, 4), _stop(handle for _item, handle in held))

    yield from each(found, map(judge, found))
