"""Layer containerd: a runtime that is ready for a cluster and does nothing without one."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

CRI = "io.containerd.grpc.v1.cri"


@pytest.fixture(scope="module")
def config(image: Host) -> dict[str, Any]:
    return tomllib.loads(image.file("/etc/containerd/config.toml").content_string)


@pytest.mark.parametrize("package", ["containerd", "runc", "containernetworking-plugins"])
def test_package_is_installed(image: Host, package: str) -> None:
    assert image.package(package).is_installed


def test_config_is_valid_for_this_containerd(lines: Callable[[str], list[str]]) -> None:
    assert "version = 2" in lines("containerd --config /etc/containerd/config.toml config dump 2>/dev/null")


def test_nothing_listens_until_the_guest_joins_a_cluster(config: dict[str, Any]) -> None:
    assert config["disabled_plugins"] == [CRI]


def test_devices_come_by_cdi(image: Host, config: dict[str, Any]) -> None:
    assert config["plugins"][CRI]["enable_cdi"] is True
    assert config["plugins"][CRI]["cdi_spec_dirs"] == ["/etc/cdi", "/var/run/cdi"]
    assert image.file("/etc/cdi").is_directory


def test_cgroups_are_systemds(config: dict[str, Any]) -> None:
    assert config["plugins"][CRI]["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is True


@pytest.mark.parametrize("plugin", ["bridge", "host-local", "loopback", "portmap"])
def test_network_plugins_are_there(image: Host, plugin: str) -> None:
    assert image.file(f"/usr/lib/cni/{plugin}").mode & 0o111


def test_no_container_image_is_in_the_image(lines: Callable[[str], list[str]]) -> None:
    assert lines("find /var/lib/containerd -type f 2>/dev/null || true") == []


def test_the_engine_comes_first(image: Host) -> None:
    drop_in = image.file("/etc/systemd/system/containerd.service.d/10-vllmd.conf").content_string
    assert "After=vllm.service" in drop_in


def test_its_configuration_is_roots(image: Host) -> None:
    for path in ("/etc/containerd", "/etc/cni/net.d", "/etc/containerd/config.toml"):
        assert (image.file(path).uid, image.file(path).mode & 0o022) == (0, 0)
