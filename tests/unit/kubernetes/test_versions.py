"""Which version speaks which configuration, and which kubelet a kubeadm can manage."""

from __future__ import annotations

import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes import versions
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.versions import Version


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("1.33.1", Version(1, 33, 1)),
        ("v1.20.2\n", Version(1, 20, 2)),
        ("v1.37.0-rc.1", Version(1, 37, 0)),
        ("v1.31.4+vendor.1", Version(1, 31, 4)),
    ],
)
def test_what_a_version_is(text: str, version: Version) -> None:
    assert versions.parse(text) == version


@pytest.mark.parametrize("text", ["", "1.33", "latest", "1.33.x", "v1.14.9", "1.33.1 ; rm", "Kubernetes v1.33.1"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(NodeError) as error:
        versions.parse(text, "kubernetes_node_version")
    assert str(error.value).startswith("kubernetes_node_version: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("minor", "api", "validates", "patches"),
    [
        (20, "v1beta2", False, False),
        (21, "v1beta2", False, False),
        (22, "v1beta3", False, False),
        (24, "v1beta3", False, False),
        (25, "v1beta3", False, True),
        (26, "v1beta3", True, True),
        (30, "v1beta3", True, True),
        (31, "v1beta4", True, True),
        (37, "v1beta4", True, True),
    ],
)
def test_what_a_version_speaks_and_can_do(minor: int, api: str, validates: bool, patches: bool) -> None:
    version = Version(1, minor, 0)
    assert versions.api_version(version) == f"kubeadm.k8s.io/{api}"
    assert versions.can_validate(version) is validates
    assert versions.can_patch_kubelet(version) is patches


@pytest.mark.parametrize(
    ("kubelet", "kubeadm", "fits"),
    [
        ((1, 33), (1, 33), True),
        ((1, 30), (1, 33), True),
        ((1, 29), (1, 33), False),
        ((1, 34), (1, 33), False),
        ((1, 26), (1, 27), True),
        ((1, 25), (1, 27), False),
        ((1, 20), (1, 20), True),
    ],
)
def test_which_kubelet_fits(kubelet: tuple[int, int], kubeadm: tuple[int, int], fits: bool) -> None:
    assert (versions.skew(Version(*kubelet, 1), Version(*kubeadm, 0)) == "") is fits
