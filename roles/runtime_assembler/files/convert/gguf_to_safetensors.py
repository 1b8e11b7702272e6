"""Convert one GGUF checkpoint to a Hugging Face directory: bf16 safetensors and the tokenizer.

Usage: gguf_to_safetensors.py CHECKPOINT.gguf OUTPUT_DIRECTORY

A model that transformers loaded from GGUF refuses save_pretrained() (it still counts as quantized), so the weights are
copied into a fresh model made from the same file's configuration. Tied weights (input and output embedding) stay tied
and are stored once.
"""

from __future__ import annotations

import sys
from pathlib import Path


def convert(checkpoint: Path, output: Path) -> None:
    """Write config.json, model.safetensors (bf16) and the tokenizer of ``checkpoint`` into ``output``.

    Raises ValueError when the checkpoint carries no chat template (the chat API could not serve it).
    """
    # Here, not above: bad arguments are answered at once, and a missing package in one line.
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    directory, name = str(checkpoint.parent), checkpoint.name
    print("convert: reading the tokenizer", flush=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=name)
    if not tokenizer.chat_template:
        raise ValueError(f"{name} has no chat template")
    print("convert: dequantizing the weights", flush=True)
    loaded = AutoModelForCausalLM.from_pretrained(directory, gguf_file=name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(directory, gguf_file=name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.tie_weights()
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    model.generation_config = loaded.generation_config
    print("convert: writing safetensors", flush=True)
    model.save_pretrained(output, safe_serialization=True)
    tokenizer.save_pretrained(output)


def main(arguments: list[str]) -> int:
    """Return 0, or 1 after one line on stderr."""
    if len(arguments) != 2:
        print("usage: gguf_to_safetensors.py CHECKPOINT.gguf OUTPUT_DIRECTORY", file=sys.stderr)
        return 2
    try:
        convert(Path(arguments[0]), Path(arguments[1]))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        print(f"convert: cannot convert {arguments[0]}: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
