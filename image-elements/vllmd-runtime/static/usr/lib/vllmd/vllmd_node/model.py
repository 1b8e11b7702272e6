"""Read how large a model is and what its attention needs, without loading it.

From a directory in Hugging Face layout: config.json and the headers of the safetensors files (8 bytes of length, then
JSON; https://huggingface.co/docs/safetensors, "Format").
"""
# Read at boot on an emulated CPU, where pathlib costs more than all of this:
# ruff: noqa: PTH113, PTH118, PTH123, PTH202, PTH208

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

CONFIG_LIMIT = 8 * 1024**2
HEADER_LIMIT = 100 * 1000**2  # the format's own
DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
DTYPE_BYTES |= {"F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "U16": 2, "U32": 4, "U64": 8}
_PLAIN_FLOATS = ("F64", "F32", "F16", "BF16")
#: torch's names to safetensors'.
TORCH_DTYPES = {"float32": "F32", "float": "F32", "float16": "F16", "half": "F16", "bfloat16": "BF16"}


class ModelError(ValueError):
    """The model cannot be read; the message is one line."""


@dataclass(frozen=True)
class Model:
    """A model's size and shape; 0 or an empty string where it does not say.

    ``weights`` are bytes by safetensors dtype. ``layers`` are those with a key-value cache that grows with the text;
    ``window_layers`` keep only the last ``window`` tokens. ``latent`` is the width of a token's entry where keys and
    values are compressed into one (multi-head latent attention), else 0.
    """

    architecture: str = ""
    dtype: str = ""
    quantized: bool = False
    weights: tuple[tuple[str, int], ...] = ()
    layers: int = 0
    window_layers: int = 0
    window: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    latent: int = 0
    hidden: int = 0
    intermediate: int = 0
    vocabulary: int = 0
    positions: int = 0

    @property
    def stored_bytes(self) -> int:
        """What the weights take on disk."""
        return sum(size for _dtype, size in self.weights)

    @property
    def parameters(self) -> int:
        """How many numbers the weights are; packed integers count as stored."""
        return sum(size // DTYPE_BYTES[dtype] for dtype, size in self.weights)

    def bytes_as(self, dtype: str) -> int:
        """What the weights take in memory when served in ``dtype``: vLLM converts plain floats, nothing quantised."""
        if self.quantized or dtype not in DTYPE_BYTES:
            return self.stored_bytes
        return sum(
            size // DTYPE_BYTES[stored] * DTYPE_BYTES[dtype] if stored in _PLAIN_FLOATS else size
            for stored, size in self.weights
        )


def read(directory: str) -> Model:
    """Return the model in ``directory``. ModelError when config.json or a weight file is none.

    A directory without safetensors gives a model without weights.
    """
    return from_config(load_config(os.path.join(directory, "config.json")), read_weights(directory))


def load_config(path: str) -> dict[str, Any]:
    """Return config.json as a dict."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(CONFIG_LIMIT + 1)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    return parse_config(text, path)


def parse_config(text: bytes, source: str) -> dict[str, Any]:
    """Return the text of a config.json as a dict; ModelError names ``source`` when it is none."""
    try:
        config = json.loads(text) if len(text) <= CONFIG_LIMIT else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise ModelError(f"{source} is not a JSON object; the model is damaged or not in Hugging Face layout")
    return config


def from_config(config: dict[str, Any], weights: dict[str, int]) -> Model:
    """Return what a config.json says, with the ``weights`` found beside it. Fields it gets wrong count as not said."""
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else ""
    heads, hidden = _positive(text, "num_attention_heads", "n_head"), _positive(text, "hidden_size", "n_embd")
    layers = _positive(text, "num_hidden_layers", "n_layer")
    window, window_layers = _sliding(text, layers)
    latent = _positive(text, "kv_lora_rank")
    kinds = text.get("layer_types")
    growing = layers
    if isinstance(kinds, list) and len(kinds) == layers:
        growing = sum(kind in ("full_attention", "sliding_attention", "chunked_attention") for kind in kinds)
    dtype = text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or config.get("torch_dtype")
    return Model(
        architecture=first if isinstance(first, str) else "",
        dtype=TORCH_DTYPES.get(dtype.removeprefix("torch."), "") if isinstance(dtype, str) else "",
        quantized=any(isinstance(each.get("quantization_config"), dict) for each in (config, text)),
        weights=tuple(sorted(weights.items())),
        layers=growing - window_layers,
        window_layers=window_layers,
        window=window,
        heads=heads,
        kv_heads=_positive(text, "num_key_value_heads", "num_kv_heads") or heads,
        head_dim=_positive(text, "head_dim") or (hidden // heads if heads else 0),
        latent=latent + _positive(text, "qk_rope_head_dim") if latent else 0,
        hidden=hidden,
        intermediate=_positive(text, "intermediate_size", "n_inner") or 4 * hidden,
        vocabulary=_positive(text, "vocab_size"),
        positions=_positions(text),
    )


def read_weights(directory: str) -> dict[str, int]:
    """Return the bytes of all tensors in the directory's safetensors files, by dtype; empty without such files."""
    totals: dict[str, int] = {}
    for name in _weight_files(directory):
        for dtype, size in read_header(os.path.join(directory, name)).items():
            totals[dtype] = totals.get(dtype, 0) + size
    return totals


def read_header(path: str) -> dict[str, int]:
    """Return the bytes of all tensors in one safetensors file, by dtype. ModelError when it is none or cut short."""
    try:
        file_size = os.path.getsize(path)
        with open(path, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length)) if length <= min(HEADER_LIMIT, file_size) else None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ModelError(f"{path} is not a safetensors file; the model is damaged, copy it again")
    totals: dict[str, int] = {}
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        try:
            begin, stop = tensor["data_offsets"]
            dtype = str(tensor["dtype"])
            size = int(stop) - int(begin)
            end = max(end, int(stop))
        except (TypeError, KeyError, ValueError, OverflowError):
            raise ModelError(f"{path} describes a tensor wrongly; the model is damaged, copy it again") from None
        if size < 0:
            raise ModelError(f"{path} describes a tensor wrongly; the model is damaged, copy it again")
        # Dtypes younger than this table are counted as stored.
        key = dtype if dtype in DTYPE_BYTES else "U8"
        totals[key] = totals.get(key, 0) + size
    if 8 + length + end > file_size:
        missing = 8 + length + end - file_size
        raise ModelError(f"{path} is cut short by {missing} bytes; the model is damaged, copy it again")
    return totals


def _weight_files(directory: str) -> list[str]:
    """Name the files that vLLM would load: the index's when there is one (repositories also hold other copies)."""
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(".safetensors"))
    except OSError as error:
        raise ModelError(f"cannot read {directory}: {error.strerror}") from None
    index = os.path.join(directory, "model.safetensors.index.json")
    if not os.path.isfile(index):
        return [name for name in names if name.startswith("model")] or names
    weight_map = load_config(index).get("weight_map")
    wanted = set(weight_map.values()) if isinstance(weight_map, dict) and weight_map else set()
    if not wanted or not all(isinstance(name, str) and "/" not in name for name in wanted):
        raise ModelError(f"{index} names no weight files; the model is damaged, copy it again")
    missing = sorted(wanted.difference(names))
    if missing:
        raise ModelError(f"{directory} lacks {missing[0]}, which its index names; the model is damaged, copy it again")
    return sorted(wanted)


def _sliding(text: dict[str, Any], layers: int) -> tuple[int, int]:
    """Return (window in tokens, how many layers keep no more than that)."""
    window = _positive(text, "sliding_window", "attention_chunk_size")
    kinds = text.get("layer_types")
    if not window or text.get("use_sliding_window") is False:
        return 0, 0
    if isinstance(kinds, list) and len(kinds) == layers:
        return window, sum(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    pattern = _positive(text, "sliding_window_pattern")
    if pattern:  # every pattern-th layer sees everything
        return window, layers - layers // pattern
    # A window without a word on layers is all of them (Mistral 7B v0.1).
    return window, layers


def _positions(text: dict[str, Any]) -> int:
    """Return how many tokens the model can look at, after a YaRN scaling of its rotary embedding."""
    positions = _positive(text, "max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
    scaling = text.get("rope_scaling") or text.get("rope_parameters")
    if isinstance(scaling, dict) and (scaling.get("rope_type") or scaling.get("type")) == "yarn":
        original, factor = _positive(scaling, "original_max_position_embeddings"), scaling.get("factor")
        if original and isinstance(factor, (int, float)) and 1 <= factor < 1e6:
            return max(positions, int(original * factor))
    return positions


def _positive(mapping: dict[str, Any], *names: str) -> int:
    for name in names:
        value = mapping.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**40:
            return value
    return 0
