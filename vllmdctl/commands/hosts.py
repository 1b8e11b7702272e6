# Copyright: vllmd.platform contributors
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""``vllmdctl hosts``: what the inventory names, and what a host has."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..ansible_play import Play
from ..errors import REFUSED, USAGE, CtlError, nearest
from ..options import Output, reads
from ..output import Format, emit, human_size

app = typer.Typer(rich_markup_mode=None)


def inventory_hosts(play: Play) -> list[dict[str, Any]]:
    """Return the inventory's hosts with their groups, without connecting to one. Raises CtlError."""
    tree = _tree(play)
    groups: dict[str, list[str]] = {}
    for group, members in tree.items():
        for host in members.get("hosts", []) if group != "_meta" else []:
            groups.setdefault(host, []).append(group)
    variables = tree.get("_meta", {}).get("hostvars", {})
    return [
        {
            "host": host,
            "groups": sorted(names),
            "address": variables.get(host, {}).get("ansible_host", host),
            "connection": variables.get(host, {}).get("ansible_connection", "ssh"),
        }
        for host, names in sorted(groups.items())
    ]


def host_variables(play: Play, host: str) -> dict[str, Any]:
    """Return what the inventory says about a host, templates as they stand. Raises CtlError."""
    found: dict[str, Any] = _tree(play).get("_meta", {}).get("hostvars", {}).get(host, {})
    return found


def _tree(play: Play) -> dict[str, Any]:
    """Return the inventory as ansible-inventory lists it. Raises CtlError."""
    import json
    import os
    import subprocess

    from ..ansible_play import settings
    from ..places import program

    command = [program("ansible-inventory"), "-i", str(play.inventory), "--list"]
    command += ["--limit", play.limit] if play.limit else []
    done = subprocess.run(
        command, env={**os.environ, **settings()}, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    try:
        tree: dict[str, Any] | None = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        tree = None
    if tree is None:
        lines = done.stderr.splitlines()
        told = [line for line in lines if "ERROR" in line] or lines or ["no reason given"]
        raise CtlError(f"inventory {play.inventory}: {told[0].partition(']: ')[2] or told[0]}", REFUSED)
    return tree


@app.command("list")
@reads
def list_(play: Play, output: Output = Format.TABLE) -> None:
    """Show the hosts of the inventory and what they are for. Connects to none."""
    emit(output, inventory_hosts(play), ("host", "groups", "address", "connection"), "the inventory names no host")


@app.command("show")
@reads
def show(
    play: Play,
    host: Annotated[str, typer.Argument(help="A host of the inventory's group hypervisors.")],
    output: Output = Format.TABLE,
) -> None:
    """Show what a host has: processors, memory, NUMA nodes, accelerators, KVM, IOMMU. As JSON: all that is known."""
    from ..ansible import run

    names = [each["host"] for each in inventory_hosts(play) if "hypervisors" in each["groups"]]
    if host not in names:
        raise CtlError(f"no host {host!r} in group hypervisors{nearest(host, names)}", USAGE)
    only = Play(play.inventory, host, verbose=play.verbose, extra=play.extra)
    outcome = run(only, ["facts"], "hosts show", quiet=True)
    outcome.check()
    facts = outcome.data()[host]["vllmd_host_facts"]
    emit(output, summary(host, facts) if output is Format.TABLE else facts)


def summary(name: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts that a person asks for first."""
    cpu, memory, kvm, iommu = facts["cpu"], facts["memory"], facts["kvm"], facts["iommu"]
    devices = facts["pci"]["devices"].values() if isinstance(facts["pci"]["devices"], dict) else facts["pci"]["devices"]
    displays = [each for each in devices if str(each.get("class_code") or each.get("class") or "").startswith("03")]
    rows: dict[str, Any] = {"host": name}
    rows["processor"] = cpu.get("model")
    rows |= {key: cpu[key] for key in ("sockets", "cores", "threads", "online") if isinstance(cpu.get(key), int)}
    for key, value in memory.items():
        if key in ("total_bytes", "available_bytes") and value is not None:
            rows[f"memory {key.removesuffix('_bytes')}"] = human_size(value)
    rows["NUMA nodes"] = len(facts["numa"].get("nodes") or [])
    rows["KVM"] = "works" if kvm.get("works") else kvm.get("trouble")
    rows["IOMMU groups"] = len(iommu.get("groups") or [])
    rows["accelerators"] = [f"{each.get('bdf')} {each.get('vendor_id')}:{each.get('device_id')}" for each in displays]
    return rows
