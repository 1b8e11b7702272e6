"""From hardware, model and profile to the engine's options: explicit wins over profile, profile over vLLM's default.

The result is plain data with the reasons in words, or a Refusal before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from vllmd_node import GIB, MIB, fit, gib, options
from vllmd_node.fit import Load, Split
from vllmd_node.hardware import Hardware
from vllmd_node.model import Model
from vllmd_node.profiles import memory_bytes

_DEFAULT_UTILIZATION = 0.92  # vLLM's own, config/cache.py
_DEFAULT_BATCH, _DEFAULT_SEQUENCES = 2048, 256  # vLLM's own for a server, engine/arg_utils.py
_CPU_SEQUENCES = 128
_BEYOND_THIS_MACHINE = ("nnodes", "data-parallel-address", "data-parallel-size-local")
#: Options that spread or change the model in ways that the sum does not know.
_BEYOND_THE_SUM = ("enable-expert-parallel", "decode-context-parallel-size", "hf-overrides")
_SMALLEST = 512  # tokens; a shorter context is not worth starting


class Refusal(Exception):
    """The model cannot be served here; the message is one sentence with the arithmetic."""


@dataclass
class Decision:
    """What to run: all of vLLM's ``options``, ``environment`` to add, and ``reasons``, one line each."""

    options: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    profile: str = "none"
    reasons: list[str] = field(default_factory=list)
    figures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Case:
    """What a decision rests on, and the decision so far."""

    hardware: Hardware
    model: Model | None
    profile: Mapping[str, Any] | None
    explicit: Mapping[str, Any]
    environment: Mapping[str, str]
    decision: Decision

    def number(self, option: str, otherwise: int = 0) -> int:
        """Return an option as a number, or ``otherwise`` when it is not given or none."""
        return options.whole(self.decision.options.get(option)) or otherwise

    def load(self, model: Model, split: Split) -> Load:
        """Return what one accelerator holds under the options as they are now."""
        chosen = self.decision.options
        load = fit.load_of(
            model,
            split,
            options.dtype(chosen.get("dtype"), model.dtype),
            str(chosen.get("kv-cache-dtype", "auto")),
            step=(
                self.number("max-num-batched-tokens", _DEFAULT_BATCH),
                self.number("max-num-seqs", _DEFAULT_SEQUENCES),
            ),
        )
        overhead = (self.profile["overhead_mib"] if self.profile else 1024) * MIB
        return replace(load, overhead=overhead, weights=max(0, load.weights - self.number("cpu-offload-gb") * GIB))


def decide(
    hardware: Hardware,
    model: Model | None,
    profile: Mapping[str, Any] | None,
    explicit: Mapping[str, Any],
    environment: Mapping[str, str],
) -> Decision:
    """Return what to run. ``explicit`` are the options that the runtime gives, ``environment`` its process's.

    Raises Refusal when the model certainly does not fit, or cannot be split as asked.
    """
    decision = Decision(dict(explicit))
    if profile is not None:
        decision.profile = profile["name"]
        decision.options = {**profile["engine"], **explicit}
        decision.environment = {name: each for name, each in profile["environment"].items() if name not in environment}
        batch = options.whole(explicit.get("max-num-batched-tokens"))
        sequences = options.whole(decision.options.get("max-num-seqs"))
        if batch and sequences and "max-num-seqs" not in explicit:
            decision.options["max-num-seqs"] = min(batch, sequences)  # vLLM refuses more sequences than tokens
        if profile["swap_gib"] and "kv-offloading-size" not in explicit:
            decision.options["kv-offloading-size"] = profile["swap_gib"]
    case = _Case(hardware, model, profile, explicit, environment, decision)
    if hardware.gpus:
        _on_gpus(case)
    elif profile is not None and not profile["devices"]:
        _on_cpu(case)
    return decision


def _on_gpus(case: _Case) -> None:
    decision, model, explicit = case.decision, case.model, case.explicit
    split = _split(case)
    if split.tensor > 1 and "tensor-parallel-size" not in explicit:
        decision.options["tensor-parallel-size"] = split.tensor
    memory = min(memory_bytes(case.profile, gpu.pci_id) for gpu in case.hardware.gpus) if case.profile else 0
    if not memory or model is None or not model.stored_bytes:
        decision.reasons.append(f"whether the model fits is left to vLLM: {_unknown(model)}")
        return
    beyond = [name for name in _BEYOND_THE_SUM if name in explicit]
    if "quantization" in explicit and not model.quantized:
        beyond.append("quantization")  # of plain weights, while they are loaded
    if beyond:
        decision.reasons.append(f"whether the model fits is left to vLLM: {beyond[0]} changes the sum")
        return
    utilization = options.fraction(decision.options.get("gpu-memory-utilization")) or _DEFAULT_UTILIZATION
    budget = int(memory * utilization)
    load = case.load(model, split)
    kinds = ", ".join(sorted({gpu.pci_id for gpu in case.hardware.gpus}))
    have = f"each GPU ({kinds}) has {gib(memory)} x gpu-memory-utilization {utilization:g} = {gib(budget)}"
    given = options.whole(explicit.get("kv-cache-memory-bytes"))
    if given:
        # vLLM then takes the cache's size as it is and looks at the utilisation no more.
        budget = min(memory, load.weights + load.activations + given)
        have = f"kv-cache-memory-bytes is {gib(given)} of a GPU's ({kinds}) {gib(memory)}"
    elif load.certain(_SMALLEST) > budget and _take_smaller_steps(case):
        load = case.load(model, split)
    _set_length(case, load, Room(budget, have, _more_gpus(case, model, split, budget)))
    decision.figures.update(
        gpus=split.gpus,
        gpu_memory_bytes=memory,
        budget_bytes=budget,
        weights_bytes=load.weights,
        cache_bytes_per_token=load.per_token,
    )


def _split(case: _Case) -> Split:
    """Return how the model is spread; Refusal for a split that its heads or the number of GPUs do not allow."""
    model, explicit, count = case.model, case.explicit, len(case.hardware.gpus)
    pipeline = options.whole(explicit.get("pipeline-parallel-size")) or 1
    replicas = options.whole(explicit.get("data-parallel-size")) or 1
    asked = options.whole(explicit.get("tensor-parallel-size"))
    if asked:
        wanted = asked * pipeline * replicas
        if wanted > count and not any(name in explicit for name in _BEYOND_THIS_MACHINE):
            raise Refusal(
                f"tensor-parallel-size {asked} x pipeline-parallel-size {pipeline} x data-parallel-size {replicas} "
                f"needs {wanted} GPUs, but the guest has {count}; lower one of them or give it more accelerators"
            )
        if model is not None and not fit.divides(model, asked):
            sizes = ", ".join(map(str, fit.tensor_sizes(model)))
            raise Refusal(
                f"tensor-parallel-size {asked} does not divide the model's {model.heads} attention heads "
                f"({model.kv_heads} of keys and values, {model.intermediate} wide); use one of {sizes}"
            )
        return Split(asked, pipeline)
    limit = max(1, count // (pipeline * replicas))
    if case.profile and case.profile["tensor_parallel"] != "all":
        limit = min(limit, int(case.profile["tensor_parallel"]))
    tensor = 1 << (limit.bit_length() - 1)  # powers of two divide the heads of nearly all models
    if model is not None and model.heads:
        tensor = max(fit.tensor_sizes(model, limit))
    if tensor > 1:
        case.decision.reasons.append(f"tensor-parallel-size {tensor} of {count} GPUs")
    return Split(tensor, pipeline)


def _take_smaller_steps(case: _Case) -> bool:
    """Give up throughput for room: smaller steps than the profile's, where the runtime does not say how large."""
    smaller = {"max-num-batched-tokens": _DEFAULT_BATCH, "max-num-seqs": 64}
    changed = {name: size for name, size in smaller.items() if name not in case.explicit and case.number(name) > size}
    case.decision.options.update(changed)
    if changed:
        steps = ", ".join(f"{name} {size}" for name, size in changed.items())
        case.decision.reasons.append(f"{steps}: the weights leave no room for the profile's")
    return bool(changed)


@dataclass(frozen=True)
class Room:
    """How many bytes there are, where they come from, and what would help, the latter two in words."""

    budget: int
    have: str
    hint: str


def _set_length(case: _Case, load: Load, room: Room) -> None:
    """Refuse a length that does not fit, or choose one when none is given and the model's own does not fit."""
    positions = case.model.positions if case.model else 0
    smallest = min(positions or _SMALLEST, _SMALLEST)
    asked = options.whole(case.explicit.get("max-model-len"))
    if asked:
        if load.certain(asked) > room.budget:
            fits = load.longest(room.budget - load.weights - load.activations)
            shorter = f"set max-model-len to at most {fits}, or " if fits >= 16 else ""
            raise Refusal(
                f"the model does not fit with max-model-len {asked}: {fit.sum_text(load, asked)}, but {room.have}; "
                f"{shorter}{room.hint}"
            )
        return
    if load.certain(smallest) > room.budget:
        raise Refusal(f"the model does not fit: {fit.sum_text(load, smallest)}, but {room.have}; {room.hint}")
    if "max-model-len" in case.explicit or not positions or not (load.per_token or load.window_per_token):
        return  # "auto", or nothing to choose by
    length = fit.chosen_length(load, room.budget, smallest)
    if length < positions:
        case.decision.options["max-model-len"] = length
        case.decision.reasons.append(
            f"max-model-len {length} of the model's {positions}: {fit.sum_text(load, length)}, and {room.have}"
        )


def _more_gpus(case: _Case, model: Model, split: Split, budget: int) -> str:
    """Say what would help: how many such GPUs hold the model with a short context."""
    for size in fit.tensor_sizes(model):
        larger = Split(size, split.pipeline)
        if larger.gpus > split.gpus and case.load(model, larger).certain(_SMALLEST) <= budget:
            return f"give the runtime {larger.gpus} such GPUs, larger ones, or a quantised model"
    return "give the runtime larger GPUs or a quantised model"


def _on_cpu(case: _Case) -> None:
    """On the CPU all is one memory: weights, engine, cache, and the guest itself."""
    decision, hardware, model, explicit = case.decision, case.hardware, case.model, case.explicit
    if "dtype" not in explicit and not hardware.fast_bfloat16:
        decision.options["dtype"] = "float32"
        decision.reasons.append("dtype float32: this CPU has no bfloat16 arithmetic (AVX512_BF16, AMX)")
    available = hardware.memory_available_bytes
    if model is None or not model.stored_bytes or not available:
        decision.reasons.append(f"whether the model fits is left to vLLM: {_unknown(model)}")
        return
    # One process holds all of it; its activations are part of the measured overhead.
    load = replace(case.load(model, Split()), activations=0)
    have = f"the guest has {gib(available)} available of {gib(hardware.memory_bytes)}"
    room = Room(available, have, "give the guest more memory (spec.resources.memory) or a smaller model")
    given = _given_cache(case)
    utilization = options.fraction(explicit.get("gpu-memory-utilization"))
    if given is not None:
        if load.weights + given > available:
            raise Refusal(
                f"the model does not fit: weights {gib(load.weights)} + kv-cache-memory-bytes {gib(given)} = "
                f"{gib(load.weights + given)}, but {room.have}; {room.hint}"
            )
        room = Room(load.weights + given, f"kv-cache-memory-bytes is {gib(given)}", "give the cache more")
        load = replace(load, overhead=0)
    elif utilization is not None:
        room = _utilized(hardware, utilization, room)
    _set_length(case, load, room)
    if given is None and not {"kv-cache-memory-bytes", "gpu-memory-utilization"} & explicit.keys():
        _size_cache(case, load, room.budget)
    decision.figures.update(
        memory_available_bytes=available,
        budget_bytes=room.budget,
        weights_bytes=load.weights,
        cache_bytes_per_token=load.per_token,
    )


def _utilized(hardware: Hardware, utilization: float, room: Room) -> Room:
    """Return what vLLM may use when it is told a share of the guest's memory; Refusal when that is not available."""
    wanted = int(hardware.memory_bytes * utilization)
    total = gib(hardware.memory_bytes)
    if wanted > room.budget:
        share = int(room.budget / hardware.memory_bytes * 100) / 100
        raise Refusal(
            f"gpu-memory-utilization {utilization:g} of {total} is {gib(wanted)}, {gib(room.budget)} are available; "
            f"on the CPU it is a share of the guest's memory: at most {share:g} here"
        )
    have = f"gpu-memory-utilization {utilization:g} of the guest's {total} is {gib(wanted)}"
    return Room(wanted, have, f"raise it, or {room.hint}")


def _size_cache(case: _Case, load: Load, budget: int) -> None:
    """Give the cache what all sequences could use, at most what is left, and always one sequence."""
    length = case.number("max-model-len", case.model.positions if case.model else 0)
    if not length or not (load.per_token or load.window_per_token):
        return
    one = load.cache(length + 128)  # the CPU's blocks are of 128 tokens
    room = int((budget - load.weights - load.overhead) * fit.CAREFUL)
    size = max(one, min(room, one * case.number("max-num-seqs", _CPU_SEQUENCES)))
    case.decision.options["kv-cache-memory-bytes"] = -(-size // MIB) * MIB
    case.decision.reasons.append(f"kv-cache-memory-bytes {gib(size)}: {size // one} sequences of {length} tokens")


def _given_cache(case: _Case) -> int | None:
    """Return the cache's size in bytes when the runtime gives it; VLLM_CPU_KVCACHE_SPACE is in GiB and wins."""
    space = case.environment.get("VLLM_CPU_KVCACHE_SPACE", "")
    if space.isdecimal():
        return int(space) * GIB
    return options.whole(case.explicit.get("kv-cache-memory-bytes"))


def _unknown(model: Model | None) -> str:
    known = model is not None and model.stored_bytes
    return "no profile knows these GPUs" if known else "the model's size is not known here"
