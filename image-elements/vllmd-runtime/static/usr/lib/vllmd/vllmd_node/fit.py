"""Whether a model fits an accelerator, in bytes, and what context length does.

    weights / GPUs  +  layers x 2 x KV heads per GPU x head size x bytes x tokens  +  activations  +  overhead
                                                          <=  gpu-memory-utilization x memory of one GPU

What is refused is only what is certain: weights, activations and the cache of one sequence. What is chosen leaves room
for the overhead too. The cache's layout is vLLM's (v1/kv_cache_interface.py), its activations are an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

from vllmd_node import gib
from vllmd_node.model import DTYPE_BYTES, Model

#: Share of the cache's room that a length chosen here may fill: the estimate of the rest is not exact.
CAREFUL = 0.9
_BLOCK_TOKENS = 16
_MOST_GPUS = 64


@dataclass(frozen=True)
class Split:
    """How a model is spread: over ``tensor`` GPUs within each layer, over ``pipeline`` groups of layers."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def gpus(self) -> int:
        """How many GPUs hold one copy of the model."""
        return self.tensor * self.pipeline


@dataclass(frozen=True)
class Load:
    """What one accelerator has to hold, in bytes. ``per_token`` grows with the text, ``fixed_cache`` does not."""

    weights: int
    activations: int
    overhead: int
    per_token: int
    window_per_token: int
    window: int

    def cache(self, tokens: int) -> int:
        """Keys and values of one sequence of ``tokens``, in whole blocks."""
        blocks = -(-tokens // _BLOCK_TOKENS) * _BLOCK_TOKENS
        return self.per_token * blocks + self.window_per_token * min(blocks, self.window)

    def certain(self, tokens: int) -> int:
        """What is needed in any case for one sequence of ``tokens``."""
        return self.weights + self.activations + self.cache(tokens)

    def longest(self, room: int) -> int:
        """Return the longest sequence whose cache fits in ``room`` bytes (2^40 where nothing grows)."""
        low, high = 0, 2**40
        while low < high:
            middle = (low + high + 1) // 2
            if self.cache(middle) <= room:
                low = middle
            else:
                high = middle - 1
        return low


def load_of(
    model: Model, split: Split, dtype: str, cache_dtype: str = "auto", step: tuple[int, int] = (2048, 256)
) -> Load:
    """Return what one GPU of ``split`` holds, overhead left out.

    ``step`` is how many tokens one step computes, and of how many sequences it chooses the next token.
    """
    batch, sequences = step
    tensor, pipeline = split.tensor, split.pipeline
    kv_bytes = cache_bytes(dtype, cache_dtype)
    # Latent entries are whole on every GPU; heads are split, and repeated where there are fewer heads than GPUs.
    per_layer = (
        model.latent * kv_bytes if model.latent else 2 * -(-model.kv_heads // tensor) * model.head_dim * kv_bytes
    )
    width = 2 * model.hidden + 2 * -(-model.intermediate // tensor)
    return Load(
        weights=model.bytes_as(dtype) // split.gpus,
        activations=batch * width * DTYPE_BYTES.get(dtype, 2) + sequences * model.vocabulary * 4,
        overhead=0,
        per_token=per_layer * -(-model.layers // pipeline),
        window_per_token=per_layer * -(-model.window_layers // pipeline),
        window=model.window + batch,
    )


def cache_bytes(dtype: str, cache_dtype: str) -> int:
    """Return the bytes of one number in the cache: vLLM's kv-cache-dtype, or the model's own for ``auto``."""
    if cache_dtype.startswith(("fp8", "int8")):
        return 1
    if cache_dtype.startswith("nvfp4"):
        return 1
    return 2 if cache_dtype in ("bfloat16", "float16") else DTYPE_BYTES.get(dtype, 2)


def divides(model: Model, tensor: int) -> bool:
    """Whether the model's attention heads can be split over ``tensor`` GPUs."""
    kv = model.kv_heads
    whole_kv = not kv or kv % tensor == 0 or tensor % kv == 0
    return (not model.heads or model.heads % tensor == 0) and whole_kv and model.intermediate % tensor == 0


def tensor_sizes(model: Model, limit: int = _MOST_GPUS) -> list[int]:
    """Return the tensor parallel sizes up to ``limit`` that the model can be split in."""
    return [size for size in range(1, limit + 1) if divides(model, size)]


def chosen_length(load: Load, budget: int, smallest: int) -> int:
    """Return the context length that ``budget`` bytes of one GPU have room for; 0 when not even ``smallest`` fits."""
    room = budget - load.weights - load.activations - load.overhead
    careful = load.longest(int(room * CAREFUL)) if room > 0 else 0
    if careful < smallest:
        return smallest if load.certain(smallest) <= budget else 0
    step = 256 if careful >= 1024 else _BLOCK_TOKENS
    return careful // step * step


def sum_text(load: Load, tokens: int) -> str:
    """Return the sum in words: ``weights 15.0 GiB + activations 0.4 GiB + cache of 512 tokens ... = 15.4 GiB``."""
    parts = [
        f"weights {gib(load.weights)}",
        f"activations {gib(load.activations)}",
        f"key-value cache of {tokens} tokens {gib(load.cache(tokens))}",
    ]
    return f"{' + '.join(parts)} = {gib(load.certain(tokens))}"
