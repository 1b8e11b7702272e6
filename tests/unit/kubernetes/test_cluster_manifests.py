"""What the roles give a cluster is what Kubernetes accepts."""

from __future__ import annotations

import kubernetes_validate
import pytest
import yaml

from tests.support.cluster_manifests import TEMPLATES, rendered

VERSIONS = ("1.33", "1.34", "1.35", "1.36", "1.37")


@pytest.mark.parametrize(("role", "template"), list(TEMPLATES))
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_accepts_every_object(role: str, template: str, version: str) -> None:
    objects = [each for each in yaml.safe_load_all(rendered(role, template)) if each]
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)
    assert len(objects) >= 2
