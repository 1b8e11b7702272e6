"""Become the engine: choose what fits this machine, say so on the console, hand over to vLLM in this process."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import os
import runpy
import socket
import sys
import threading
import time
from collections.abc import Callable

SERVER = "vllm.entrypoints.openai.api_server"
CONFIG = "/run/vllmd/engine.yaml"
RUN = "/run/vllm"
# Trying again changes nothing: vllm.service does not restart on it (sysexits.h, EX_CONFIG).
REFUSED = 78
ROUTES = "/proc/net/route"
ROUTE_TIMEOUT_SECONDS = 60.0
# How long the engine may not answer itself. Shorter than what the host waits for an answer, so that this acts first.
WATCHDOG_SECONDS = 90
ASK_SECONDS = 10.0
# What is asked every few seconds, here, by the host and by monitoring.
ASKED_OFTEN = ("/health", "/metrics")


def has_default_route(table: str) -> bool:
    """Return whether ``table`` (the format of /proc/net/route) has an IPv4 default route."""
    return any(line.split()[1:2] == ["00000000"] for line in table.splitlines())


def wait_for_route(timeout: float) -> bool:
    """Wait until an IPv4 default route exists; False after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with open(ROUTES, encoding="ascii") as stream:  # noqa: PTH123 -- pathlib only to read one file
            if has_default_route(stream.read()):
                return True
        time.sleep(0.2)
    return False


def keep_forking() -> None:
    """Let vLLM's CPU platform fork its engine process instead of spawning it.

    A spawned process imports torch and vLLM all over again (measured on a 2-core machine: 15 s until healthy, forked
    11 s; under emulation ten times that). vLLM insists on spawning because it sets the OpenMP environment for each
    worker; here there is one worker, and its environment is set before the first import.
    """
    from vllm.platforms.cpu import CpuPlatform  # noqa: PLC0415 -- this import is the expensive part

    check = CpuPlatform.check_and_update_config.__func__

    def check_and_fork(cls: type, config: object) -> None:
        check(cls, config)
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    CpuPlatform.check_and_update_config = classmethod(check_and_fork)


def preload() -> None:
    """Import the server with the garbage collector off, and keep what is there out of its sight for good.

    The collector looks in vain at objects that live as long as the process: a fifth of the import's processor time.
    """
    gc.disable()
    importlib.import_module(SERVER)
    gc.freeze()
    gc.enable()


def tell_systemd(message: str) -> None:
    """Send a message such as ``WATCHDOG=1`` to $NOTIFY_SOCKET (sd_notify(3)); nothing where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(message.encode(), address)
    except OSError as error:
        print(f"vllmd: systemd cannot be told {message}: {error.strerror}", flush=True)


def watch(port: int, answers: Callable[[int], bool]) -> None:
    """Feed systemd's watchdog as long as the engine answers /health to itself; never returns.

    The watchdog is asked for with the first good answer: loading a model may hold the interpreter's lock for minutes,
    and how long it takes is the host's to bound. ``answers`` asks the port.
    """
    while not answers(port):
        time.sleep(ASK_SECONDS)
    tell_systemd(f"WATCHDOG_USEC={WATCHDOG_SECONDS * 1_000_000}")
    while True:
        if answers(port):
            tell_systemd("WATCHDOG=1")
        time.sleep(ASK_SECONDS)


def is_news(record: logging.LogRecord) -> bool:
    """Return whether a line of uvicorn's access log is more than a good answer to who asks every few seconds.

    Its arguments are client, method, path, HTTP version and status (uvicorn/protocols/http).
    """
    asked = record.args
    return not (isinstance(asked, tuple) and len(asked) == 5 and asked[2] in ASKED_OFTEN and asked[4] == 200)


def start_watching() -> None:
    """Run watch() beside the engine, and keep its questions out of the console."""
    import healthy  # noqa: PLC0415 -- beside this file; tests load it without

    # vLLM's own option for this is not in every version. A filter outlives uvicorn's configuration of its loggers.
    logging.getLogger("uvicorn.access").addFilter(is_news)
    with open(CONFIG, encoding="utf-8") as stream:  # noqa: PTH123 -- pathlib only to read one file
        port = json.load(stream)["port"]
    threading.Thread(target=watch, args=(port, healthy.healthy), name="watch", daemon=True).start()


def choose() -> str:
    """Choose the options for this hardware and model; return the path of the file with all of them.

    Ends this process with one line on the console when the model cannot be served here.
    """
    from vllmd_node import decide, start  # noqa: PLC0415 -- beside this file; tests load it without them

    with open(CONFIG, encoding="utf-8") as stream:  # noqa: PTH123 -- pathlib only to read one file
        given = json.load(stream)
    try:
        decision, node = start.plan(given, os.environ)
    except decide.Refusal as refusal:
        print(f"vllmd: FAILED: {refusal}", flush=True)
        sys.exit(REFUSED)
    os.environ.update(decision.environment)
    print(f"vllmd: profile={decision.profile}{''.join(f'; {reason}' for reason in decision.reasons)}", flush=True)
    return start.write(RUN, decision, node)


def main() -> None:
    """Run vLLM's API server with the options that configure.py wrote and those chosen here."""
    if os.environ.get("VLLMD_MODEL_SOURCE") != "local" and not wait_for_route(ROUTE_TIMEOUT_SECONDS):
        seconds = f"{ROUTE_TIMEOUT_SECONDS:.0f}"
        print(f"vllmd: FAILED: no network route after {seconds} s; the model comes from the network", flush=True)
        sys.exit(1)
    print("vllmd: engine started", flush=True)
    # What this imports vLLM imports as well, so it costs little more than its own work.
    sys.argv = ["vllm", "--config", choose()]
    if "OMP_NUM_THREADS" not in os.environ:
        # Without it vLLM serves on one thread when its worker is not a process of its own.
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))
    preload()
    if os.environ.get("VLLMD_ENGINE_FORK") == "1":
        keep_forking()
    start_watching()
    # The console script of the CPU build looks up a distribution of another name; the module works for all builds.
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
