"""Known pairs of models and accelerators: what fits, what does not, and what is said about it.

Sizes are the models' own (parameters by their safetensors indexes, shapes by their config.json).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllmd_node import GIB, MIB, decide, fit, hardware, model, options, profiles

from .conftest import bf16, calm, gpus

LLAMA_8B = bf16(
    8_030_261_248, layers=32, heads=32, kv_heads=8, head_dim=128, hidden=4096, intermediate=14336, vocabulary=128256,
    positions=131072,
)  # fmt: skip
LLAMA_70B = bf16(
    70_553_706_496, layers=80, heads=64, kv_heads=8, head_dim=128, hidden=8192, intermediate=28672, vocabulary=128256,
    positions=131072,
)  # fmt: skip
LLAMA_405B = bf16(
    405_853_388_800, layers=126, heads=128, kv_heads=8, head_dim=128, hidden=16384, intermediate=53248,
    vocabulary=128256, positions=131072,
)  # fmt: skip
MIXTRAL = bf16(
    46_702_792_704, layers=32, heads=32, kv_heads=8, head_dim=128, hidden=4096, intermediate=14336, vocabulary=32000,
    positions=32768,
)  # fmt: skip
QWEN_05B = bf16(
    494_032_768, layers=24, heads=14, kv_heads=2, head_dim=64, hidden=896, intermediate=4864, vocabulary=151936,
    positions=32768,
)  # fmt: skip
R1_QWEN_32B_INT8 = model.Model(
    dtype="BF16", quantized=True, weights=(("BF16", 3_120_000_000), ("I8", 31_205_621_760)), layers=64, heads=40,
    kv_heads=8, head_dim=128, hidden=5120, intermediate=27648, vocabulary=152064, positions=131072,
)  # fmt: skip
DEEPSEEK_R1 = model.Model(
    dtype="BF16", quantized=True, weights=(("BF16", 4_000_000_000), ("F8_E4M3", 680_571_043_840)), layers=61, heads=128,
    kv_heads=128, head_dim=56, latent=576, hidden=7168, intermediate=18432, vocabulary=129280, positions=163840,
)  # fmt: skip
A10, A40, L40S, A100_40, A100_80 = "10de:2236", "10de:2235", "10de:26b9", "10de:20b0", "10de:20b5"
H100, H200, B200 = "10de:2330", "10de:2335", "10de:2901"
Profiles = dict[str, dict[str, Any]]


def run(shipped: Profiles, what: model.Model | None, pci_id: str, count: int = 1, **explicit: Any) -> decide.Decision:
    """Decide for ``count`` GPUs; options in snake case."""
    given_options = {name.replace("_", "-"): value for name, value in explicit.items()}
    return decide.decide(gpus(pci_id, count), what, profiles.choose(shipped, [pci_id]), given_options, {})


@pytest.mark.parametrize(
    ("what", "pci_id", "count", "length"),
    [
        # 22 GiB hold 15 GiB of weights and a few GiB of cache at 128 KiB a token.
        (LLAMA_8B, A10, 1, (20_000, 45_000)),
        # 47 tokens a MiB at 8 heads x 128 x 2 x 2 bytes x 80 layers, split over two.
        (LLAMA_70B, H100, 2, (20_000, 60_000)),
        (LLAMA_70B, A100_80, 2, (20_000, 60_000)),
        (LLAMA_70B, A40, 4, (40_000, 130_000)),
        (MIXTRAL, A100_40, 4, (32_768, 32_768)),
        (R1_QWEN_32B_INT8, A40, 1, (20_000, 40_000)),
        (LLAMA_8B, A40, 1, (131_072, 131_072)),
        (LLAMA_8B, H100, 1, (131_072, 131_072)),
        (LLAMA_70B, H100, 4, (131_072, 131_072)),
        (LLAMA_70B, B200, 1, (60_000, 131_072)),
        (MIXTRAL, H200, 1, (32_768, 32_768)),
        (MIXTRAL, H100, 2, (32_768, 32_768)),
        (LLAMA_405B, H200, 8, (131_072, 131_072)),
        (DEEPSEEK_R1, H200, 8, (163_840, 163_840)),
        (QWEN_05B, A10, 1, (32_768, 32_768)),
    ],
)
def test_what_fits(shipped: Profiles, what: model.Model, pci_id: str, count: int, length: tuple[int, int]) -> None:
    decision = run(shipped, what, pci_id, count)
    assert length[0] <= decision.options.get("max-model-len", what.positions) <= length[1]
    assert decision.options.get("tensor-parallel-size", 1) == count


@pytest.mark.parametrize(
    ("what", "pci_id", "count", "expected"),
    [
        (LLAMA_70B, H100, 1, "weights 131.4 GiB"),
        (LLAMA_70B, H100, 1, "79.1 GiB x gpu-memory-utilization 0.95 = 75.1 GiB"),
        (LLAMA_70B, H100, 1, "give the runtime 2 such GPUs"),
        (LLAMA_70B, A100_40, 2, "give the runtime 4 such GPUs"),
        (LLAMA_70B, A10, 4, "give the runtime 8 such GPUs"),
        (LLAMA_405B, H100, 8, "give the runtime 16 such GPUs"),
        (MIXTRAL, A100_80, 1, "weights 87.0 GiB"),
        (MIXTRAL, A40, 1, "give the runtime 4 such GPUs"),
        (DEEPSEEK_R1, H100, 8, "give the runtime 16 such GPUs"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_arithmetic(
    shipped: Profiles, what: model.Model, pci_id: str, count: int, expected: str
) -> None:
    with pytest.raises(decide.Refusal) as caught:
        run(shipped, what, pci_id, count)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_that_does_not_fit_is_refused_with_one_that_does(shipped: Profiles) -> None:
    with pytest.raises(
        decide.Refusal, match=r"does not fit with max-model-len 131072: .* key-value cache of 131072"
    ) as no:
        run(shipped, LLAMA_8B, A10, max_model_len=131072)
    longest = int(str(no.value).partition("max-model-len to at most ")[2].partition(",")[0])
    assert run(shipped, LLAMA_8B, A10, max_model_len=longest).options["max-model-len"] == longest
    with pytest.raises(decide.Refusal):
        run(shipped, LLAMA_8B, A10, max_model_len=longest + 32)


def test_explicit_options_win_over_the_profile_and_the_profile_over_the_default(shipped: Profiles) -> None:
    decision = run(shipped, LLAMA_8B, H100, gpu_memory_utilization=0.5, max_num_seqs=7)
    assert decision.options["gpu-memory-utilization"] == 0.5
    assert decision.options["max-num-seqs"] == 7
    assert decision.options["max-num-batched-tokens"] == 8192
    assert decision.profile == "nvidia-h100"
    small = run(shipped, LLAMA_8B, H100, max_num_batched_tokens=64)
    assert (small.options["max-num-batched-tokens"], small.options["max-num-seqs"]) == (64, 64)


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 2)])
def test_tensor_parallel_size_divides_the_heads(shipped: Profiles, count: int, expected: int) -> None:
    assert run(shipped, QWEN_05B, A10, count).options.get("tensor-parallel-size", 1) == expected


def test_a_split_that_the_heads_do_not_allow_is_refused(shipped: Profiles) -> None:
    with pytest.raises(
        decide.Refusal, match=r"tensor-parallel-size 3 does not divide .* 32 attention heads .* use one of 1, 2, 4"
    ):
        run(shipped, LLAMA_8B, A10, 4, tensor_parallel_size=3)
    with pytest.raises(
        decide.Refusal, match=r"tensor-parallel-size 2 x pipeline-parallel-size 2 .* needs 4 GPUs.* has 2"
    ):
        run(shipped, LLAMA_8B, A10, 2, tensor_parallel_size=2, pipeline_parallel_size=2)
    pipelined = run(shipped, LLAMA_70B, H100, 4, pipeline_parallel_size=2)
    assert pipelined.options["tensor-parallel-size"] == 2


def test_smaller_steps_where_weights_leave_no_room(shipped: Profiles) -> None:
    decision = run(shipped, LLAMA_70B, H200)
    assert decision.options["max-num-batched-tokens"] == 2048
    assert any("leave no room for the profile's" in reason for reason in decision.reasons)


def test_what_shrinks_the_load_counts(shipped: Profiles) -> None:
    full = run(shipped, LLAMA_8B, A10).options["max-model-len"]
    assert run(shipped, LLAMA_8B, A10, kv_cache_dtype="fp8").options["max-model-len"] == pytest.approx(
        2 * full, abs=512
    )
    assert run(shipped, LLAMA_8B, A10, cpu_offload_gb=8).options["max-model-len"] > 2 * full
    assert "max-model-len" not in run(shipped, LLAMA_70B, A10, quantization="bitsandbytes").options


def test_the_unknown_is_left_to_vllm(shipped: Profiles) -> None:
    for decision in (
        run(shipped, None, H100, 2),
        run(shipped, replace(LLAMA_70B, weights=()), H100),
        run(shipped, LLAMA_405B, "10de:ffff"),
    ):
        assert "max-model-len" not in decision.options
        assert any("is left to vLLM" in reason for reason in decision.reasons)
    spread = run(
        shipped, DEEPSEEK_R1, H100, 8, tensor_parallel_size=1, data_parallel_size=8, enable_expert_parallel=True
    )
    assert spread.reasons == ["whether the model fits is left to vLLM: enable-expert-parallel changes the sum"]
    assert run(shipped, None, H100, 3).options["tensor-parallel-size"] == 2
    assert "max-model-len" not in run(shipped, replace(LLAMA_8B, positions=0), A10).options
    assert run(shipped, LLAMA_8B, A10, max_model_len="auto").options["max-model-len"] == "auto"


def test_swap_goes_to_the_guests_memory(shipped: Profiles) -> None:
    profile = {**shipped["nvidia-a10"], "swap_gib": 16}
    assert decide.decide(gpus(A10, 1), LLAMA_8B, profile, {}, {}).options["kv-offloading-size"] == 16
    explicit = {"kv-offloading-size": 2}
    assert decide.decide(gpus(A10, 1), LLAMA_8B, profile, explicit, {}).options["kv-offloading-size"] == 2


SMOLLM2 = bf16(
    134_515_008, layers=30, heads=9, kv_heads=3, head_dim=64, hidden=576, intermediate=1536, vocabulary=49152,
    positions=8192,
)  # fmt: skip


def on_cpu(
    shipped: Profiles, what: model.Model = SMOLLM2, memory: int = 5 * GIB, fast: bool = False, **explicit: Any
) -> decide.Decision:
    """Decide for a guest without a GPU."""
    machine = hardware.Hardware((), 2, fast, memory, memory - GIB // 4)
    environment = explicit.pop("environment", {})
    given_options = {name.replace("_", "-"): value for name, value in explicit.items()}
    return decide.decide(machine, what, shipped["cpu"], given_options, environment)


def test_a_small_model_on_the_cpu(shipped: Profiles) -> None:
    decision = on_cpu(shipped)
    assert decision.options["dtype"] == "float32"
    assert "max-model-len" not in decision.options
    # 30 layers x 2 x 3 heads x 64 x 4 bytes: 46080 a token.
    one = 46080 * (8192 + 128)
    assert decision.options["kv-cache-memory-bytes"] >= one
    assert decision.options["kv-cache-memory-bytes"] % MIB == 0
    assert "dtype" not in on_cpu(shipped, fast=True).options


def test_the_manifest_of_the_local_inventory_is_left_alone(shipped: Profiles) -> None:
    explicit = {
        "dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 2,
        "kv_cache_memory_bytes": "64M",
    }  # fmt: skip
    decision = on_cpu(shipped, **explicit)
    assert decision.options == {name.replace("_", "-"): value for name, value in explicit.items()}
    assert decision.reasons == []


def test_memory_bounds_the_length_on_the_cpu(shipped: Profiles) -> None:
    decision = on_cpu(shipped, memory=int(2.7 * GIB))
    assert 512 <= decision.options["max-model-len"] < 8192
    assert decision.options["kv-cache-memory-bytes"] >= 46080 * decision.options["max-model-len"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            {"what": LLAMA_8B},
            r"weights 29.9 GiB .* the guest has 4.8 GiB available of 5.0 GiB; give the guest more memory",
        ),
        (
            {"kv_cache_memory_bytes": "4G", "memory": 4 * GIB},
            r"weights 0.5 GiB \+ kv-cache-memory-bytes 4.0 GiB = 4.5 GiB",
        ),
        ({"environment": {"VLLM_CPU_KVCACHE_SPACE": "40"}}, r"kv-cache-memory-bytes 40.0 GiB"),
        (
            {"gpu_memory_utilization": 0.99},
            r"gpu-memory-utilization 0.99 of 5.0 GiB is .*, 4.8 GiB are available; .*: at most 0.95",
        ),
        ({"kv_cache_memory_bytes": "64M", "max_model_len": 8192}, r"cache of 8192 tokens 0.4 GiB .* to at most 1456"),
        ({"max_model_len": 8192, "gpu_memory_utilization": 0.15}, r"does not fit with max-model-len 8192"),
    ],
)
def test_what_does_not_fit_the_guest_is_refused(shipped: Profiles, arguments: dict[str, Any], expected: str) -> None:
    with pytest.raises(decide.Refusal, match=expected):
        on_cpu(shipped, **arguments)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *[(4096, 4096), ("4096", 4096), ("4k", 4000), ("4K", 4096), ("64M", 64 * MIB), ("25.6k", 25600), (-1, None)],
        *[("auto", None), (True, None), (None, None), ([], None), ("", None), ("k", None), ("1e400", None), (0, 0)],
    ],
)
def test_numbers_are_read_as_vllm_reads_them(value: Any, expected: int | None) -> None:
    assert options.whole(value) == expected


def test_precisions() -> None:
    assert options.dtype("auto", "F32") == "BF16"
    assert options.dtype(None, "F16") == "F16"
    assert options.dtype("half", "BF16") == "F16"
    assert options.dtype(["x"], "") == "BF16"


SHAPES = st.builds(
    bf16,
    st.integers(1, 10**12),
    layers=st.integers(0, 200),
    window_layers=st.integers(0, 200),
    window=st.integers(0, 10**6),
    heads=st.integers(0, 128),
    kv_heads=st.integers(0, 128),
    head_dim=st.integers(0, 512),
    latent=st.sampled_from([0, 576]),
    hidden=st.integers(0, 32768),
    intermediate=st.integers(0, 131072),
    vocabulary=st.integers(0, 300_000),
    positions=st.integers(0, 10**7),
)
LOOSE = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=6)
NAMES = ["max-model-len", "tensor-parallel-size", "gpu-memory-utilization", "kv-cache-memory-bytes", "dtype"]
NAMES += ["max-num-seqs", "max-num-batched-tokens", "kv-cache-dtype", "cpu-offload-gb", "pipeline-parallel-size"]


@calm
@given(
    what=SHAPES,
    pci_id=st.sampled_from(["", A10, A100_40, H100, B200, "10de:ffff"]),
    count=st.integers(1, 16),
    explicit=st.dictionaries(st.sampled_from(NAMES), LOOSE),
)
def test_any_model_on_any_machine_gives_options_or_a_sentence(
    shipped: Profiles, what: model.Model, pci_id: str, count: int, explicit: dict[str, Any]
) -> None:
    machine = gpus(pci_id, count) if pci_id else hardware.Hardware((), 4, False, 8 * GIB, 7 * GIB)
    profile = profiles.choose(shipped, [pci_id] if pci_id else [])
    try:
        decision = decide.decide(machine, what, profile, explicit, {})
    except decide.Refusal as refusal:
        assert "\n" not in str(refusal)
        return
    assert decision.options.items() >= {name: value for name, value in explicit.items() if value == value}.items()  # noqa: PLR0124 -- not NaN
    length = decision.options.get("max-model-len")
    if "max-model-len" not in explicit and length is not None:
        assert 0 < length < what.positions


@calm
@given(what=SHAPES, tensor=st.integers(1, 16), room=st.integers(0, 10**12))
def test_the_longest_sequence_is_the_longest(what: model.Model, tensor: int, room: int) -> None:
    load = fit.load_of(what, fit.Split(tensor), "BF16")
    longest = load.longest(room)
    assert load.cache(longest) <= room
    assert longest == 2**40 or load.cache(longest + 1) > room
