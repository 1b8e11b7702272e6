"""Whether driver, torch and GPUs fit: the table, the sentences, and the image's field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from .conftest import ELEMENTS, load

SCRIPT = ELEMENTS / "vllmd-nvidia/lib/vllmd_cuda.py"
CUDA_LOCK = ELEMENTS / "vllmd-vllm/requirements/cuda.txt"
CPU_LOCK = ELEMENTS / "vllmd-vllm/requirements/cpu.txt"
DEBIAN = "550.163.01-2"
#: torch 2.10.0 of the package index.
TORCH_CODE = ["sm_70", "sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


@pytest.fixture(scope="module")
def cuda() -> ModuleType:
    return load(SCRIPT)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_the_table_is_in_order_and_names_its_sources(cuda: ModuleType) -> None:
    table = cuda.table()
    assert len(table["sources"]) == 4
    drivers = [cuda.numbers(first) for first in table["toolkit_driver"].values()]
    assert drivers == sorted(drivers), "a newer toolkit came with a newer driver"
    for major, oldest in table["oldest_driver"].items():
        first = table["toolkit_driver"].get(f"{major}.0")
        assert first in (None, oldest), "a major release begins with its oldest driver"
    for name, family in table["families"].items():
        assert cuda.numbers(family["driver"]), name
        assert set(family["firmware"]) <= {"gsp_tu10x.bin", "gsp_ga10x.bin"}, name


@pytest.mark.parametrize(
    ("driver", "torch"),
    [("525.60.13", "12.9"), (DEBIAN, "12.8"), ("580.65.06", "13.0"), ("580.65.06", "12.8"), ("590.44.01", "13.4")],
)
def test_a_driver_runs_every_minor_release_of_its_major_and_older_ones(
    cuda: ModuleType, driver: str, torch: str
) -> None:
    cuda.check_cuda(driver, torch)


@pytest.mark.parametrize(
    ("driver", "torch", "said"),
    [
        (DEBIAN, "13.0", "CUDA 13 needs driver 580.65.06 or newer"),
        ("525.60.12", "12.0", "CUDA 12 needs driver 525.60.13 or newer"),
        (DEBIAN, "99.0", "CUDA 99.0 is not in cuda_compatibility.json, which knows 11, 12, 13"),
        ("open", "12.8", "'open' is no version"),
    ],
)
def test_what_does_not_fit_is_one_sentence(cuda: ModuleType, driver: str, torch: str, said: str) -> None:
    with pytest.raises(cuda.CudaError) as caught:
        cuda.check_cuda(driver, torch)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_versions_are_numbers(cuda: ModuleType) -> None:
    assert cuda.numbers("550.54.14") < cuda.numbers(DEBIAN) < cuda.numbers("1:560.28.03-1")
    assert cuda.newest_cuda(DEBIAN) == "12.4"
    assert cuda.newest_cuda("580.95.05") == "13.0"


def test_the_locks_cuda(cuda: ModuleType) -> None:
    assert cuda.cuda_of_lock(CUDA_LOCK.read_text()) == "12.8"
    assert cuda.cuda_of_lock("nvidia-cuda-runtime==13.0.96 \\\n") == "13.0"
    with pytest.raises(cuda.CudaError, match="no CUDA build"):
        cuda.cuda_of_lock(CPU_LOCK.read_text())


def test_our_own_profile_fits_debians_driver() -> None:
    done = run("check", "--driver", DEBIAN, "--lock", str(CUDA_LOCK), "--families", "ampere ada hopper")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_families_limit_driver_and_torch(cuda: ModuleType) -> None:
    cuda.check_families(DEBIAN, ["turing", "hopper"])
    with pytest.raises(cuda.CudaError, match="does not know blackwell GPUs, which need"):
        cuda.check_families(DEBIAN, ["hopper", "blackwell"])
    cuda.check_code(TORCH_CODE, ["turing", "ampere", "ada", "hopper", "blackwell"])
    with pytest.raises(cuda.CudaError, match=r"no code for ada GPUs \(compute capability 8.9\)"):
        cuda.check_code(["sm_90", "compute_80"], ["ada"])


def test_firmware_is_that_of_the_families(cuda: ModuleType) -> None:
    assert cuda.firmware(["ada", "hopper"]) == ["gsp_ga10x.bin"]
    assert cuda.firmware(["ampere"]) == ["gsp_ga10x.bin", "gsp_tu10x.bin"], "A100 loads another file than A10"


def test_the_command_says_the_images_field() -> None:
    done = run("facts", "--driver", "550.163.01", "--cuda", "12.8", "--families", "hopper ampere")
    assert json.loads(done.stdout) == {
        "cuda_max": "12.4",
        "driver": "550.163.01",
        "families": ["ampere", "hopper"],
        "kernel_module": "open",
        "torch_cuda": "12.8",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["firmware", "--families", "hopper pascal"], "known are turing, ampere, ada, hopper, blackwell"),
        (["firmware", "--families", ""], "does not name GPU families"),
        (["check", "--driver", DEBIAN, "--lock", "/nonexistent", "--families", "ada"], "cannot read the lock"),
        (["check", "--driver", DEBIAN, "--cuda", "13.0", "--families", "ada"], "cannot run torch's CUDA 13.0"),
    ],
)
def test_the_command_fails_with_one_line(arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("vllmd-nvidia: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_table_lies_beside_the_script() -> None:
    assert Path(SCRIPT.with_name("cuda_compatibility.json")).is_file()
