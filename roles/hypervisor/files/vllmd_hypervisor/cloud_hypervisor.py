"""The cloud-hypervisor backend: a bare VMM whose guest is created and booted over its REST API (v53's description)."""

import json
from pathlib import Path
from typing import Any

from vllmd_hypervisor.errors import PROGRAM, LaunchError, one_line
from vllmd_hypervisor.http_unix import request
from vllmd_hypervisor.image import Image
from vllmd_hypervisor.kernel import FIRMWARE
from vllmd_hypervisor.launch import Descriptors
from vllmd_hypervisor.machine import DISK_NAMES, Machine
from vllmd_hypervisor.memory import cloud_hypervisor_memory
from vllmd_hypervisor.state import RunDirectory

_PING_SECONDS = 5.0
# Mapping all guest memory for a device takes minutes where there are no huge pages.
_BOOT_SECONDS = 540.0
_IMAGE_TYPES = {"raw": "Raw", "qcow2": "Qcow2"}
_NOT_CREATED = 404
_NOT_BOOTED = 405


class CloudHypervisor:
    """See backend.Backend."""

    def control_socket(self, run: RunDirectory) -> Path:
        """Return the API socket."""
        return run.api_socket

    def executable(self, machine: Machine, run: RunDirectory) -> Path:
        """Return a link named like the launcher: the kernel takes a process's comm from the name that is executed."""
        run.vmm_link.unlink(missing_ok=True)
        run.vmm_link.symlink_to(machine.vmm)
        return run.vmm_link

    def command(self, machine: Machine, run: RunDirectory, descriptors: Descriptors) -> list[str]:
        """Return the VMM's arguments; the guest's configuration goes over the API."""
        del descriptors
        arguments = [PROGRAM, "--api-socket", f"path={run.api_socket}", "--seccomp", "true"]
        return [*arguments, "-v"] if machine.config.debug else arguments

    def bring_up(self, machine: Machine, run: RunDirectory) -> bool:
        """Create the guest and boot it."""
        code = request(run.api_socket, "GET", "vmm.ping", None, _PING_SECONDS)[0]
        if not _is_success(code):
            raise LaunchError(
                f"cloud-hypervisor answers vmm.ping with HTTP {code}; is {machine.vmm} a current release?"
            )
        _ask(run, "vm.create", create_body(machine))
        _ask(run, "vm.boot", None)
        return True

    def vm_state(self, run: RunDirectory, timeout_seconds: float) -> str:
        """Return Created, Running, Shutdown, Paused or BreakPoint; NotCreated before vm.create."""
        code, answer = request(run.api_socket, "GET", "vm.info", None, timeout_seconds)
        if not _is_success(code):
            return "NotCreated"
        try:
            return str(json.loads(answer)["state"])
        except (ValueError, KeyError, TypeError):
            raise LaunchError("cloud-hypervisor's vm.info is not what its API describes") from None

    def press_power_button(self, run: RunDirectory, timeout_seconds: float) -> bool:
        """Press ACPI's power button; False when the guest is not booted."""
        code, answer = request(run.api_socket, "PUT", "vm.power-button", None, timeout_seconds)
        if not _is_success(code) and code not in (_NOT_CREATED, _NOT_BOOTED):
            raise LaunchError(f"cloud-hypervisor refused vm.power-button (HTTP {code}): {_explain(answer)}")
        return _is_success(code)

    def quit(self, run: RunDirectory, timeout_seconds: float) -> None:
        """Tell the VMM to end."""
        request(run.api_socket, "PUT", "vmm.shutdown", None, timeout_seconds)


def create_body(machine: Machine) -> dict[str, Any]:
    """Return the VmConfig of vm.create."""
    config = machine.config
    payload = {"firmware" if machine.kernel_kind == FIRMWARE else "kernel": str(config.kernel)}
    if config.initrd:
        payload["initramfs"] = str(config.initrd)
    if config.cmdline:
        payload["cmdline"] = config.cmdline
    body: dict[str, Any] = {
        "cpus": {"boot_vcpus": config.cpu_count, "max_vcpus": config.cpu_count},
        "memory": cloud_hypervisor_memory(config.memory),
        "payload": payload,
        "disks": [_disk(name, image) for name, image in zip(DISK_NAMES, machine.disks, strict=False)],
        "rng": {"src": "/dev/urandom"},
        # Tty is the VMM's own stdout, which is the log: File would truncate it, Socket would leave no log.
        "serial": {"mode": "Tty"},
        "console": {"mode": "Off"},
        "pvpanic": True,
    }
    if config.network.mode == "tap":
        body["net"] = [{"tap": config.network.tap, "mac": config.network.mac, "id": "net0"}]
    if machine.endpoints:
        body["devices"] = [
            {"path": f"/sys/bus/pci/devices/{endpoint.bdf}/", "id": f"vfio{index}"}
            for index, endpoint in enumerate(machine.endpoints)
        ]
    return body


def _disk(name: str, image: Image) -> dict[str, Any]:
    return {
        "path": str(image.path),
        "readonly": image.readonly,
        "image_type": _IMAGE_TYPES[image.format],
        "id": f"{name}-disk",
        "serial": name,
    }


def _ask(run: RunDirectory, resource: str, body: Any) -> None:
    try:
        code, answer = request(run.api_socket, "PUT", resource, body, _BOOT_SECONDS)
    except TimeoutError:
        raise LaunchError(f"cloud-hypervisor did not answer {resource} in {_BOOT_SECONDS:.0f} s") from None
    if not _is_success(code):
        raise LaunchError(f"cloud-hypervisor refused {resource} (HTTP {code}): {_explain(answer)}")


def _is_success(code: int) -> bool:
    return 200 <= code < 300


def _explain(answer: bytes) -> str:
    """Turn an error's body into one line: Cloud Hypervisor sends a JSON list of causes, outermost first."""
    text = answer.decode("utf-8", "replace")
    try:
        causes = json.loads(text)
    except ValueError:
        causes = text
    if isinstance(causes, list):
        return one_line(": ".join(str(cause) for cause in causes))
    return one_line(str(causes)) or "no reason given"
