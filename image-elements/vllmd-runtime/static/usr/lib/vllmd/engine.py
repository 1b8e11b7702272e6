"""Become the engine: wait for what it needs, say so on the console, hand over to vLLM in this process."""

from __future__ import annotations

import os
import runpy
import sys
import time

CONFIG = "/run/vllmd/engine.yaml"
ROUTE_TIMEOUT_SECONDS = 60.0


def wait_for_route(timeout: float, table: str = "/proc/net/route") -> bool:
    """Wait until an IPv4 default route exists; False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with open(table, encoding="ascii") as stream:
            if any(line.split()[1:2] == ["00000000"] for line in stream):
                return True
        time.sleep(0.2)
    return False


def keep_forking() -> None:
    """Let vLLM's CPU platform fork its engine process instead of spawning it.

    Spawning imports torch and vLLM all over again (33 s become 11 s until healthy on a 2-core machine). vLLM insists on it because it sets
    the OpenMP environment per worker; here it is set before the first import, and there is one worker.
    """
    from vllm.platforms.cpu import CpuPlatform

    check = CpuPlatform.check_and_update_config.__func__

    def check_and_fork(cls: type, config: object) -> None:
        check(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(check_and_fork)


def main() -> None:
    """Run vLLM's API server with the options that vllmd-configure wrote."""
    if os.environ.get("VLLMD_MODEL_SOURCE") != "local" and not wait_for_route(ROUTE_TIMEOUT_SECONDS):
        print("vllmd: FAILED: no network route after 60 s; the model comes from the network", flush=True)
        sys.exit(1)
    print("vllmd: engine started", flush=True)
    sys.argv = ["vllm", "--config", CONFIG]
    if os.environ.get("VLLMD_ENGINE_FORK") == "1":
        keep_forking()
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
