# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""A host's isolated network and a runtime's placement, from inventory and entries to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.vllmd.platform.plugins.module_utils import guest_config, runtime_network
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_leavers import leavers, unsettled
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_network_files import guest_files, network_files
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_replicas import ReplicaError, replicas_on
from ansible_collections.vllmd.platform.plugins.module_utils.runtime_units import PlacementError, placement_drop_in


def runtimes_in_network(
    runtimes: list[dict[str, Any]], settings: Mapping[str, Any], addresses: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """Return the runtimes of one host, those of mode ``isolated`` with address, tap and MAC of its network.

    ``settings`` is ``hypervisor_network``; without any, the runtimes are returned as they are. ``addresses`` are those
    that the host gave before, by name. Raises AnsibleFilterError when the network is not possible.
    """
    if not settings:
        return runtimes
    try:
        network = runtime_network.network_of(settings)
        isolated = [_name(each) for each in runtimes if each["spec"]["network"]["mode"] == "isolated"]
        plan = runtime_network.address_plan(network, isolated, addresses)
        guests = {name: _guest(network, each, plan[name]) for each in runtimes if (name := _name(each)) in plan}
        runtime_network.check_forwards(guests.values())
        return [_placed(network, each, guests[_name(each)]) if _name(each) in guests else each for each in runtimes]
    except runtime_network.NetworkError as error:
        raise AnsibleFilterError(str(error)) from None


def _name(runtime: dict[str, Any]) -> str:
    return str(runtime["metadata"]["name"])


def _guest(network: runtime_network.Network, runtime: dict[str, Any], address: str) -> runtime_network.Guest:
    wanted = runtime["spec"]["network"]
    return runtime_network.guest_of(network, _name(runtime), address, wanted["allow"], wanted["forward"])


def _placed(network: runtime_network.Network, runtime: dict[str, Any], guest: runtime_network.Guest) -> dict[str, Any]:
    wanted = runtime["spec"]["network"]
    settled = runtime_network.runtime_network(network, guest, wanted["allow"], wanted["forward"])
    spec = {**runtime["spec"], "network": settled}
    placed = {**runtime, "spec": spec}
    placed["guest"] = {**runtime["guest"], "network": guest_config.guest_network(spec["network"])}
    placed["launcher"] = {**runtime["launcher"], "network": guest_config.launcher_network(placed)}
    return placed


def runtimes_placed(
    runtimes: list[dict[str, Any]], placements: list[dict[str, Any]], host: str
) -> list[dict[str, Any]]:
    """Return the replicas that a plan's ``placements`` put on ``host``, each in the shape of a runtime."""
    try:
        return replicas_on(runtimes, placements, host)
    except ReplicaError as error:
        raise AnsibleFilterError(str(error)) from None
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"the plan's placements miss {error}; give those of schema version 1") from None


def runtime_leavers(
    known: dict[str, str],
    placements: list[dict[str, Any]],
    host: str,
    reached: list[str],
    names: list[str] | None = None,
) -> dict[str, list[str]]:
    """Return the replicas of ``known`` that left the plan and so the host: ``now``, ``after`` and ``kept``."""
    try:
        return leavers(known, placements, host, reached, names)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"the plan's placements miss {error}; give those of schema version 1") from None


def runtimes_unsettled(placements: list[dict[str, Any]], known: dict[str, dict[str, str]]) -> list[str]:
    """Return the replicas that a plan's ``placements`` and what the hosts remember (``known``) say otherwise about."""
    try:
        return unsettled(placements, known)
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(f"the plan's placements miss {error}; give those of schema version 1") from None


def files_of_network(entries: list[dict[str, Any]], settings: Mapping[str, Any], user: str) -> list[dict[str, str]]:
    """Return the files of the host's network and of those of role hypervisor's ``entries`` that are on it.

    One dict for each, ``path`` and ``content``. Raises AnsibleFilterError when the network is not possible.
    """
    try:
        network = runtime_network.network_of(settings)
        files = network_files(network)
        guests = []
        for entry in entries:
            if entry.get("isolated"):
                place = entry["isolated"]
                wanted = (place.get("allow") or [], place.get("forward") or [])
                guests.append(runtime_network.guest_of(network, entry["name"], place["address"], *wanted))
                files.update(guest_files(network, guests[-1], user))
        runtime_network.check_forwards(guests)
    except runtime_network.NetworkError as error:
        raise AnsibleFilterError(str(error)) from None
    return [{"path": path, "content": content} for path, content in sorted(files.items())]


def runtime_placement(entry: Mapping[str, Any]) -> str:
    """Return the drop-in for one of role hypervisor's entries: its ``cpus`` and ``numa_nodes``; empty without both."""
    try:
        return placement_drop_in(entry.get("cpus") or [], entry.get("numa_nodes") or [])
    except PlacementError as error:
        raise AnsibleFilterError(f"runtime {entry.get('name')}: {error}") from None


class FilterModule:
    """The collection's filters on a host's network and placements."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "runtime_leavers": runtime_leavers,
            "runtime_network_files": files_of_network,
            "runtime_placement": runtime_placement,
            "runtime_tap": runtime_network.tap_name,
            "runtimes_in_network": runtimes_in_network,
            "runtimes_placed": runtimes_placed,
            "runtimes_unsettled": runtimes_unsettled,
        }
