"""Import what a CUDA engine imports when it serves, compile a kernel and a launcher as Triton does; needs no GPU.

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


def kernel() -> None:
    """Compile a kernel for an H100, from Python through LLVM and ptxas to what the GPU would load."""
    import triton  # noqa: PLC0415
    import triton.language as tl  # noqa: PLC0415
    from triton.backends.compiler import GPUTarget  # noqa: PLC0415
    from triton.compiler import ASTSource  # noqa: PLC0415

    globals()["tl"] = tl  # a kernel sees its module's names

    @triton.jit
    def add(x, y, n, BLOCK: tl.constexpr):
        offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        mask = offsets < n
        tl.store(y + offsets, tl.load(x + offsets, mask=mask) + 1.0, mask=mask)

    signature = {"x": "*fp32", "y": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    source = ASTSource(fn=add, signature=signature, constexprs={"BLOCK": 128})
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    if not made.asm["cubin"].startswith(b"\x7fELF"):
        raise TypeError("Triton made no code for the GPU")


def pretend_cuda() -> None:
    """Tell vLLM that this is a machine with an H100, which it would ask a GPU that no builder has."""
    from vllm import platforms  # noqa: PLC0415 - importing it is what is tried here
    from vllm.platforms import cuda, interface  # noqa: PLC0415

    class Pretended(cuda.NonNvmlCudaPlatform):
        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> interface.DeviceCapability:  # noqa: ARG003 - vLLM's
            return interface.DeviceCapability(9, 0)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return f"NVIDIA H100 {device_id}"

    platforms._current_platform = Pretended()


def main() -> int:
    """Import and compile; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ.update(CC="/usr/lib/vllmd/cc", TRITON_HOME=directory, VLLM_NO_USAGE_STATS="1", HOME=directory)
        failed = []
        pretend_cuda()
        for name in MODULES:
            try:
                importlib.import_module(name)
            except Exception as error:
                failed.append(f"{name} ({type(error).__name__}: {error})")
        if failed:
            print(f"vllmd-vllm: the engine cannot import {'; '.join(failed)}", file=sys.stderr)
            return 1
        kernel()
        launcher()
    print(f"vllmd-vllm: {len(MODULES)} modules imported, a kernel and its launcher compiled")
    return 0


if __name__ == "__main__":
    sys.exit(main())
