"""Every variable: what is accepted, what is refused, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllmd_hypervisor.config import Config, derive_name, parse_config, parse_identity, parse_stop_timeout
from vllmd_hypervisor.errors import ConfigError
from vllmd_hypervisor.memory import Memory
from vllmd_hypervisor.network import Network
from vllmd_hypervisor.quantity import GIB

REQUIRED = {"KERNEL_FILEPATH": "/k", "SYSTEM_IMAGE_FILEPATH": "/s.raw", "CONFIG_IMAGE_FILEPATH": "/c.iso"}


def environment(**variables: str) -> dict[str, str]:
    merged = REQUIRED | variables
    return {f"VLLMD_HYPERVISOR_{name}": value for name, value in merged.items()}


def parse(**variables: str) -> Config:
    return parse_config(environment(**variables), uid=0)


def problems(**variables: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(**variables)
    return caught.value.problems


def test_the_seeds_defaults() -> None:
    config = parse()
    assert config.cpu_count == 4
    assert config.memory == Memory(size=16 * GIB, shared=True)
    assert config.devices == ()
    assert config.cmdline == ""
    assert config.log_filepath == Path("/dev/stdout")
    assert config.debug is False


def test_our_defaults() -> None:
    config = parse()
    assert config.initrd is None
    assert (config.backend, config.acceleration, config.vmm_filepath) == ("auto", "auto", None)
    assert config.network == Network()
    assert config.system_image_readonly is False
    assert config.identity.run_dirpath == Path("/run/vllmd")
    assert config.identity.name == derive_name(Path("/c.iso"))
    assert parse_stop_timeout({}) == 25


def test_an_empty_value_counts_as_unset() -> None:
    assert parse(CPU_COUNT="", MEMORY_CONFIG="", BACKEND="", DEBUG="", NETWORK="") == parse()


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_a_required_variable_that_is_missing_is_named(name: str) -> None:
    assert [f"VLLMD_HYPERVISOR_{name} is not set" in problem for problem in problems(**{name: ""})] == [True]


def test_every_fault_gets_its_own_line() -> None:
    found = problems(KERNEL_FILEPATH="", CPU_COUNT="0", MEMORY_CONFIG="size=0", BACKEND="xen")
    assert len(found) == 4
    assert not any("\n" in problem for problem in found)


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("4", 4), ("1024", 1024), ("0008", 8)])
def test_cpu_count(text: str, count: int) -> None:
    assert parse(CPU_COUNT=text).cpu_count == count


@pytest.mark.parametrize("text", ["0", "-1", "1025", "1e9", "four", "1000000000", "4.0", " 4", "٤", "9" * 5000])
def test_a_cpu_count_that_is_none_says_the_range(text: str) -> None:
    (problem,) = problems(CPU_COUNT=text)
    assert problem.startswith("VLLMD_HYPERVISOR_CPU_COUNT=")
    assert "from 1 to 1024" in problem


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("VLLMD_HYPERVISOR_CPU_COUTN", "CPU_COUNT"),
        ("VLLMD_HYPERVISOR_KERNEL_PATH", "KERNEL_FILEPATH"),
        ("VLLMD_HYPERVISOR_MEMORY", "MEMORY_CONFIG"),
        ("VLLMD_HYPERVISOR_DEVICES_FILEPATH_LIST", "DEVICE_FILEPATH_LIST"),
        ("VLLMD_HYPERVISOR_INITRAMFS_FILEPATH", "INITRD_FILEPATH"),
    ],
)
def test_an_unknown_variable_suggests_the_near_one(wrong: str, right: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(environment() | {wrong: "1"}, uid=0)
    (problem,) = caught.value.problems
    assert problem == f"{wrong} is not a variable of vllmd-hypervisor; did you mean VLLMD_HYPERVISOR_{right}?"


def test_an_unknown_variable_near_nothing_points_to_the_names() -> None:
    with pytest.raises(ConfigError, match=r"docs/hypervisor\.md"):
        parse_config(environment() | {"VLLMD_HYPERVISOR_QQQQQ": "1"}, uid=0)


def test_variables_of_others_are_not_ours() -> None:
    parse_config(environment() | {"VLLMD_PROFILE": "x", "VLLMD_HYPERVISOR": "y"}, uid=0)


@pytest.mark.parametrize("text", ["1", "on", "0", "false"])
def test_debug_is_on_when_set(text: str) -> None:
    assert parse(DEBUG=text).debug is True


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("/dev/vfio/10", ("/dev/vfio/10",)),
        ("/dev/vfio/10,0000:01:00.0", ("/dev/vfio/10", "0000:01:00.0")),
        ("01:00.0 , 02:00.0", ("01:00.0", "02:00.0")),
    ],
)
def test_device_list(text: str, devices: tuple[str, ...]) -> None:
    assert parse(DEVICE_FILEPATH_LIST=text).devices == devices


@pytest.mark.parametrize(("text", "words"), [(",", "empty entry"), ("a,,b", "empty entry"), ("a,b,a", "names a twice")])
def test_a_device_list_that_is_none(text: str, words: str) -> None:
    assert words in problems(DEVICE_FILEPATH_LIST=text)[0]


@pytest.mark.parametrize("variable", ["BACKEND", "ACCELERATION"])
def test_choices_are_listed(variable: str) -> None:
    assert "must be one of auto, " in problems(**{variable: "xen"})[0]


def test_cloud_hypervisor_cannot_emulate() -> None:
    assert "runs on KVM only" in problems(BACKEND="cloud-hypervisor", ACCELERATION="tcg")[0]


def test_cloud_hypervisor_has_no_user_network() -> None:
    assert "use mode=tap" in problems(BACKEND="cloud-hypervisor", NETWORK="mode=user")[0]


@pytest.mark.parametrize(("text", "readonly"), [("on", True), ("off", False)])
def test_system_image_readonly(text: str, readonly: bool) -> None:
    assert parse(SYSTEM_IMAGE_READONLY=text).system_image_readonly is readonly


def test_a_switch_says_its_two_words() -> None:
    assert "neither on nor off" in problems(SYSTEM_IMAGE_READONLY="yes")[0]


@pytest.mark.parametrize("text", ["r1", "R1.model_a-b", "0", "x" * 63])
def test_name(text: str) -> None:
    assert parse(NAME=text).identity.name == text


@pytest.mark.parametrize("text", [".", "..", "a/b", "-x", "_x", "x" * 64, "a b", "é", "a,b"])
def test_a_name_that_is_none(text: str) -> None:
    assert any("NAME=" in problem for problem in problems(NAME=text))


def test_a_derived_name_tells_config_images_of_one_name_apart(tmp_path: Path) -> None:
    first, second = derive_name(tmp_path / "a/config.iso"), derive_name(tmp_path / "b/config.iso")
    assert first != second
    assert first.startswith("config-")
    assert len(first) == len("config-") + 8


def test_a_derived_name_follows_links(tmp_path: Path) -> None:
    (tmp_path / "real.iso").touch()
    (tmp_path / "link.iso").symlink_to("real.iso")
    assert derive_name(tmp_path / "link.iso")[-8:] == derive_name(tmp_path / "real.iso")[-8:]


@pytest.mark.parametrize("stem", ["ü b", "...", "-", "x" * 200])
def test_a_derived_name_is_a_name(stem: str) -> None:
    assert parse(CONFIG_IMAGE_FILEPATH=f"/{stem}.iso", NAME="").identity.name


def test_run_directory_of_a_user() -> None:
    config = parse_config(environment() | {"XDG_RUNTIME_DIR": "/run/user/1000"}, uid=1000)
    assert config.identity.run_dirpath == Path("/run/user/1000/vllmd")


def test_a_user_without_a_runtime_directory_is_told() -> None:
    with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR is not set"):
        parse_config(environment(), uid=1000)


def test_socket_paths_fit_the_kernels_limit() -> None:
    parse(RUN_DIRPATH="/" + "d" * 89, NAME="abc")
    (problem,) = problems(RUN_DIRPATH="/" + "d" * 90, NAME="abc")
    assert "has 108 bytes, the kernel allows 107; shorten VLLMD_HYPERVISOR_RUN_DIRPATH" in problem


def test_a_kernel_command_line_has_a_limit() -> None:
    assert parse(CMDLINE="x" * 2047).cmdline == "x" * 2047
    assert "longer than a kernel accepts" in problems(CMDLINE="x" * 2048)[0]


@pytest.mark.parametrize("value", ["a\nb", "a\x00b", "a\x7fb", "a\tb"])
def test_control_characters_are_refused_everywhere(value: str) -> None:
    for variable in ("CMDLINE", "NAME", "KERNEL_FILEPATH", "DEBUG", "RUN_DIRPATH"):
        found = problems(**{variable: value})
        assert "contains a control character" in found[0]
        assert "\n" not in found[0]


@pytest.mark.parametrize(("text", "seconds"), [("0", 0), ("25", 25), ("3600", 3600)])
def test_stop_timeout(text: str, seconds: int) -> None:
    assert parse_stop_timeout({"VLLMD_HYPERVISOR_STOP_TIMEOUT_SECONDS": text}) == seconds


@pytest.mark.parametrize("text", ["-1", "3601", "soon", "2.5"])
def test_a_stop_timeout_that_is_none(text: str) -> None:
    assert "from 0 to 3600" in problems(STOP_TIMEOUT_SECONDS=text)[0]
    with pytest.raises(ConfigError):
        parse_stop_timeout({"VLLMD_HYPERVISOR_STOP_TIMEOUT_SECONDS": text})


def test_stop_and_status_need_no_more_than_an_identity() -> None:
    broken = environment(CPU_COUNT="none", MEMORY_CONFIG="?") | {"VLLMD_HYPERVISOR_TYPO": "1"}
    assert parse_identity(broken, uid=0).name == derive_name(Path("/c.iso"))
    assert parse_identity({"VLLMD_HYPERVISOR_NAME": "r1"}, uid=0).dirpath == Path("/run/vllmd/r1")


def test_stop_and_status_say_what_names_a_runtime() -> None:
    with pytest.raises(ConfigError, match=r"NAME is not set, nor VLLMD_HYPERVISOR_CONFIG_IMAGE_FILEPATH"):
        parse_identity({}, uid=0)


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(KERNEL_FILEPATH="vmlinuz").kernel == tmp_path / "vmlinuz"
