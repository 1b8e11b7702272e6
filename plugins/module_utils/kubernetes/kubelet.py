# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What a node's kubelet is told beside what its cluster tells all of them.

kubeadm writes the cluster's configuration to /var/lib/kubelet/config.yaml. Since 1.25 it merges a node's patch into it,
also when it upgrades the node; before, the file itself is changed after the join.
"""

from __future__ import annotations

from typing import Any

from . import versions
from .errors import NodeError

#: Name that says to kubeadm what the patch is for and how it is merged (kubernetes.io, "Customizing components").
PATCH = "kubeletconfiguration50-vllmd+merge.json"


def overrides(
    version: versions.Version,
    *,
    cgroup_driver: str,
    shutdown_seconds: int,
    critical_seconds: int,
    serving_certificates: bool,
    allow_swap: bool,
) -> dict[str, Any]:
    """Return the fields of KubeletConfiguration (kubelet.config.k8s.io/v1beta1) that this node has of its own.

    ``shutdown_seconds`` is how long a shutdown of the host waits for pods, 0 for not at all; ``critical_seconds`` are
    the last of them, kept for critical pods. Raises NodeError.
    """
    if cgroup_driver not in ("systemd", "cgroupfs"):
        raise NodeError(f"cgroup driver {cgroup_driver[:40]!r}; allowed: systemd, cgroupfs")
    if not 0 <= critical_seconds <= shutdown_seconds:
        raise NodeError(
            f"graceful shutdown: {critical_seconds} s for critical pods out of {shutdown_seconds} s in "
            f"all is not possible; "
            "the first must not be larger, and none is negative"
        )
    fields: dict[str, Any] = {
        "cgroupDriver": cgroup_driver,
        "rotateCertificates": True,
        "serverTLSBootstrap": serving_certificates,
        "shutdownGracePeriod": f"{shutdown_seconds}s",
        "shutdownGracePeriodCriticalPods": f"{critical_seconds}s",
    }
    if allow_swap:
        fields["failSwapOn"] = False
    if version.release < (1, 20):
        # Unknown there, and a kubelet does not start with fields it does not know.
        del fields["shutdownGracePeriod"], fields["shutdownGracePeriodCriticalPods"]
    elif version.release == (1, 20) and shutdown_seconds:
        # Alpha in 1.20, on by default since 1.21 (kubernetes.io, "Node Shutdowns").
        fields["featureGates"] = {"GracefulNodeShutdown": True}
    return fields


def first_arguments(version: versions.Version, *, allow_swap: bool) -> dict[str, str]:
    """Return what must stand on the kubelet's command line: its file cannot be patched before it first starts."""
    if allow_swap and not versions.can_patch_kubelet(version):
        return {"fail-swap-on": "false"}
    return {}


def merged(current: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """Return configuration ``current`` with ``wanted`` over it; objects are merged, everything else is replaced.

    Durations are compared as the kubelet reads them: a field that says the same otherwise (``1m0s`` for ``60s``) stays.
    """
    result = dict(current) if isinstance(current, dict) else {}
    for key, value in wanted.items():
        if isinstance(value, dict):
            result[key] = merged(result.get(key), value)
        elif not (key.startswith("shutdownGracePeriod") and _seconds(result.get(key)) == _seconds(value)):
            result[key] = value
    return result


def _seconds(text: Any) -> float | None:
    """Return the seconds of a duration as Go writes it (``1h2m3s``), None for anything else; nothing is 0 seconds."""
    if text is None:
        return 0.0
    total, number = 0.0, ""
    for character in str(text):
        if character.isdigit() or character == ".":
            number += character
        elif character in "hms" and number:
            total += float(number) * {"h": 3600, "m": 60, "s": 1}[character]
            number = ""
        else:
            return None
    return None if number else total
