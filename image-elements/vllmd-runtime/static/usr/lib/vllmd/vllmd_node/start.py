"""What the engine runs with on this machine: detect, read the model, choose, and write it down.

Called by engine.py before anything is imported that could take long.
"""
# Read at boot on an emulated CPU, where pathlib costs more than all of this:
# ruff: noqa: PTH112, PTH118

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from vllmd_node import decide, files, hardware, metrics_text, model, profiles, remote

PROFILE_VARIABLE = "VLLMD_HARDWARE_PROFILE"
NODE_FILE = "node.json"
METRICS_DIRECTORY = "/run/vllmd/metrics"


def plan(
    given: Mapping[str, Any],
    environment: Mapping[str, str],
    root: str = "/",
    profiles_file: str = profiles.FILE,
) -> tuple[decide.Decision, dict[str, Any]]:
    """Return the decision for the runtime's options, and all that it rests on as plain data.

    Raises decide.Refusal. What cannot be found out is said among the decision's reasons and stops nothing.
    """
    machine = hardware.detect(root)
    reasons = []
    profile, found = None, None
    try:
        known = profiles.load(profiles_file)
        wanted = environment.get(PROFILE_VARIABLE, "")
        profile = profiles.choose(known, [gpu.pci_id for gpu in machine.gpus], wanted)
    except profiles.ProfileError as error:
        # An unknown name was asked for by somebody: starting with something else would hide the mistake.
        if environment.get(PROFILE_VARIABLE):
            raise decide.Refusal(str(error)) from None
        reasons.append(f"no profile: {error}")
    try:
        if environment.get("VLLMD_MODEL_SOURCE") == "local":
            found = model.read(str(given["model"]))
        else:
            found = remote.find(str(given["model"]), str(given.get("revision", "main")), environment)
    except model.ModelError as error:
        if environment.get("VLLMD_MODEL_SOURCE") == "local":
            raise decide.Refusal(str(error)) from None
        reasons.append(str(error))
    explicit = dict(given)
    decision = decide.decide(machine, found, profile, explicit, environment)
    decision.reasons[:0] = reasons
    node = {
        "schema_version": 1,
        "hardware": asdict(machine),
        "model": remote.describe(found) if found else None,
        "profile": decision.profile,
        "added": {name: each for name, each in decision.options.items() if explicit.get(name) != each},
        "environment": decision.environment,
        "reasons": decision.reasons,
        "figures": decision.figures,
    }
    return decision, node


def write(directory: str, decision: decide.Decision, node: dict[str, Any], metrics: str = METRICS_DIRECTORY) -> str:
    """Write options, the node's description and its metrics; return the path of the options' file."""
    path = os.path.join(directory, "engine.yaml")
    files.replace(path, json.dumps(decision.options, indent=1) + "\n")
    files.replace(os.path.join(directory, NODE_FILE), json.dumps(node, indent=1) + "\n")
    if os.path.isdir(metrics):
        files.replace(os.path.join(metrics, "node.prom"), metrics_text.node(node), 0o644)
    return path
