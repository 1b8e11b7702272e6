"""The examples of Runtimes on Kubernetes: their settings, what they become, and the part of it that the docs show.

``PYTHONPATH=collection python tests/support/kubernetes_examples.py`` writes the expected files and the page again after
a change that is meant; the tests compare them with what comes out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.render import files
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes_manifests.settings import settings
from ansible_collections.vllmd.platform.plugins.module_utils.manifests import load_runtimes

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests/unit/data/kubernetes"
PAGE = ROOT / "docs/kubernetes.md"
NAMES = ("llama70b", "qwen32b", "smollm2")
DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGES = {name: f"registry.example.com/{name}@{DIGEST}" for name in ("vllmd-cpu", "vllmd-cuda")}
PINNED = {"vllm-rocm:7b1f0c9d2e44": f"registry.example.com:5000/vllm-rocm:7b1f0c9d2e44@{DIGEST}"}
#: Module options of each example.
SETTINGS: dict[str, dict[str, Any]] = {
    "smollm2": {"images": IMAGES, "service_monitor": False, "client_namespaces": ["gateway"]},
    "qwen32b": {
        "images": IMAGES,
        "secrets": [{"variable": "HF_TOKEN", "secret": "huggingface", "key": "token", "runtimes": ["qwen32b"]}],
        "service_monitor_labels": {"release": "prometheus"},
    },
    "llama70b": {
        "images": PINNED,
        "namespace": "inference",
        "scaling_metric": "queue",
        "runtime_class": "amd",
        "image_pull_secrets": ["registry"],
    },
}
_BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n```yaml\n).*?(```\n)", re.DOTALL)


def rendered(name: str) -> dict[str, str]:
    """Return the files, name to text, that the example becomes."""
    text = (DATA / f"{name}.yaml").read_text(encoding="utf-8")
    return files(load_runtimes(text, f"{name}.yaml"), settings(SETTINGS[name]))


def page(text: str) -> str:
    """Return the page with every generated block made again: an example's manifest, or what it becomes."""

    def block(match: re.Match[str]) -> str:
        kind, _slash, name = match[2].partition("/")
        source = (DATA / f"{name}.yaml").read_text(encoding="utf-8")
        content = source if kind == "runtime" else rendered(name)[f"{name}.yaml"]
        return match[1] + content + match[3]

    return _BLOCK.sub(block, text)


def main() -> None:
    """Write what the tests expect."""
    for name in NAMES:
        directory = DATA / name
        directory.mkdir(exist_ok=True)
        for file, text in rendered(name).items():
            (directory / file).write_text(text, encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
