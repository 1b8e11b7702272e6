# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""From validated Runtimes and verified images to what role hypervisor is given: plain data in, plain data out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.module_utils import guest_config, runtime_records

_API_PORT = 8000  # the guest's vLLM


def api_url(runtime: dict[str, Any]) -> str:
    """Return where the host reaches the runtime's API, such as ``http://127.0.0.1:8000``, or an empty string."""
    network = runtime["spec"]["network"]
    if network["mode"] == "user":
        for forward in network["forward"]:
            if forward["guest_port"] == _API_PORT:
                return f"http://{forward['host_address']}:{forward['host_port']}"
        return ""
    address = (network.get("address") or "").partition("/")[0]
    return f"http://{address}:{_API_PORT}" if address else ""


def api_endpoints(runtime: dict[str, Any]) -> list[str]:
    """Return every ``ADDRESS:PORT`` at which clients reach the runtime's API."""
    network = runtime["spec"]["network"]
    found = [
        f"{forward['host_address']}:{forward['host_port']}"
        for forward in network.get("forward") or []
        if forward["guest_port"] == _API_PORT
    ]
    address = (network.get("address") or "").partition("/")[0]
    return [*found, f"{address}:{_API_PORT}"] if address and network["mode"] != "user" else found


def outside_url(runtime: dict[str, Any]) -> str:
    """Return where others than the host reach the API: `api_url`, or the port of the host's that leads there.

    Such a URL may say 0.0.0.0, for whichever address the host has.
    """
    network = runtime["spec"]["network"]
    if network["mode"] == "isolated":
        for forward in network["forward"]:
            if forward["guest_port"] == _API_PORT:
                return f"http://{forward['host_address']}:{forward['host_port']}"
    return api_url(runtime)


def ssh_command(runtime: dict[str, Any]) -> str:
    """Return the arguments of ssh that reach the guest, such as ``-p 2222 root@127.0.0.1``, or an empty string."""
    network = runtime["spec"]["network"]
    if network["mode"] == "user":
        for forward in network["forward"]:
            if forward["guest_port"] == 22:
                return f"-p {forward['host_port']} root@{forward['host_address']}"
        return ""
    address = (network.get("address") or "").partition("/")[0]
    return f"root@{address}" if address else ""


def runtimes_on(runtimes: list[dict[str, Any]], host: str) -> list[dict[str, Any]]:
    """Return the runtimes that may run on inventory host ``host``: those that name it, and those that name none."""
    return [
        each
        for each in runtimes
        if not each["spec"]["placement"]["hosts"] or host in each["spec"]["placement"]["hosts"]
    ]


def hypervisor_runtimes(
    runtimes: list[dict[str, Any]],
    images: list[dict[str, Any]],
    directory: str = "/var/lib/vllmd/runtimes",
    kernel_arguments: str = "",
) -> list[dict[str, Any]]:
    """Return role hypervisor's entries for the runtimes.

    ``images`` are results of module image_verify in a loop over the runtimes' ``spec.image``. Raises AnsibleFilterError
    when none belongs to the image that a runtime names.
    """
    verified = {(image["item"]["name"], image["item"]["version"]): image for image in images}
    entries = []
    for runtime in runtimes:
        name, wanted = runtime["metadata"]["name"], runtime["spec"]["image"]
        image = verified.get((wanted["name"], wanted["version"]))
        if image is None:
            known = ", ".join(sorted(" ".join(each) for each in verified)) or "none"
            raise AnsibleFilterError(
                f"runtime {name} names image {wanted['name']} {wanted['version']}, which was not verified; "
                f"verified: {known}"
            )
        network = runtime["spec"]["network"]
        if network["mode"] == "isolated" and not network.get("address"):
            raise AnsibleFilterError(
                f"runtime {name} wants spec.network.mode isolated, but its host has no such network; "
                "set hypervisor_network for the host"
            )
        settings = runtime["launcher"]
        url = api_url(runtime)
        cache = runtime["spec"]["storage"]["cache"] or {}
        # The guest refuses a config image that is not of the runtime it was started for.
        own = f"vllmd.uid={runtime['guest']['uid']}"
        if runtime["guest"].get("kubernetes"):
            # By which the cluster tells it from another machine of its name, at this boot and at the next.
            own += f" systemd.machine_id={guest_config.machine_id(runtime['guest'])}"
        arguments = f"{own} {kernel_arguments}".strip()
        entries.append(
            {
                "name": name,
                "kernel": f"{image['path']}/kernel",
                "initrd": f"{image['path']}/initrd",
                "system_image": f"{image['path']}/system.raw",
                "system_image_readonly": True,
                "config_image": f"{directory}/{name}/config.iso",
                "cpu_count": settings["cpu_count"],
                "memory": settings["memory_config"],
                "network": settings["network"],
                "devices": list(runtime["spec"]["placement"]["devices"]),
                "cmdline": f"{image['manifest']['cmdline']} {arguments}",
                "cache_image": cache.get("device") or (f"{directory}/{name}/cache.raw" if cache else ""),
                "cache_size_mib": cache.get("size_mib", 0),
                "health_url": f"{url}/health" if url else "",
                "endpoints": api_endpoints(runtime),
                "replica_of": runtime.get("replica_of", name),
                "image": f"{wanted['name']} {image['path'].rpartition('/')[2]}",
            }
        )
        if network["mode"] == "isolated":
            address = network["address"].partition("/")[0]
            entries[-1]["isolated"] = {"address": address, "allow": network["allow"], "forward": network["forward"]}
        # From a plan: the CPUs and NUMA nodes that are this replica's.
        entries[-1].update(runtime.get("place", {}))
        configured = json.dumps([entries[-1], runtime["guest"]], sort_keys=True, default=str)
        entries[-1]["revision"] = hashlib.sha256(configured.encode()).hexdigest()[:12]
    return entries


def runtimes_held(
    entries: list[dict[str, Any]],
    records: Mapping[str, Mapping[str, Any]],
    refusals: list[dict[str, Any]],
    retry: bool = False,
) -> list[Mapping[str, Any]]:
    """Return the entries, those ``held`` whose configuration was refused: they run on as they served before.

    ``records`` is what module runtime_records_info returns, ``refusals`` what `runtime_refusals` does. With ``retry``
    none is held.
    """
    if retry:
        return list(entries)
    return [runtime_records.hold(entry, records.get(entry["name"]) or {}, refusals) for entry in entries]


class FilterModule:
    """The collection's filters on runtimes."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "hypervisor_runtimes": hypervisor_runtimes,
            "runtime_api_url": api_url,
            "runtime_outside_url": outside_url,
            "runtime_refusals": runtime_records.refusals,
            "runtime_ssh_command": ssh_command,
            "runtimes_held": runtimes_held,
            "runtimes_on": runtimes_on,
        }
