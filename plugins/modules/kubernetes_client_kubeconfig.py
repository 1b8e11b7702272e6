#!/usr/bin/python
# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)

from __future__ import annotations

DOCUMENTATION = r"""
---
module: kubernetes_client_kubeconfig
short_description: Give a program on this host credentials of its own for a cluster
version_added: 0.1.0
description:
  - Makes a key on the host, has the cluster sign a client certificate for it by a CertificateSigningRequest that an
    administrator's credentials approve, and writes a kubeconfig with both for root alone.
  - One that is there is kept while it is of the wanted user, the cluster has the same authorities and address, and its
    end is far enough.
author:
  - vllmd.platform maintainers (@vllmd)
attributes:
  check_mode:
    description: Says whether it would be written.
    support: full
  diff_mode:
    description: There is nothing to show of a key.
    support: none
options:
  path:
    description: The kubeconfig to write.
    type: path
    required: true
  user:
    description: The name that the program has for the cluster. Its rights are those of the bindings for that user.
    type: str
    required: true
  renew_days:
    description: Days before its end at which it is made anew.
    type: int
    default: 90
  kubeconfig:
    description: Credentials of an administrator.
    type: path
    required: true
  kubectl:
    description: The program.
    type: str
    default: kubectl
"""

EXAMPLES = r"""
- name: Give the approver credentials
  vllmd.platform.kubernetes_client_kubeconfig:
    path: /etc/vllmd/control-plane-controller/approver.conf
    user: vllmd:node-approver
    kubeconfig: /etc/kubernetes/admin.conf
"""

RETURN = r"""
reason:
  description: Why it was written, empty when it was not.
  returned: success
  type: str
"""

import base64
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vllmd.platform.plugins.module_utils import atomic
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.errors import NodeError
from ansible_collections.vllmd.platform.plugins.module_utils.kubernetes.programs import Kubectl

_SECONDS = 60
_SIGNER = "kubernetes.io/kube-apiserver-client"


def openssl(*arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run openssl; the caller looks at the status. Raises NodeError."""
    try:
        return subprocess.run(
            ["openssl", *arguments], check=False, input=given, capture_output=True, text=True, timeout=_SECONDS
        )
    except FileNotFoundError:
        raise NodeError("openssl is not installed; install package openssl") from None
    except subprocess.TimeoutExpired:
        raise NodeError(f"openssl {arguments[0]} did not end within {_SECONDS} s") from None


def must(*arguments: str, given: str = "") -> str:
    """Return what openssl writes. Raises NodeError."""
    done = openssl(*arguments, given=given)
    if done.returncode != 0:
        raise NodeError(
            f"openssl {arguments[0]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        )
    return done.stdout


def cluster_of(kubectl: Kubectl) -> dict[str, Any]:
    """Return the cluster of the administrator's kubeconfig: its address and authorities. Raises NodeError."""
    text = kubectl.must(
        "cannot read the kubeconfig", "config", "view", "--raw", "--flatten", "--minify", "--output", "json"
    )
    found: dict[str, Any] = json.loads(text)["clusters"][0]["cluster"]
    return found


def outdated(path: Path, user: str, cluster: dict[str, Any], renew_days: int) -> str:
    """Return why the kubeconfig cannot stay; empty when it can. Raises NodeError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        known = document["clusters"][0]["cluster"]
        pem = base64.b64decode(document["users"][0]["user"]["client-certificate-data"]).decode()
    except FileNotFoundError:
        return "there is none"
    except (OSError, ValueError, LookupError, TypeError):
        return "it cannot be read"
    if known != cluster:
        return "the cluster has another address or other authorities"
    subject = openssl("x509", "-noout", "-subject", "-nameopt", "RFC2253", given=pem).stdout.strip()
    if subject != f"subject=CN={user}":
        return "it is of another user"
    if openssl("x509", "-noout", "-checkend", str(renew_days * 86400), given=pem).returncode != 0:
        return f"it ends within {renew_days} days"
    return ""


def signed(kubectl: Kubectl, user: str, key: str) -> str:
    """Return the certificate (base64 of PEM) that the cluster signed for the key. Raises NodeError."""
    # The key is given by a pipe: openssl would read it from a file else, and it belongs into none.
    request = must("req", "-new", "-key", "/dev/stdin", "-subj", f"/CN={user}", given=key)
    name = f"vllmd-{user.rpartition(':')[2]}-{secrets.token_hex(4)}"
    document = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": name},
        "spec": {
            "request": base64.b64encode(request.encode()).decode(),
            "signerName": _SIGNER,
            "usages": ["digital signature", "client auth"],
        },
    }
    kubectl.must(f"cannot ask for a certificate of {user}", "create", "--filename", "-", stdin=json.dumps(document))
    try:
        kubectl.must(f"cannot approve the certificate of {user}", "certificate", "approve", name)
        deadline = time.monotonic() + _SECONDS
        while True:
            what = f"cannot read the certificate of {user}"
            text = kubectl.must(what, "get", "certificatesigningrequest", name, "--output", "json")
            found = json.loads(text).get("status", {}).get("certificate")
            if found:
                return str(found)
            if time.monotonic() > deadline:
                raise NodeError(
                    f"after {_SECONDS} s the cluster has not signed the certificate of {user}; does its controller "
                    "manager run, and does it have the authority's key?"
                )
            time.sleep(0.2)
    finally:
        kubectl.run("delete", "certificatesigningrequest", name, "--ignore-not-found")


def write(path: Path, user: str, cluster: dict[str, Any], certificate: str, key: str) -> None:
    """Write the kubeconfig, as JSON, which is YAML as well. Raises OSError."""
    credentials = {"client-certificate-data": certificate, "client-key-data": base64.b64encode(key.encode()).decode()}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "cluster", "cluster": cluster}],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": "context", "context": {"cluster": "cluster", "user": user}}],
        "current-context": "context",
    }
    atomic.make_directory(path.parent)
    atomic.write_file(path, (json.dumps(document, indent=2) + "\n").encode(), 0o600)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "renew_days": {"type": "int", "default": 90},
            "kubeconfig": {"type": "path", "required": True},
            "kubectl": {"type": "str", "default": "kubectl"},
        },
        supports_check_mode=True,
    )
    given = module.params
    path, user, kubectl = Path(given["path"]), given["user"], Kubectl(given["kubectl"], given["kubeconfig"])
    try:
        cluster = cluster_of(kubectl)
        reason = outdated(path, user, cluster, given["renew_days"])
        if reason and not module.check_mode:
            key = must("ecparam", "-name", "prime256v1", "-genkey", "-noout")
            write(path, user, cluster, signed(kubectl, user, key), key)
    except NodeError as error:
        module.fail_json(msg=f"credentials of {user}: {error}")
    except OSError as error:
        module.fail_json(msg=f"credentials of {user}: {error.filename or path}: {error.strerror or error}")
    module.exit_json(changed=bool(reason), reason=reason)


if __name__ == "__main__":
    main()
