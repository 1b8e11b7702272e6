"""Why a cluster did not take this guest, in one sentence, and whether trying again can be of use."""

import json
import os
import re
import subprocess

CA = "/etc/kubernetes/pki/ca.crt"
ASK = "/run/vllmd/join/ask.json"
NEW = (
    "its host makes a new one with the next playbooks/start.yml where vllmd_kubernetes_admin_host is set, or put one "
    "into vllmd_kubernetes_tokens; then start the guest again"
)
#: What kubeadm says, and what that means; a guest reads its config image once, so none of these changes by waiting.
FINAL = (
    (
        r"JWS signature|token ID .* is invalid for this cluster or it has expired",
        "token {token} is unknown at {endpoint}: it was used before, has expired or was revoked; " + NEW,
    ),
    (
        r"none of the public keys .* are pinned|cluster CA found in cluster-info ConfigMap is invalid",
        "the CA that answers at {endpoint} is not the one that is pinned; compare the pin with the control plane's, "
        "and if it is right somebody else answers there",
    ),
)


def final(said, section):
    """Return the sentence for what kubeadm ``said`` when trying again is no use, else an empty string."""
    for pattern, sentence in FINAL:
        if re.search(pattern, said):
            return sentence.format(token=section["token"].partition(".")[0], endpoint=section["api_endpoint"])
    return ""


def kubeconfig(section):
    """Return credentials, as kubectl reads them, that ask the cluster with the token."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "a", "cluster": {"server": f"https://{section['api_endpoint']}", "certificate-authority": CA}}
        ],
        "users": [{"name": "a", "user": {"token": section["token"]}}],
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "current-context": "a",
    }


def requests(section, write):
    """Return the certificate requests that the cluster has, an empty list when it does not say.

    ``write`` puts a text into a file that only root reads.
    """
    if not os.path.exists(CA):  # noqa: PTH110 -- pathlib costs a tenth of a second of an emulated boot
        return []
    write(ASK, json.dumps(kubeconfig(section)))
    try:
        asked = ["kubectl", f"--kubeconfig={ASK}", "get", "certificatesigningrequests", "--request-timeout=20s"]
        done = subprocess.run([*asked, "--output=json"], check=False, capture_output=True, text=True)
        return json.loads(done.stdout)["items"] if done.returncode == 0 else []
    except (OSError, ValueError, KeyError):
        return []
    finally:
        os.unlink(ASK)  # noqa: PTH108


def denied(items, section):
    """Return the sentence of the request that came with this guest's token and was denied, else an empty string."""
    user = f"system:bootstrap:{section['token'].partition('.')[0]}"
    for item in items:
        if item.get("spec", {}).get("username") != user:
            continue
        for condition in item.get("status", {}).get("conditions") or []:
            if condition.get("type") == "Denied":
                why = f"{condition.get('reason')}: {condition.get('message')}"
                return f"the cluster denied this guest's certificate: {why}"
    return ""
