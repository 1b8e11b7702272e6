"""The driver in the booted guest: what is there, what is gone, and what loading it without a GPU says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

testinfra_hosts = ["ansible://guest"]
#: linux/cuda.h: what cuInit says without a GPU, or without the module loaded.
CUDA_ERROR_NO_DEVICE = 100
STORE = Path("/var/lib/vllmd/images/molecule-nvidia/latest")


@pytest.fixture(scope="module")
def release(host) -> str:
    """The running kernel."""
    return host.check_output("uname --kernel-release")


@pytest.fixture(scope="module")
def packages(host) -> set[str]:
    """The packages that are installed."""
    shown = host.check_output("dpkg-query --show --showformat='${db:Status-Abbrev} ${Package}\\n'")
    return {line.split()[1] for line in shown.splitlines() if line.startswith("ii")}


def test_the_kernel_is_the_images_and_the_only_one(host, release: str) -> None:
    assert json.loads((STORE / "manifest.json").read_text())["kernel_release"] == release
    assert host.check_output("ls /lib/modules").split() == [release]


def test_modules_are_one_set_for_exactly_this_kernel(host, release: str) -> None:
    found = host.check_output("find / -xdev -name 'nvidia*.ko*' -o -xdev -name 'nouveau.ko*'").splitlines()
    updates = f"/usr/lib/modules/{release}/updates/vllmd"
    assert sorted(found) == [f"{updates}/nvidia-uvm.ko", f"{updates}/nvidia.ko"]
    for module in ("nvidia", "nvidia_uvm"):
        assert host.check_output(f"modinfo --field vermagic {module}").split()[0] == release
        assert host.check_output(f"modinfo --field version {module}").startswith("550.")
    assert host.check_output("modinfo --field license nvidia") == "Dual MIT/GPL", "the open modules"
    assert host.check_output("modinfo --field depends nvidia_uvm") == "nvidia"


def test_modules_are_signed_and_the_key_is_not_here(host) -> None:
    assert host.check_output("modinfo --field sig_id nvidia") == "PKCS#7"
    assert host.check_output("modinfo --field sig_hashalgo nvidia_uvm") == "sha256"
    assert host.check_output("tail --bytes=28 $(modinfo --field filename nvidia)") == "~Module signature appended~"
    key = Path("/var/lib/vllmd/molecule-nvidia/key.pem").read_text().splitlines()[1]
    assert host.run(f"grep -rlF '{key}' /etc /usr/lib/modules /usr/lib/vllmd /usr/share /var /root").stdout == ""


def test_loading_finds_the_module_and_no_device(host) -> None:
    """The kernel takes the module (magic and symbols fit), the driver looks for a GPU and says that there is none."""
    # By a unit: nothing that ssh starts may load modules or read the kernel's log.
    unit = "[Service]\\nType=oneshot\\nExecStart=-/usr/sbin/modprobe nvidia\\nExecStart=/usr/bin/dmesg\\n"
    host.check_output(f"printf '{unit}' > /run/systemd/system/load-nvidia.service && systemctl daemon-reload")
    host.check_output("systemctl start load-nvidia.service")
    log = host.check_output("journalctl --sync && journalctl --unit=load-nvidia.service --output=cat")
    assert "No such device" in log
    assert "NVRM: No NVIDIA GPU found" in log
    for trouble in ("version magic", "disagrees about version of symbol", "Unknown symbol", "Invalid module format"):
        assert trouble not in log
    assert host.run("grep --quiet ^nvidia /proc/modules").rc == 1


def test_the_library_answers_that_there_is_no_device(host) -> None:
    said = host.check_output("python3 -c 'import ctypes; print(ctypes.CDLL(\"libcuda.so.1\").cuInit(0))'")
    assert int(said) == CUDA_ERROR_NO_DEVICE
    assert host.run("nvidia-smi").rc != 0


@pytest.mark.parametrize("library", ["libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"])
def test_libraries_are_those_of_the_modules_release(host, library: str) -> None:
    version = host.check_output("modinfo --field version nvidia")
    path = host.check_output(f"ldconfig -p | awk '$1 == \"{library}\" {{ print $NF; exit }}'")
    assert host.check_output(f"readlink --canonicalize {path}").endswith(f".so.{version}")


def test_what_built_the_modules_is_gone(host, packages: set[str]) -> None:
    left = {
        name
        for name in packages
        if name.startswith(("linux-headers", "linux-kbuild", "linux-compiler", "gcc-14", "cpp", "g++"))
        and name != "gcc-14-base"  # a directory of documentation that libgcc needs
    }
    assert not left
    assert not packages & {
        "dkms",
        "make",
        "gcc",
        "build-essential",
        "nvidia-open-kernel-dkms",
        "nvidia-kernel-dkms",
        "binutils",
        "perl",
    }
    assert host.run("ls /usr/src").stdout == ""
    for path in (
        "/var/lib/dkms",
        "/etc/dkms",
        "/usr/lib/modules/*/build",
        "/usr/bin/cc",
        "/usr/bin/ld",
        "/usr/bin/make",
    ):
        assert host.run(f"ls -d {path}").rc != 0, path


def test_no_display_is_here(packages: set[str]) -> None:
    assert not {
        name for name in packages if name.startswith(("libx11", "xserver", "libgl1", "libegl", "mesa", "libwayland"))
    }


def test_firmware_is_that_of_the_families(host) -> None:
    assert host.check_output("find /usr/lib/firmware/nvidia -name 'gsp_*' -printf '%f\n'") == "gsp_ga10x.bin"
    facts = json.loads(host.file("/usr/share/vllmd/facts.d/nvidia.json").content_string)
    assert facts["families"] == ["ada", "hopper"]
    assert facts["kernel_module"] == "open"
    assert facts["cuda_max"] == "12.4"
    assert facts["driver"] == host.check_output("modinfo --field version nvidia")


def test_nouveau_stays_away(host) -> None:
    assert "blacklist nouveau" in host.check_output("modprobe --show-config")


def test_the_units_are_skipped_without_a_device_and_fail_nothing(host) -> None:
    shown = host.check_output("systemctl show --property=ActiveState,Result vllmd-nvidia.service").splitlines()
    assert set(shown) == {"ActiveState=inactive", "Result=exec-condition"}
    shown = host.check_output(
        "systemctl show --property=ActiveState,ConditionResult nvidia-persistenced.service"
    ).splitlines()
    assert set(shown) == {"ActiveState=inactive", "ConditionResult=no"}
    for unit in ("vllmd-nvidia", "nvidia-persistenced"):
        assert host.check_output(f"systemctl is-enabled {unit}.service") == "enabled"
    assert host.run("systemctl list-units --failed --no-legend --plain").stdout == ""
    assert not host.file("/run/cdi/nvidia.json").exists


def test_the_engine_starts_after_the_devices_and_gets_no_others(host) -> None:
    after = host.check_output("systemctl show --value --property=After vllm.service").split()
    assert "vllmd-nvidia.service" in after
    assert host.check_output("systemctl show --value --property=DevicePolicy vllm.service") == "closed"
    assert "char-nvidia*" in host.check_output("systemctl show --value --property=DeviceAllow vllm.service")


def test_the_kernel_has_what_passed_through_gpus_need(host, release: str) -> None:
    config = host.file(f"/boot/config-{release}").content_string.splitlines()
    for option in ("PCI_MSI", "ACPI", "NUMA", "MMU_NOTIFIER", "X86_PAT", "FW_LOADER", "MODULE_SIG"):
        assert f"CONFIG_{option}=y" in config, option


def test_containerd_reads_cdi_and_has_the_operators_runtime(host, packages: set[str]) -> None:
    assert "nvidia-container-toolkit" in packages
    # As in a guest that joined a cluster: until then the plug-in is off, and left out of the dump.
    dump = host.check_output(
        "sed '/^disabled_plugins/d' /etc/containerd/config.toml > /run/joined.toml"
        " && containerd --config /run/joined.toml config dump"
    )
    assert "enable_cdi = true" in dump
    assert 'BinaryName = "/usr/bin/nvidia-container-runtime"' in dump


def test_the_operators_fabric_manager_waits_for_switches(host, packages: set[str]) -> None:
    assert "nvidia-fabricmanager" in packages
    assert host.check_output("systemctl is-enabled vllmd-fabricmanager.service") == "enabled"
    assert host.check_output("systemctl show --value --property=ActiveState vllmd-fabricmanager.service") == "inactive"


def test_nothing_of_the_operators_sources_is_left(host) -> None:
    assert host.run("grep -rlF 127.0.0.1:12224 /etc/apt /var/lib/apt").stdout == ""
    assert host.run("ls /etc/apt/preferences.d/vllmd-nvidia /tmp/vllmd-nvidia").stdout == ""
