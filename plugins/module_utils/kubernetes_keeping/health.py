# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""What is wrong with a member of a control plane, and what of it can safely be put right by itself.

Pure functions. A round looks at everything, and this decides what is done. A restart helps a program that hangs, so
that is all that is ever done: never where it cannot help, never to data, and each time with a longer pause, so that
what does not help is not done for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

CONTAINERD, KUBELET, ETCD, API_SERVER = "containerd", "kubelet", "etcd", "kube-apiserver"
#: What stands on what: nothing is put right above something that is wrong below.
ORDER = (CONTAINERD, KUBELET, ETCD, API_SERVER)


@dataclass(frozen=True)
class Rules:
    """After how many bad rounds something is restarted, and the pauses between restarts, in seconds."""

    rounds: int = 3
    pause: int = 60
    longest_pause: int = 3600
    certificate_days: int = 14
    free_percent: int = 10
    most_load: int = 8


@dataclass(frozen=True)
class Seen:
    """What a round saw; an empty text is good, else it says what is wrong.

    ``trouble``: what does not answer, by part. ``unhealthy``: what answers and is not well. ``absent``: parts without a
    process, which the kubelet starts by itself. ``stopped``: parts that somebody stopped or disabled on purpose.
    ``disks``: free percent by path. ``certificates``: days left by path. ``load``: processes that want a CPU, for each
    that there is. ``maintenance``: what is going on on purpose.
    """

    trouble: Mapping[str, str]
    unhealthy: Mapping[str, str] = field(default_factory=dict)
    absent: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    disks: Mapping[str, float] = field(default_factory=dict)
    certificates: Mapping[str, float] = field(default_factory=dict)
    load: float = 0.0
    maintenance: str = ""


@dataclass(frozen=True)
class Part:
    """What is remembered of a part: bad rounds in a row, restarts that have not helped yet, when the last one was."""

    bad: int = 0
    restarts: int = 0
    last: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a round comes to: warnings (lines), restarts (part to reason), what to remember, whether all is well."""

    warnings: tuple[str, ...]
    restarts: Mapping[str, str]
    memory: Mapping[str, Part]
    healthy: bool


def pause(rules: Rules, restarts: int) -> int:
    """Return the seconds between a restart and the next one after ``restarts`` that did not help."""
    return min(rules.pause << min(restarts, 16), rules.longest_pause)


def decide(seen: Seen, memory: Mapping[str, Part], now: int, rules: Rules) -> Outcome:
    """Return what comes of a round at ``now`` (seconds since 1970), given what is remembered of the rounds before."""
    warnings = _warnings(seen, rules)
    after: dict[str, Part] = {}
    restarts: dict[str, str] = {}
    below = ""
    for part in ORDER:
        trouble, before = seen.trouble.get(part, ""), memory.get(part, Part())
        if not trouble:
            # A restart has helped only when the part was well for as long as the pause after it.
            helped = now - before.last >= pause(rules, before.restarts)
            after[part] = Part(0, 0 if helped else before.restarts, before.last)
            continue
        after[part] = part_after = Part(before.bad + 1, before.restarts, before.last)
        hindrance = _hindrance(part, seen, part_after, now, rules) or (below and f"{below} comes first")
        if hindrance:
            warnings.append(f"{part}: {trouble}; not restarted: {hindrance}")
        else:
            restarts[part] = f"{trouble}, {part_after.bad} times in a row"
            after[part] = Part(0, before.restarts + 1, now)
        below = below or part
    healthy = not warnings and not any(seen.trouble.get(part) for part in ORDER)
    return Outcome(tuple(warnings), restarts, after, healthy)


def _hindrance(part: str, seen: Seen, known: Part, now: int, rules: Rules) -> str:
    """Return why the part is not restarted now; empty when it can be."""
    if seen.maintenance:
        return f"{seen.maintenance} just now"
    if part in seen.stopped:
        return "somebody has stopped or disabled it"
    if known.bad < rules.rounds:
        return f"seen {known.bad} times in a row, {rules.rounds} are needed"
    if known.last and now - known.last < (wait := pause(rules, known.restarts)):
        return f"the last restart was {now - known.last} s ago, the next one comes {wait} s after it"
    full = [path for path, free in seen.disks.items() if free < 1]
    if full:
        return f"{full[0]} is full, and a restart would not help; make room there"
    if seen.load > rules.most_load:
        return f"{seen.load:.0f} processes wait for each CPU: it is slow like everything here, and a start costs more"
    if part in seen.absent:
        return "it has no process, and the kubelet starts it; 'crictl ps -a' and 'crictl logs' say why it ends"
    if part == API_SERVER and seen.unhealthy.get(ETCD):
        return "etcd comes first"
    return ""


def _warnings(seen: Seen, rules: Rules) -> list[str]:
    """Return what a person has to do something about, a line each."""
    found = [
        f"{path} has {free:.0f} % free; make room there"
        for path, free in seen.disks.items()
        if free < rules.free_percent
    ]
    found += [f"{part} {said}" for part, said in seen.unhealthy.items() if said]
    for path, days in seen.certificates.items():
        if days < rules.certificate_days:
            left = f"ends in {days:.0f} days" if days > 0 else "has ended"
            found.append(f"{path} {left}; renew it with 'kubeadm certs renew' or the renewal timer")
    return found


def remembered(found: Any) -> dict[str, Part]:
    """Return the memory from what was read from its file; what cannot be understood is forgotten."""
    try:
        return {
            str(name): Part(int(each["bad"]), int(each["restarts"]), int(each["last"])) for name, each in found.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError):
        return {}


def noted(memory: Mapping[str, Part]) -> dict[str, dict[str, int]]:
    """Return the memory as it is written to its file."""
    return {name: asdict(part) for name, part in memory.items()}
