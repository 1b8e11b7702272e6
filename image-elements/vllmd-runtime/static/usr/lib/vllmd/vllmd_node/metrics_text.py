"""The node's own metrics in the Prometheus text format (https://prometheus.io/docs/instrumenting/exposition_formats/)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Sample = tuple[Mapping[str, str], float]


def family(name: str, kind: str, help_text: str, samples: Iterable[Sample]) -> str:
    """Return one metric with its samples; an empty string when there is none."""
    lines = [f"{name}{_labels(labels)} {value:.10g}" for labels, value in samples]
    return "\n".join([f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *lines, ""]) if lines else ""


def node(description: Mapping[str, Any]) -> str:
    """Return what start.plan found out as metrics."""
    machine, figures = description["hardware"], description["figures"]
    families = [
        family(
            "vllmd_node_profile_info", "gauge", "Hardware profile in use.", [({"profile": description["profile"]}, 1)]
        ),
        family("vllmd_node_gpus", "gauge", "GPUs found on the PCI bus.", [({}, len(machine["gpus"]))]),
        family(
            "vllmd_node_fit_bytes",
            "gauge",
            "Figures of the decision whether the model fits, by name.",
            [({"figure": name}, value) for name, value in sorted(figures.items()) if name != "gpus"],
        ),
    ]
    return "".join(families)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    quoted = (f'{name}="{_escape(value)}"' for name, value in labels.items())
    return "{" + ",".join(quoted) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
