"""Fill vLLM's model information cache for the models in the image.

vLLM learns what a model class can do (text generation, pooling, multimodal...) by importing it in a second Python
process and keeps the answer in a cache. Under software emulation that process costs as much as the server itself takes
to import, so it runs here instead.

Usage: vllmd_warm.py MODELS_DIRECTORY (with VLLM_CACHE_ROOT set)
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def architectures(models: Path) -> set[str]:
    """Return the architectures that the models below ``models`` name in their config.json."""
    found: set[str] = set()
    for config in models.glob("*/config.json"):
        found.update(json.loads(config.read_text(encoding="utf-8")).get("architectures", []))
    return found


def warm(names: set[str]) -> None:
    """Make vLLM look at each of the architectures that it knows."""
    from vllm.model_executor.models.registry import ModelRegistry  # noqa: PLC0415 -- only where vLLM is installed

    for name in sorted(names):
        registered = ModelRegistry.models.get(name)
        if registered is None:
            print(f"vllmd-runtime: vLLM has no {name}; the engine will refuse that model unless a plug-in brings it")
            continue
        registered.inspect_model_cls()
        print(f"vllmd-runtime: looked at {name}")


if __name__ == "__main__":
    warm(architectures(Path(sys.argv[1])))
