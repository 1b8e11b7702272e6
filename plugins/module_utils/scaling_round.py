# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""One round of scaling over all runtimes: by hand where somebody said a number, else by the rule. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .placement.demand import unknown
from .runtime_load import loads as loads_of
from .scaling import Count, Decision, Memory, Moment, Rule, ScalingError, decide, remember


@dataclass
class Round:
    """What was decided: numbers for all runtimes, those that change, and lines for people."""

    decisions: dict[str, Decision] = field(default_factory=dict)
    scaled: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def replicas(self) -> dict[str, int]:
        """Return how many replicas each runtime should have."""
        return {name: decision.replicas for name, decision in sorted(self.decisions.items())}

    def state(self, moment: Moment, calendar: str) -> dict[str, Any]:
        """Return what to remember, for the file."""
        return remember(self.decisions, moment, calendar)


def round_of(  # noqa: PLR0917  # what one round is about
    placements: Iterable[Mapping[str, Any]],
    runtimes: Iterable[Mapping[str, Any]],
    loads: Mapping[str, Any],
    memories: Mapping[str, Memory],
    moment: Moment,
    rule: Rule,
    by_hand: Mapping[str, Any] | None = None,
    by_rule: bool = True,
) -> Round:
    """Return what to do for the plan's ``placements`` and the ``loads`` of healthy replicas (runtime_load.ask), by id.

    Raises ScalingError for a number by hand that spec.scaling does not allow, or of a runtime that nobody knows.
    """
    ids: dict[str, list[str]] = {}
    for placement in placements:
        if not placement.get("leaving"):
            ids.setdefault(str(placement["runtime"]), []).append(str(placement["id"]))
    known = {str(each["metadata"]["name"]): each["spec"] for each in runtimes}
    asked = _asked(by_hand or {}, known)
    done = Round()
    for name, spec in sorted(known.items()):
        mine = ids.get(name, [])
        memory = memories.get(name, Memory(moment.seconds))
        if name in asked:
            same = asked[name] == len(mine)
            decision = Decision(asked[name], "asked for", replace(memory) if same else Memory(moment.seconds))
        elif by_rule:
            answers = [loads[each] for each in mine if each in loads]
            least, most = spec["scaling"]["minReplicas"], spec["scaling"]["maxReplicas"]
            decision = decide(
                Count(len(mine), least, most), loads_of(answers), memory, moment.seconds, _own(rule, spec.get("engine"))
            )
        else:
            decision = Decision(len(mine), "not asked for", memory)
        done.decisions[name] = decision
        before = f"{len(mine)} -> " if decision.replicas != len(mine) else ""
        done.lines.append(f"{name}: {before}{decision.replicas} replicas, {decision.reason}")
        if before:
            done.scaled[name] = {"before": len(mine), "after": decision.replicas, "reason": decision.reason}
    return done


def _asked(by_hand: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, int]:
    numbers = {}
    for name, value in by_hand.items():
        if name not in known:
            raise ScalingError(f"replicas: {unknown('runtime', str(name), known)}")
        scaling = known[name]["scaling"]
        least, most = scaling["minReplicas"], scaling["maxReplicas"]
        if isinstance(value, bool) or not str(value).isdecimal() or not least <= int(value) <= most:
            raise ScalingError(
                f"replicas: {name} is {str(value)[:40]}; allowed: {least} to {most}, by its spec.scaling; change the "
                "manifest for more"
            )
        numbers[str(name)] = int(value)
    return numbers


def _own(rule: Rule, engine: Any) -> Rule:
    """Return the rule for a runtime whose engine runs at most ``max-num-seqs`` requests at once: more only wait."""
    limit = engine.get("max-num-seqs") if isinstance(engine, Mapping) else None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        return rule
    return replace(rule, requests=min(rule.requests, float(limit)))
