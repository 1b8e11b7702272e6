"""A model's size and shape from config.json and safetensors headers."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllmd_node import model

from .conftest import calm, write_safetensors

SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "torch_dtype": "bfloat16",
    "vocab_size": 49152,
}
Make = Callable[..., Path]


def test_a_small_llama(model_directory: Make) -> None:
    found = model.read(str(model_directory(SMOLLM2, {"model.safetensors": {"a": ("BF16", 200), "b": ("F32", 80)}})))
    assert (found.architecture, found.dtype, found.head_dim, found.positions) == ("LlamaForCausalLM", "BF16", 64, 8192)
    assert (found.layers, found.heads, found.kv_heads) == (30, 9, 3)
    assert (found.parameters, found.stored_bytes) == (120, 280)
    assert (found.bytes_as("F32"), found.bytes_as("BF16")) == (480, 240)


def test_only_the_files_of_the_index_count(model_directory: Make) -> None:
    files = {"model-1.safetensors": {"a": ("BF16", 100)}, "model-2.safetensors": {"b": ("BF16", 60)}}
    directory = model_directory(SMOLLM2, files, index=True)
    write_safetensors(directory / "consolidated.safetensors", {"a": ("BF16", 160)})
    assert model.read(str(directory)).stored_bytes == 160
    (directory / "model-2.safetensors").unlink()
    with pytest.raises(model.ModelError, match=r"lacks model-2\.safetensors"):
        model.read(str(directory))


def test_copies_beside_the_model_do_not_count(model_directory: Make) -> None:
    files = {"model.safetensors": {"a": ("BF16", 100)}, "consolidated.safetensors": {"a": ("BF16", 100)}}
    assert model.read(str(model_directory(SMOLLM2, files))).stored_bytes == 100


def test_what_is_quantised_stays_as_stored(model_directory: Make) -> None:
    config = {**SMOLLM2, "quantization_config": {"quant_method": "compressed-tensors"}}
    found = model.read(str(model_directory(config, {"model.safetensors": {"a": ("I8", 100), "s": ("BF16", 20)}})))
    assert found.quantized
    assert found.bytes_as("F32") == 120


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"sliding_window": 4096}, (0, 30)),
        ({"sliding_window": 4096, "use_sliding_window": False}, (30, 0)),
        ({"sliding_window": None}, (30, 0)),
        ({"sliding_window": 128, "layer_types": ["full_attention", "sliding_attention"] * 15}, (15, 15)),
        ({"layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 7 + ["linear_attention"] * 2}, (7, 0)),
        ({"sliding_window": 1024, "sliding_window_pattern": 6}, (5, 25)),
    ],
)
def test_which_layers_keep_all_tokens(extra: dict[str, Any], expected: tuple[int, int]) -> None:
    found = model.from_config({**SMOLLM2, **extra}, {})
    assert (found.layers, found.window_layers) == expected


def test_nested_and_latent_configurations() -> None:
    nested = model.from_config({"architectures": ["X"], "text_config": SMOLLM2, "vision_config": {}}, {})
    assert (nested.architecture, nested.layers) == ("X", 30)
    latent = model.from_config({**SMOLLM2, "kv_lora_rank": 512, "qk_rope_head_dim": 64}, {})
    assert latent.latent == 576


def test_yarn_stretches_positions() -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert model.from_config({**SMOLLM2, "rope_scaling": scaling}, {}).positions == 131072


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 8, "not a safetensors file"),
        ((20).to_bytes(8, "little") + b"{}" + b" " * 18, ""),
        ((4).to_bytes(8, "little") + b"[1]\n", "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"{", "not a safetensors file"),
    ],
)
def test_a_damaged_weight_file_is_named(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if not expected:
        assert model.read_header(str(path)) == {}
        return
    with pytest.raises(model.ModelError, match=expected) as caught:
        model.read_header(str(path))
    assert str(path) in str(caught.value)


def test_a_cut_weight_file_says_by_how_much(model_directory: Make) -> None:
    directory = model_directory(SMOLLM2, {"model.safetensors": {"a": ("BF16", 1000)}})
    path = directory / "model.safetensors"
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 10)
    with pytest.raises(model.ModelError, match="cut short by 10 bytes"):
        model.read(str(directory))


def test_a_config_that_is_none_is_named(model_directory: Make) -> None:
    directory = model_directory({}, {})
    (directory / "config.json").write_text("[]")
    with pytest.raises(model.ModelError, match="not a JSON object"):
        model.read(str(directory))
    (directory / "config.json").unlink()
    with pytest.raises(model.ModelError, match="No such file"):
        model.read(str(directory))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SMOLLM2, "factor"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [
    *SMOLLM2,
    "text_config",
    "layer_types",
    "sliding_window",
    "rope_scaling",
    "kv_lora_rank",
    "quantization_config",
]


@settings(calm, max_examples=500)
@given(config=st.dictionaries(st.sampled_from(FIELDS), VALUES))
def test_any_config_gives_a_model(config: dict[str, Any]) -> None:
    found = model.from_config(config, {"BF16": 2})
    assert found.layers >= 0
    assert found.window_layers >= 0
    assert found.bytes_as("F32") in (2, 4)


@settings(calm, max_examples=300)
@given(header=st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode()), data=st.binary(max_size=8))
def test_any_file_gives_weights_or_words(header: bytes, data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(len(header).to_bytes(8, "little") + header + data)
        file.flush()
        try:
            assert all(size >= 0 for size in model.read_header(file.name).values())
        except model.ModelError as error:
            assert file.name in str(error)
