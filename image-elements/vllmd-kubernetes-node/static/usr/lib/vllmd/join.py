"""Join the Kubernetes cluster that the config image names, once.

Reads /run/vllmd/kubernetes.json (written by configure.py), writes kubeadm's JoinConfiguration for the kubeadm that is
installed, and runs ``kubeadm join``. The cluster is only joined when its CA is pinned: without a pin anybody who
answers at the endpoint's address would be believed. Exit status 0: joined (now or before); 1: try again; 2: the
configuration is wrong, trying again is no use.

Run as ``python3 -ISB join.py``; the token is in no argument, no output and no file that others can read.
"""
# pathlib alone would cost a tenth of a second of an emulated boot:
# ruff: noqa: PTH103, PTH104, PTH108, PTH110, PTH120, PTH123

import hashlib
import json
import os
import re
import subprocess
import sys

SECTION = "/run/vllmd/kubernetes.json"
CONFIG = "/run/vllmd/join/kubeadm.json"
FIREWALL = "/run/vllmd/firewall.d/kubernetes.nft"
KUBELET_CONF = "/etc/kubernetes/kubelet.conf"
BOOTSTRAP_CONF = "/etc/kubernetes/bootstrap-kubelet.conf"
#: Beside what joining leaves, so that both are there or neither, wherever /etc/kubernetes lives.
STAMP = "/etc/kubernetes/vllmd-joined.json"
CONTAINERD = "/etc/containerd/config.toml"
SOCKET = "unix:///run/containerd/containerd.sock"
LIBRARY = "/usr/lib/vllmd"
DISABLED = 'disabled_plugins = ["io.containerd.grpc.v1.cri"]'

FIELDS = ("api_endpoint", "token", "ca_pins")
OPTIONAL = ("node_name", "labels", "taints", "open_tcp", "open_udp")
EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
ENDPOINT = re.compile(r"(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")
#: kubernetes.io, "Bootstrap Tokens": 6 and 16 of a-z and 0-9.
TOKEN = re.compile(r"[a-z0-9]{6}\.[a-z0-9]{16}")
PIN = re.compile(r"sha256:[0-9a-f]{64}")
#: RFC 1123 subdomain and label values (kubernetes.io, "Labels and Selectors").
NODE = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
#: The labels of these domains that a kubelet may give itself (kubernetes.io, "NodeRestriction").
RESERVED = re.compile(r"(.*\.)?(kubernetes|k8s)\.io")
ALLOWED = re.compile(r"(.*\.)?(kubelet|node)\.kubernetes\.io")
ALLOWED_LABELS = (
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
)
KUBELET_PORT = 10250
DISCOVERY = "1m0s"


class JoinError(Exception):
    """Why the guest has not joined, in one sentence; the next try may succeed. ``said`` is all that a program said."""

    def __init__(self, message, said=""):
        super().__init__(message)
        self.said = said


class SectionError(JoinError):
    """What is wrong with the section, in one sentence; trying again is no use."""


def wrong(where, expected):
    """Return the error for field ``where``; its value is not said, it may be the token."""
    return SectionError(f"runtime.json: kubernetes.{where} has to be {expected}")


def check(section):
    """Return the section with all its fields, or raise SectionError."""
    if not isinstance(section, dict):
        raise SectionError("runtime.json: kubernetes has to be an object")
    for field in section:
        if field not in FIELDS and field not in OPTIONAL:
            known = ", ".join(sorted(FIELDS + OPTIONAL))
            raise SectionError(f"runtime.json: kubernetes.{str(field)[:60]} is not a known field; known: {known}")
    match = ENDPOINT.fullmatch(str(section.get("api_endpoint", "")))
    if match is None or not 0 < int(match[2]) < 65536:
        raise wrong("api_endpoint", "the API server's address and port, such as 10.0.0.10:6443")
    if not isinstance(section.get("token"), str) or not TOKEN.fullmatch(section["token"]):
        raise wrong("token", "a bootstrap token, 6 and 16 characters of a-z and 0-9 with a dot between")
    pins = section.get("ca_pins")
    if not isinstance(pins, list) or not pins:
        raise SectionError(
            "runtime.json: kubernetes.ca_pins is missing; a cluster is only joined by the pin of its CA, "
            "sha256:<64 hexadecimal digits> (kubeadm token create --print-join-command shows it)"
        )
    if not all(isinstance(pin, str) and PIN.fullmatch(pin) for pin in pins):
        raise wrong("ca_pins", "a list of sha256:<64 hexadecimal digits>")
    node = section.get("node_name")
    if node is not None and not (isinstance(node, str) and NODE.fullmatch(node)):
        raise wrong("node_name", "a DNS name of a-z, 0-9, dash and dot")
    ports = {}
    for field in ("open_tcp", "open_udp"):
        ports[field] = section.get(field, [])
        if not isinstance(ports[field], list) or not all(
            isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536 for port in ports[field]
        ):
            raise wrong(field, "a list of ports, 1 to 65535")
    return {
        "api_endpoint": section["api_endpoint"],
        "token": section["token"],
        "ca_pins": sorted(pins),
        "node_name": node,
        "labels": labels(section.get("labels", {})),
        "taints": taints(section.get("taints", [])),
        **ports,
    }


def labels(given):
    """Return the labels, or raise SectionError for one that a kubelet would refuse to start with."""
    if not isinstance(given, dict):
        raise wrong("labels", "an object of label: value")
    for key, value in given.items():
        prefix, slash, name = key.rpartition("/")
        if not NAME.fullmatch(name) or (slash and not PREFIX.fullmatch(prefix)):
            raise wrong(f"labels: {key[:80]!r}", "a label's name, such as vllmd.com/model")
        if not isinstance(value, str) or (value and not NAME.fullmatch(value)):
            raise wrong(f"labels.{key[:80]}", "at most 63 of letters, digits, dash, dot and underscore")
        if RESERVED.fullmatch(prefix) and not ALLOWED.fullmatch(prefix) and key not in ALLOWED_LABELS:
            raise SectionError(
                f"runtime.json: kubernetes.labels.{key[:80]}: a node may not give itself this label; "
                "use a domain of your own or node.kubernetes.io"
            )
    return dict(sorted(given.items()))


def taints(given):
    """Return the taints, or raise SectionError."""
    if not isinstance(given, list):
        raise wrong("taints", "a list of {key, value, effect}")
    result = []
    for taint in given:
        if not isinstance(taint, dict) or not {"key", "effect"} <= {*taint} <= {"key", "value", "effect"}:
            raise wrong("taints", "a list of {key, value, effect}")
        prefix, slash, name = str(taint["key"]).rpartition("/")
        if not NAME.fullmatch(name) or (slash and not PREFIX.fullmatch(prefix)):
            raise wrong("taints: key", "a taint's key, such as vllmd.com/accelerator")
        value = taint.get("value", "")
        if not isinstance(value, str) or (value and not NAME.fullmatch(value)):
            raise wrong("taints: value", "at most 63 of letters, digits, dash, dot and underscore")
        if taint["effect"] not in EFFECTS:
            raise wrong("taints: effect", f"one of {', '.join(EFFECTS)}")
        if any(other["key"] == taint["key"] and other["effect"] == taint["effect"] for other in result):
            raise wrong("taints", "a list with each key and effect once")
        result.append({"key": taint["key"], "value": value, "effect": taint["effect"]})
    return result


def api_version(kubeadm):
    """Return kubeadm's configuration API for its version, such as (1, 33): kubernetes.io, "kubeadm Configuration"."""
    if kubeadm < (1, 22):
        return "kubeadm.k8s.io/v1beta2"
    return "kubeadm.k8s.io/v1beta3" if kubeadm < (1, 31) else "kubeadm.k8s.io/v1beta4"


def join_configuration(section, kubeadm):
    """Return kubeadm's JoinConfiguration for a checked section and kubeadm's version."""
    version = api_version(kubeadm)
    discovery = {
        "bootstrapToken": {
            "apiServerEndpoint": section["api_endpoint"],
            "token": section["token"],
            "caCertHashes": section["ca_pins"],
            "unsafeSkipCAVerification": False,
        }
    }
    arguments = {}
    if version.endswith("beta2"):
        # Clusters of that time say cgroupfs; containerd in this image lets systemd make the groups.
        arguments["cgroup-driver"] = "systemd"
    if section["labels"]:
        arguments["node-labels"] = ",".join(f"{key}={value}" for key, value in section["labels"].items())
    registration = {
        # kubelet of that time takes a path, later ones an address.
        "criSocket": SOCKET.removeprefix("unix://") if version.endswith("beta2") else SOCKET,
        # An empty list says "no taints"; leaving it out would say the same for a worker.
        "taints": section["taints"],
    }
    if section["node_name"]:
        registration["name"] = section["node_name"]
    if arguments:
        # From v1beta4 on a list, so that an argument may be given twice.
        registration["kubeletExtraArgs"] = (
            [{"name": name, "value": value} for name, value in sorted(arguments.items())]
            if version.endswith("beta4")
            else arguments
        )
    document = {
        "apiVersion": version,
        "kind": "JoinConfiguration",
        "discovery": discovery,
        "nodeRegistration": registration,
    }
    # A token that is unknown is asked for until then. Where it is said moved with v1beta4.
    if version.endswith("beta4"):
        document["timeouts"] = {"discovery": DISCOVERY}
    else:
        discovery["timeout"] = DISCOVERY
    return document


def digest(section):
    """Return what tells one membership from another: all but the token, which expires and is replaced."""
    kept = {key: value for key, value in section.items() if key != "token"}
    return "sha256:" + hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def joined(section):
    """Return whether this guest is a member as the section says; raise when it is one by another section."""
    if not os.path.exists(KUBELET_CONF):
        return False
    try:
        with open(STAMP, encoding="utf-8") as stream:
            stamp = json.load(stream)
    except (OSError, ValueError):
        return False  # a join that was interrupted
    if stamp.get("config") == digest(section):
        return True
    raise SectionError(
        f"this guest is a node of {stamp.get('api_endpoint')}, and the config image now says otherwise; "
        "drain and remove the node, run 'kubeadm reset' in the guest, and start it again"
    )


def firewall(section):
    """Return the packet filter's rules for a node: kubelet's port, the ports asked for, and pods' traffic."""
    tcp = ", ".join(str(port) for port in sorted({KUBELET_PORT, *section["open_tcp"]}))
    rules = [f"add element inet vllmd tcp_open {{ {tcp} }}"]
    if section["open_udp"]:
        rules.append(f"add element inet vllmd udp_open {{ {', '.join(map(str, sorted({*section['open_udp']})))} }}")
    # What pods may reach is for the cluster's network policies to say.
    rules.append("add rule inet vllmd forward accept")
    return "\n".join(rules) + "\n"


def write(path, content, mode=0o600):
    """Put a whole file in the place of ``path``."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    new = f"{path}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, mode)
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    os.rename(new, path)


def run(command, secret=""):
    """Run a command, its output to the journal without ``secret``. Raises JoinError with what it says of errors."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    last, lines, errors = "", [], []
    for raw in process.stdout:
        line = raw.rstrip()
        if secret:
            line = line.replace(secret, "(token)")
        print(line, file=sys.stderr, flush=True)
        if "error" in line.lower() and "ignore-preflight-errors" not in line:
            errors.append(line)
        lines.append(line)
        last = line.strip() or last
    if process.wait() != 0:
        said = " ".join(" ".join(errors).split()) or last or f"status {process.returncode}"
        raise JoinError(f"{' '.join(command[:2])} failed: {said[:300]}", "\n".join(lines))


def kubeadm_version():
    """Return kubeadm's version as (major, minor)."""
    done = subprocess.run(["kubeadm", "version", "-o", "short"], check=False, capture_output=True, text=True)
    match = re.match(r"v([0-9]+)\.([0-9]+)\.", done.stdout)
    if match is None:
        raise JoinError("kubeadm does not say its version")
    return int(match[1]), int(match[2])


def prepare(section):
    """Let containerd serve pods, and the packet filter let them through."""
    with open(CONTAINERD, encoding="utf-8") as stream:
        text = stream.read()
    if DISABLED in text:
        write(CONTAINERD, text.replace(DISABLED, "disabled_plugins = []"), 0o644)
        run(["systemctl", "restart", "containerd.service"])
    if os.path.exists("/usr/lib/vllmd/firewall.nft"):
        write(FIREWALL, firewall(section), 0o644)
        run(["systemctl", "reload-or-restart", "vllmd-firewall.service"])


def join(section):
    """Join, or do nothing when this guest has joined before; return what to say."""
    where = section["api_endpoint"]
    if joined(section):
        prepare(section)
        run(["systemctl", "start", "--no-block", "kubelet.service"])
        return f"node of {where} since an earlier start"
    version = kubeadm_version()
    prepare(section)
    if os.path.exists(KUBELET_CONF) or os.path.exists(BOOTSTRAP_CONF):
        # What an interrupted join left would make the next one refuse.
        run(["kubeadm", "reset", "--force", "--cri-socket", SOCKET])
    try:
        write(CONFIG, json.dumps(join_configuration(section, version)) + "\n")
        run(["kubeadm", "join", "--config", CONFIG], section["token"])
    except JoinError as error:
        why = refusal(error, section)
        raise SectionError(why) if why else error from None
    finally:
        if os.path.exists(CONFIG):
            os.unlink(CONFIG)
    write(STAMP, json.dumps({"config": digest(section), "api_endpoint": where}) + "\n")
    return f"joined {where}"


def refusal(error, section):
    """Return why the cluster refused this guest for good, empty when it may take it later."""
    sys.path.insert(0, LIBRARY)  # -I leaves it out
    import join_reasons  # noqa: PLC0415 -- most joins need none

    return join_reasons.final(error.said, section) or join_reasons.denied(
        join_reasons.requests(section, write), section
    )


def main():
    """Join; return the exit status."""
    try:
        with open(SECTION, encoding="utf-8") as stream:
            section = check(json.load(stream))
        said = join(section)
    except SectionError as error:
        print(f"vllmd: FAILED: join: {error}", flush=True)
        return 2
    except JoinError as error:
        print(f"vllmd: FAILED: join: {error}; trying again", flush=True)
        return 1
    except OSError as error:
        print(f"vllmd: FAILED: join: {error.strerror} ({error.filename})", flush=True)
        return 1
    print(f"vllmd: {said}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
