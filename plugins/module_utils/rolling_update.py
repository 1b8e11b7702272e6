# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Which replicas an update replaces, why, and in which order. Pure functions over plain data.

A replica is due when it runs and its files, or what they would be, are not those that it was started from; or when an
update of it began and never ended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .runtime_records import differences

#: One that serves is enough, and asking many takes long.
_ASKED = 8


def due(
    entries: Iterable[Mapping[str, Any]],
    runtimes: Iterable[Mapping[str, Any]],
    records: Mapping[str, Mapping[str, Any]],
    compared: Mapping[str, Any],
    config_images: Iterable[Mapping[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Return every replica of a host in the order of an update: what does not serve first, then by name.

    ``entries`` are those of role hypervisor for ``runtimes``, ``compared`` is what its tasks_from ``compare`` found,
    ``config_images`` are results of module config_image in check mode. Each replica has ``name``, ``runtime``,
    ``model``, ``health_url``, ``runs``, ``serves``, ``reasons`` (to replace it; empty: none) and ``held`` (why its
    wanted configuration is not taken; empty: it is).
    """
    by_name = {runtime["metadata"]["name"]: runtime for runtime in runtimes}
    asked = {each["runtime"]["name"]: each for each in compared["asked"]}
    configs = {each["item"]["metadata"]["name"] for each in config_images if each.get("changed")}
    found = []
    for entry in entries:
        name = entry["name"]
        runtime, record, answer = by_name[name], records.get(name) or {}, asked[name]
        runs = answer["before"] != "stopped"
        reasons = ["its last update did not end"] if record.get("update") else []
        if runs:
            differs = name in compared["differing"] or name in configs
            reasons += _reasons(entry, record, differs, name in configs, answer.get("reason") or "")
        found.append(
            {
                "name": name,
                "runtime": runtime.get("replica_of", name),
                "model": runtime["spec"]["model"]["name"],
                "health_url": entry.get("health_url", ""),
                "runs": runs,
                "serves": name in compared["serving"],
                "reasons": reasons,
                "held": entry.get("held", ""),
            }
        )
    return sorted(found, key=lambda each: (each["serves"], each["name"]))


def _reasons(
    entry: Mapping[str, Any], record: Mapping[str, Any], differs: bool, config: bool, restart: str
) -> list[str]:
    """Return why a replica that runs has to be replaced; the most telling that is known."""
    if entry.get("held"):
        return ["what served before comes back"] if differs or restart else []
    if not differs and not restart:
        return []
    told = differences(record["served"], entry) if record.get("served") else []
    if config:
        told.append("its guest's configuration")
    return told or [restart or "its environment file or unit"]


def siblings(
    runtimes: Iterable[Mapping[str, Any]],
    hosts: Iterable[str],
    placements: Iterable[Mapping[str, Any]] | None = None,
) -> dict[str, list[dict[str, str]]]:
    """Return each runtime's replicas over all hosts, as ``host`` and ``name``: by the plan, else one for each host."""
    if placements is not None:
        found = [(str(each["runtime"]), str(each["host"]), str(each["id"])) for each in placements]
    else:
        found = [
            (runtime["metadata"]["name"], host, runtime["metadata"]["name"])
            for runtime in runtimes
            for host in hosts
            if not runtime["spec"]["placement"]["hosts"] or host in runtime["spec"]["placement"]["hosts"]
        ]
    by_runtime: dict[str, list[dict[str, str]]] = {}
    for runtime, host, name in sorted(found):
        by_runtime.setdefault(runtime, []).append({"host": host, "name": name})
    return by_runtime


def others(
    replicas: Iterable[Mapping[str, str]], name: str, host: str, known: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """Return how many of a runtime's ``replicas`` are not ``name`` on ``host``, as ``count``, and a few to ask.

    ``known``: replicas by host, as ``due`` gives them. Those to ask, also ``known``, have ``name``, ``host`` and
    ``health_url``; those that served when they were looked at come first.
    """
    found = [each for each in replicas if (each["name"], each["host"]) != (name, host)]
    by_id = {(each["name"], where): each for where, there in known.items() for each in there or ()}
    asked = [
        {"name": each["name"], "host": each["host"], "health_url": by_id[each["name"], each["host"]]["health_url"]}
        for each in sorted(
            (each for each in found if by_id.get((each["name"], each["host"]), {}).get("health_url")),
            key=lambda each: (not by_id[each["name"], each["host"]]["serves"], each["name"], each["host"]),
        )
    ]
    return {"count": len(found), "known": asked[:_ASKED]}


def order(replicas: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Return the hosts, keys of ``replicas``, that have one to replace; first where one of those does not serve."""
    steps = {host: [each for each in found if each["reasons"]] for host, found in replicas.items()}
    return sorted((host for host in steps if steps[host]), key=lambda host: (steps[host][0]["serves"], host))


def lines(replicas: Iterable[Mapping[str, Any]], host: str) -> list[str]:
    """Return in a line for each replica of ``host`` what an update does with it."""
    said = []
    for each in sorted(replicas, key=lambda each: str(each["name"])):
        what = "as wanted" if each["runs"] else "does not run, and is left so; start starts it"
        if each["reasons"]:
            what = f"to be replaced: {', '.join(each['reasons'])}"
        elif each["held"]:
            what = f"kept as it is: {each['held']}"
        said.append(f"{each['name']} on {host}: {what}")
    return said
