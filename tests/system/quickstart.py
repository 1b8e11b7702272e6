#!/usr/bin/env python3
"""Type the quick start and the production setup on this machine, as a new user would, and write docs/quickstart.md.

In a clean clone and a home directory of its own: `pipx install .`, then every command below as it stands, in a real
guest with a real model on this machine's CPUs. Ends with failure when a command does not end as it should or the model
does not answer as it must. Needs root, port 8000 and 2222, and a machine on which no runtime is configured; with warm
caches and two emulated CPUs that nobody else uses it takes about twenty minutes.

    tests/system/quickstart.py              # types everything, writes the transcript
    tests/system/quickstart.py --check      # only compares the commands in the transcript with those below
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs/quickstart.md"
NAME = "smollm2"
ELSEWHERE = re.compile("WARNING: Location|molecule-")  # pip about its cache; images of this project's own tests
SHOWN = 24  # lines of one command's output, half of them from its beginning
WIDTH = 160
MAX_TOKENS = "32"  # of an answer whose length does not matter: emulated CPUs need a second and more for each

MANIFEST = """\
apiVersion: vllmd.com/v1alpha1
kind: Runtime
metadata:
  name: r1-qwen32b-int8
spec:
  model:
    name: r1-qwen32b-int8
    source: huggingface
    repository: vllmd/deepseek-r1-distill-qwen-32b-w8a8-dynamic
  resources:
    accelerator_memory: 48Gi
    accelerator_count: 1
    accelerator_type: nvidia-a40
  scaling:
    minReplicas: 1
    maxReplicas: 3
"""


@dataclass(frozen=True)
class Step:
    """One command: what is told before it, how it must end, and what its output must hold."""

    command: str
    before: str = ""
    status: int = 0
    said: str = ""


STEPS = [
    Step("pipx install .", "# Install\n\nIn a checkout, here a fresh clone:"),
    Step("vllmdctl initialize environment", "# Quick Start\n\nInitialize your environment:"),
    Step(
        f"cat > runtime.yaml <<'EOF'\n{MANIFEST}EOF",
        "Create a `runtime.yaml`:",
    ),
    Step(
        "vllmdctl apply runtime.yaml",
        "Deploy your first model. This machine has no accelerator, so it says why not, and what would do. Nothing was "
        "built or written:",
        1,
        "r1-qwen32b-int8 does not fit: no host has accelerators to give; nearest: localhost lacks 1 accelerator",
    ),
    Step(
        "cp platform/inventories/local/runtime.yaml runtime.yaml",
        "The embedded model runs without one (`platform` is the clone):",
    ),
    Step("vllmdctl apply runtime.yaml", said="running"),
    Step(
        'vllmdctl infer "Explain why PI is so awesome."', "Access model through the API. The embedded model is small:"
    ),
    Step('vllmdctl infer "What is the capital of France?"', said="The capital of France is Paris."),
    Step(
        "vllmdctl runtimes precheck",
        "# Production Setup\n\nVerify hardware compatibility and IOMMU configuration. Without an accelerator the "
        "policy asks for no IOMMU:",
        said="report:",
    ),
    Step(
        """vllmdctl runtimes precheck -e '{"precheck_policy": {"passthrough": "required"}}'""",
        "To pass accelerators through it is not ready, and exit status 2 says so:",
        2,
        "iommu-enabled",
    ),
    Step(
        "vllmdctl runtimes configure --cpu split --memory split --accelerators split",
        "Configure the runtimes to split available cpus, memory, and accelerators. The only runtime gets all that the "
        "host can spare:",
        said="its host is divided again",
    ),
    Step("vllmdctl runtimes generate", "Generate optimized runtime image. Nothing changed since it was built:"),
    Step(
        f"vllmdctl runtimes start {NAME}",
        "Launch runtime by identity. This allocates resources to the runtime; it ran with less, so it is started anew:",
        said="running",
    ),
    Step("vllmdctl runtimes list", "# Around them", said="running"),
    Step(f"vllmdctl runtimes status {NAME}", said="vm_state"),
    Step(
        "printf 'What is the capital of France?' | vllmdctl infer --max-tokens 8",
        said="The capital of France is Paris.",
    ),
    Step(
        "printf 'What is the capital of France?\\nAnd of Italy?\\n' | vllmdctl infer --chat --max-tokens 8",
        "A conversation, line by line:",
        said="The capital of France is Paris.",
    ),
    Step("vllmdctl apply runtime.yaml", "Applied again, nothing is left to change:", said="running"),
    Step("vllmdctl plan", said="runs"),
    Step(f"vllmdctl runtimes logs {NAME} --lines 3"),
    Step(f"vllmdctl runtimes console {NAME} --lines 3 --no-follow"),
    Step("vllmdctl images list", said="vllmd-cpu"),
    Step("vllmdctl images verify vllmd-cpu", said="as its manifest says"),
    Step("vllmdctl images gc --check", said="nothing was removed: this was a check"),
    Step("vllmdctl hosts list", said="hypervisors"),
    Step("vllmdctl doctor", said="serves smollm2-135m-instruct"),
    Step(f"vllmdctl runtimes stop {NAME}", said="stopped"),
    Step("vllmdctl runtimes status", "Exit status 3 says that one does not run:", 3, "stopped"),
    Step(f"vllmdctl runtimes delete {NAME} --yes"),
    Step("vllmdctl runtimes list", said="no runtimes yet"),
]


def main() -> int:
    """Type everything, or check the transcript; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare the commands in the transcript, run none")
    if parser.parse_args().check:
        differences = compare(DOCUMENT.read_text(encoding="utf-8"))
        for line in differences:
            print(line, file=sys.stderr)
        print(f"{len(STEPS)} commands, {len(differences)} differences")
        return 1 if differences else 0
    configured = sorted(path.stem for path in Path("/etc/vllmd/hypervisor").glob("*.env"))
    if os.geteuid() != 0 or configured:
        there = f"there is {', '.join(configured) or 'none'}, and this is {getpass.getuser()}"
        sys.exit(f"needs root and a machine without runtimes; {there}")
    with tempfile.TemporaryDirectory(prefix="vllmd-quickstart-") as directory:
        text = transcript(Path(directory))
    DOCUMENT.write_text(text, encoding="utf-8")
    print(f"{len(STEPS)} commands typed; {DOCUMENT.relative_to(ROOT)} written")
    return 0


def transcript(work: Path) -> str:
    """Type all commands below ``work`` and return the document. Exits when one does not end as it should."""
    home, environment = prepare(work)
    parts = [INTRODUCTION]
    for number, step in enumerate(STEPS, 1):
        print(f"[{number}/{len(STEPS)}] {step.command.splitlines()[0]}", flush=True)
        where = home / "platform" if step.command.startswith("pipx") else home
        started = time.monotonic()
        done = subprocess.run(
            ["bash", "-c", step.command], cwd=where, env=environment, check=False, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seconds = time.monotonic() - started
        if done.returncode != step.status or step.said not in done.stdout:
            print(done.stdout)
            sys.exit(
                f"{step.command!r} ended with {done.returncode} after {seconds:.0f} s, expected {step.status}"
                f"{f' and {step.said!r}' if step.said else ''}"
            )
        if "Traceback" in done.stdout:
            sys.exit(f"{step.command!r} ended with a traceback:\n{done.stdout}")
        parts.append(render(step, normalise(done.stdout, home), seconds))
    text = "\n".join(parts)
    if str(work) in text or re.search(rf"\b{re.escape(socket.gethostname())}\b", text):
        sys.exit("the transcript would tell this machine's name or a path of it; see normalise()")
    return text


def prepare(work: Path) -> tuple[Path, dict[str, str]]:
    """Make the home directory, the clone in it and pipx; return the home directory and a new user's environment."""
    home = work / "home"
    home.mkdir()
    print("[0] a clean clone, and pipx", flush=True)
    quiet(["git", "clone", "--quiet", str(ROOT), str(home / "platform")])
    quiet([sys.executable, "-m", "venv", str(work / "pipx")])
    quiet([str(work / "pipx/bin/pip"), "install", "--quiet", "--disable-pip-version-check", "pipx"])
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("XDG_", "VLLMD_", "ANSIBLE_", "PYTHON"))
    }
    path = [
        f"{home}/.local/bin",
        f"{work}/pipx/bin",
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ]
    return home, kept | {
        "HOME": str(home),
        "PATH": ":".join(path),
        "TERM": "dumb",
        "VLLMD_MAX_TOKENS": MAX_TOKENS,
    }


def quiet(command: list[str]) -> None:
    """Run a command that says nothing when it succeeds; exit with its own words when it does not."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)} failed: {done.stderr.strip()}")


def normalise(output: str, home: Path) -> str:
    """Return the output without what is this machine's own, without signs of life, and no longer than SHOWN lines."""
    text = output.replace(str(home), "~").replace(os.uname().release, "linux")
    text = re.sub(rf"\b{re.escape(socket.gethostname())}\b", "host", text)
    text = re.sub(r"https?://(?!127\.0\.0\.1|localhost)[^\s/]+", "https://example.com", text)
    lines = [line.rstrip() for line in text.splitlines()]
    lines = [f"{line[: WIDTH - 3]}..." if len(line) > WIDTH else line for line in lines]
    lines = [line for line in lines if not re.match(r" +\d+(m\d\d)?s  ", line) and not ELSEWHERE.search(line)]
    if len(lines) > SHOWN:
        half = SHOWN // 2
        lines = [*lines[:half], f"[... {len(lines) - 2 * half} lines ...]", *lines[-half:]]
    return "\n".join(lines)


def render(step: Step, output: str, seconds: float) -> str:
    """Return one command as the document has it."""
    minutes, rest = divmod(round(seconds), 60)
    took = f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
    shown = "\n".join([f"$ {step.command.replace(chr(10), chr(10) + '> ')}", *([output] if output else [])])
    before = (
        f"{step.before.replace('# ', '## ', 1) if step.before.startswith('# ') else step.before}\n\n"
        if step.before
        else ""
    )
    return f"{before}```console\n{shown}\n```\n\nExit status {step.status}, {took}.\n"


def compare(document: str) -> list[str]:
    """Return how the commands in the document differ from STEPS."""
    wanted = [step.command for step in STEPS]
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", document, re.MULTILINE | re.DOTALL):
        first, *rest = block.splitlines()
        more = []
        for line in rest:
            if not line.startswith("> "):
                break
            more.append(line[2:])
        found.append("\n".join([first.removeprefix("$ "), *more]))
    differences = [f"not in the transcript: {each}" for each in wanted if each not in found]
    differences += [f"in the transcript only: {each}" for each in found if each not in wanted]
    if not differences and found != wanted:
        differences.append("the order of the commands differs")
    return differences


INTRODUCTION = f"""\
# Quick start, typed

Made by `tests/system/quickstart.py`, which types these commands in a clean clone and a new home directory and keeps
what they say; a unit test compares the commands. The machine has two CPUs and 24 GiB, no accelerator, no KVM and no
systemd: every instruction of the guest is emulated, and other work went on on both CPUs. Caches and the guest image
were there already; [README](../README.md#two-commands) tells what they take from nothing. Long outputs are shortened,
answers are cut after {MAX_TOKENS} tokens (`VLLMD_MAX_TOKENS={MAX_TOKENS}`).
"""

if __name__ == "__main__":
    sys.exit(main())
