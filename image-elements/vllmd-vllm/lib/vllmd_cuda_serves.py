"""Import what a CUDA engine imports when it serves, and make a launcher with the image's compiler; needs no GPU.

Fails the build when a wheel that was left out of the lock, or a file that was taken out of a wheel, is missed.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path

MODULES = [
    "vllm.entrypoints.openai.api_server",
    "vllm.engine.arg_utils",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core",
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.v1.attention.backends.flash_attn",
    "vllm.v1.attention.backends.triton_attn",
    "vllm.v1.sample.sampler",
    "vllm.distributed.device_communicators.pynccl",
    "vllm.model_executor.layers.fused_moe.fused_moe",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.mixtral",
    "vllm.model_executor.models.qwen2",
    "vllm.model_executor.models.qwen2_vl",
    "vllm.model_executor.models.qwen3",
    "vllm.model_executor.models.deepseek_v2",
    "vllm.model_executor.models.gpt_oss",
    "vllm._C",
    "vllm._moe_C",
    "vllm.vllm_flash_attn._vllm_fa2_C",
    "vllm.vllm_flash_attn._vllm_fa3_C",
    "torch._inductor.compile_fx",
    "xgrammar",
]


def launcher() -> None:
    """Compile and load Triton's module for the driver and one launcher, both with CC as the engine's unit sets it."""
    from triton.backends.nvidia import driver  # noqa: PLC0415 - after CC and the cache are set
    from triton.runtime import build  # noqa: PLC0415

    source = Path(driver.dirname, "driver.c").read_text(encoding="utf-8")
    utilities = build.compile_module_from_src(
        src=source,
        name="cuda_utils",
        library_dirs=driver.library_dirs(),
        include_dirs=driver.include_dirs,
        libraries=driver.libraries,
    )
    try:
        utilities.get_device_properties(0)
    except RuntimeError as error:
        # Without a GPU the driver's library answers, and says so: the call came through.
        print(f"vllmd-vllm: Triton's module for the driver: {error}")
    signature = {0: "*fp16", 1: "*fp32", 2: "i32", 3: "fp32", 4: "i64"}
    made = build.compile_module_from_src(
        src=driver.make_launcher({}, signature, None),
        name="__triton_launcher",
        library_dirs=driver.library_dirs(),
        include_dirs=driver.include_dirs,
        libraries=driver.libraries,
    )
    if not callable(made.launch):
        raise TypeError("Triton's launcher has no function launch")


def main() -> int:
    """Import and compile; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ.update(CC="/usr/lib/vllmd/cc", TRITON_HOME=directory, VLLM_NO_USAGE_STATS="1", HOME=directory)
        failed = []
        for name in MODULES:
            try:
                importlib.import_module(name)
            except Exception as error:
                failed.append(f"{name} ({type(error).__name__}: {error})")
        if failed:
            print(f"vllmd-vllm: the engine cannot import {'; '.join(failed)}", file=sys.stderr)
            return 1
        launcher()
    print(f"vllmd-vllm: {len(MODULES)} modules imported, a launcher compiled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
