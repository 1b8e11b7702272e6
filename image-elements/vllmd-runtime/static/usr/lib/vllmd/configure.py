"""Configure this guest from its config image, before anything is served.

Finds the ISO 9660 volume labelled CIDATA, reads vllmd/runtime.json on it, checks every field and writes what the other
services read below /run/vllmd. Either everything is written or nothing: a wrong document ends in one line on the
console and a failed unit.

Run as ``python3 -ISB configure.py``. Only what Python has built in is imported: under software emulation each module
costs tens of milliseconds of the boot.
"""
# pathlib alone would cost a tenth of a second of an emulated boot:
# ruff: noqa: PTH101, PTH103, PTH108, PTH110, PTH113, PTH114, PTH116, PTH120, PTH123, PTH208, PTH211

import json
import os
import sys

CONFIG_MOUNT = "/run/vllmd/config"
RUN = "/run/vllmd"
LIBRARY = "/usr/lib/vllmd"
METRICS = "/run/vllmd/metrics"
MONITORING = "/run/vllmd/monitoring"
JOIN = "/usr/lib/vllmd/join.py"  # of element vllmd-kubernetes-node
KUBERNETES = "/run/vllmd/kubernetes.json"
NETWORK_FILE = "/run/systemd/network/10-vllmd.network"
CACHE = "/var/lib/vllmd/cache"
SSH_PORT = 22
NODE_EXPORTER_PORT = 9100
KNOWN_DISKS = 2  # system and config image

LABEL = b"CIDATA"
SECTOR = 2048  # ECMA-119
PRIMARY_VOLUME = 16 * SECTOR
UID_ARGUMENT = "vllmd.uid="  # on the kernel command line: whose guest this is
DOCUMENT_LIMIT = 1024 * 1024
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8  # mount(2)

NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
OPTION = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-.")
VARIABLE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")

KINDS = {dict: "an object", list: "a list", str: "a string", int: "a whole number", bool: "true or false"}
FIELDS = (
    "schema_version",
    "name",
    "uid",
    "model",
    "engine",
    "environment",
    "api",
    "hostname",
    "ssh_authorized_keys",
    "network",
)
OPTIONAL = ("profile", "storage", "monitoring", "kubernetes")
NETWORK_HEAD = """[Match]
Type=ether
# Cards only, not the cables of containers or tunnels.
Kind=!*

[Link]
RequiredForOnline=no

[Network]
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


class ConfigurationError(Exception):
    """What is wrong with the config image, in one sentence for a person."""


def find_volume(devices="/sys/class/block", nodes="/dev"):
    """Return the path of the block device whose ISO 9660 volume label is CIDATA."""
    for name in sorted(os.listdir(devices)):
        if name.startswith(("loop", "ram", "zram")):
            continue
        try:
            descriptor = os.open(f"{nodes}/{name}", os.O_RDONLY)
        except OSError:
            continue
        try:
            sector = os.pread(descriptor, SECTOR, PRIMARY_VOLUME)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        if sector[1:6] == b"CD001" and sector[40:72].rstrip(b" \0") == LABEL:
            return f"{nodes}/{name}"
    raise ConfigurationError("no disk with an ISO 9660 volume labelled CIDATA; attach the runtime's config image")


def disks(devices="/sys/class/block"):
    """Return how many disks there are; a cache disk would be one more than the system's and this one."""
    return sum(not name.startswith(("loop", "ram", "zram")) for name in os.listdir(devices))


def mount(device, target):
    """Mount the ISO 9660 volume ``device`` read-only at ``target``."""
    import ctypes  # noqa: PLC0415 -- not needed where the volume is mounted already

    os.makedirs(target, mode=0o700, exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC
    if libc.mount(device.encode(), target.encode(), b"iso9660", flags, None) != 0:
        raise ConfigurationError(f"cannot mount the config image {device}: {os.strerror(ctypes.get_errno())}")


def load(path):
    """Return the JSON object in file ``path``."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(DOCUMENT_LIMIT + 1)
        if len(text) > DOCUMENT_LIMIT:
            raise ConfigurationError("vllmd/runtime.json on the config image is larger than 1 MiB")
        document = json.loads(text)
    except OSError as error:
        raise ConfigurationError(f"cannot read vllmd/runtime.json on the config image: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"vllmd/runtime.json on the config image is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError("vllmd/runtime.json on the config image is not a JSON object")
    return document


def check_owner(uid, cmdline="/proc/cmdline"):
    """Refuse a config image that is not the one of the runtime that the launcher started (vllmd.uid=...)."""
    with open(cmdline, encoding="utf-8", errors="replace") as stream:
        words = stream.read().split()
    expected = [word.removeprefix(UID_ARGUMENT) for word in words if word.startswith(UID_ARGUMENT)]
    if expected and uid != expected[-1]:
        raise ConfigurationError(
            f"the config image belongs to another runtime: its uid is {uid}, this machine was started for "
            f"{expected[-1]}; attach this runtime's own config image"
        )


def wrong(where, value, expected):
    """Return the error that field ``where`` has ``value`` instead of what is ``expected``."""
    found = "missing" if value is None else json.dumps(value)[:60]
    return ConfigurationError(f"runtime.json: {where} is {found}; it has to be {expected}")


def typed(value, kind, where):
    """Return ``value`` when it is a ``kind`` (a bool is no int), else raise naming the field ``where``."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong(where, value, KINDS[kind])
    return value


def fields(mapping, required, optional, where):
    """Check that ``mapping`` has all ``required`` keys and beside them only ``optional`` ones."""
    for key in required:
        if key not in mapping:
            raise ConfigurationError(f"runtime.json: {where}{key} is missing")
    for key in mapping:
        if key not in required and key not in optional:
            known = ", ".join(sorted({*required, *optional}))
            raise ConfigurationError(f"runtime.json: {where}{key[:60]} is not a known field; known: {known}")


def one_line(value, where):
    """Return the string ``value`` when it is not empty and has no control characters."""
    if not isinstance(value, str) or not value or not value.isprintable():
        raise wrong(where, value, "one line of text")
    return value


def spelled(value, characters, where):
    """Return the string ``value`` when it consists of ``characters`` only and starts with a letter or digit."""
    one_line(value, where)
    if not characters.issuperset(value) or not value[0].isalnum():
        raise wrong(where, value, f"made of {''.join(sorted(characters))}")
    return value


def model_location(model):
    """Return what vLLM loads: a directory of this image or a repository name."""
    fields(typed(model, dict, "model"), ("name", "source"), ("path", "repository"), "model.")
    if model["source"] == "huggingface":
        return one_line(model.get("repository"), "model.repository")
    if model["source"] != "local":
        raise wrong("model.source", model["source"], "local or huggingface")
    location = one_line(model.get("path"), "model.path")
    if not os.path.isfile(f"{location}/config.json"):
        raise ConfigurationError(f"the model {location} is not in this image (it has no config.json there)")
    return location


def engine_options(runtime):
    """Return vLLM's options, option name without dashes -> value, as its config file has them."""
    api = typed(runtime["api"], dict, "api")
    fields(api, ("host", "port"), (), "api.")
    port = typed(api["port"], int, "api.port")
    if not 0 < port < 65536:
        raise wrong("api.port", port, "1 to 65535")
    options = {
        "model": model_location(runtime["model"]),
        "served-model-name": one_line(runtime["model"]["name"], "model.name"),
        "host": one_line(api["host"], "api.host"),
        "port": port,
    }
    for option, value in typed(runtime["engine"], dict, "engine").items():
        spelled(option, OPTION, f"the option name in engine.{option[:60]}")
        if option in options:
            raise ConfigurationError(f"runtime.json: engine.{option} is set from model and api; leave it out of engine")
        options[option] = json.dumps(value) if isinstance(value, dict) else value
    return options


def switches(runtime, name, known):
    """Return the object of true and false at the dotted ``name``, which may be left out, with ``known`` keys only."""
    value = runtime
    where = ""
    for part in name.split("."):
        where += part
        value = typed(value.get(part, {}), dict, where)
        where += "."
    fields(value, (), known, where)
    return {key: typed(each, bool, where + key) for key, each in value.items()}


def cache_wishes(runtime):
    """Return what the runtime wants of the cache disk: ``format``, ``required``."""
    storage = typed(runtime.get("storage", {}), dict, "storage")
    fields(storage, (), ("cache",), "storage.")
    return switches(runtime, "storage.cache", ("format", "required"))


def environment_lines(runtime, caches=()):
    """Return the engine's environment in the format of systemd's EnvironmentFile=; ``caches`` are pairs for it."""
    source = runtime["model"]["source"]
    lines = [f"VLLMD_MODEL_SOURCE={source}"]
    if source == "local":
        lines.append("HF_HUB_OFFLINE=1")
    if runtime.get("profile") is not None:
        lines.append(f"VLLMD_HARDWARE_PROFILE={spelled(runtime['profile'], NAME, 'profile')}")
    lines += [f"{name}={value}" for name, value in caches]
    for name, value in typed(runtime["environment"], dict, "environment").items():
        spelled(name, VARIABLE, f"the variable name in environment.{name[:60]}")
        if not isinstance(value, str) or not value.isprintable():
            raise wrong(f"environment.{name}", value, "one line of text")
        quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
        lines.append(f'{name}="{quoted}"')
    return "\n".join(lines) + "\n"


def network_files(network):
    """Return (networkd file, resolv.conf or None); None stands for: take what resolved learns from DHCP."""
    mode = typed(network, dict, "network").get("mode")
    if mode == "dhcp":
        fields(network, ("mode",), (), "network.")
        return NETWORK_HEAD + "DHCP=ipv4\n\n[DHCPv4]\nUseHostname=no\nClientIdentifier=mac\n", None
    if mode != "static":
        raise wrong("network.mode", mode, "dhcp or static")
    fields(network, ("mode", "address"), ("gateway", "dns"), "network.")
    text = NETWORK_HEAD + f"Address={one_line(network['address'], 'network.address')}\n"
    if network.get("gateway"):
        text += f"Gateway={one_line(network['gateway'], 'network.gateway')}\n"
    servers = [one_line(server, "network.dns") for server in typed(network.get("dns", []), list, "network.dns")]
    return text, "".join(f"nameserver {server}\n" for server in servers)


def open_ports(ports):
    """Return the rule that opens these TCP ports in the packet filter."""
    return f"add element inet vllmd tcp_open {{ {', '.join(map(str, sorted(set(ports))))} }}\n"


def plan(runtime, caches=()):
    """Check the whole document; return ({path: content}, {symlink: target}, host name).

    ``caches`` are the variables of a cache disk that is mounted, as pairs.
    """
    if runtime.get("schema_version") != 1 or runtime["schema_version"] is True:
        raise wrong("schema_version", runtime.get("schema_version"), "1, the version that this image knows")
    fields(runtime, FIELDS, OPTIONAL, "")
    one_line(runtime["uid"], "uid")
    cache_wishes(runtime)
    spelled(runtime["name"], NAME, "name")
    hostname = spelled(runtime["hostname"], NAME, "hostname")
    networkd, resolv = network_files(runtime["network"])
    files = {
        # JSON is YAML; vLLM reads it with --config.
        f"{RUN}/engine.yaml": json.dumps(engine_options(runtime), indent=1) + "\n",
        f"{RUN}/engine.env": environment_lines(runtime, caches),
        f"{RUN}/hosts": f"127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {hostname}\n",
        NETWORK_FILE: networkd,
    }
    ports = [runtime["api"]["port"]]
    if switches(runtime, "monitoring", ("node_exporter",)).get("node_exporter", True):
        files[MONITORING] = ""
        ports.append(NODE_EXPORTER_PORT)
    if "kubernetes" in runtime:
        if not os.path.isfile(JOIN):
            raise ConfigurationError(
                "runtime.json: kubernetes is given, but this image cannot join a cluster; "
                "build it with element vllmd-kubernetes-node"
            )
        # join.py checks it, and says what is wrong without the token in it.
        files[KUBERNETES] = json.dumps(typed(runtime["kubernetes"], dict, "kubernetes")) + "\n"
    links = {}
    if resolv is None:
        files[f"{RUN}/dhcp"] = ""
        links[f"{RUN}/resolv.conf"] = "/run/systemd/resolve/resolv.conf"
    else:
        files[f"{RUN}/resolv.conf"] = resolv
    keys = typed(runtime["ssh_authorized_keys"], list, "ssh_authorized_keys")
    if keys:
        text = "".join(one_line(key, "ssh_authorized_keys") + "\n" for key in keys)
        files[f"{RUN}/ssh/authorized_keys"] = text
        ports.append(SSH_PORT)
    files[f"{RUN}/firewall.d/runtime.nft"] = open_ports(ports)
    return files, links, hostname


def attach_caches(runtime):
    """Mount the cache disk when there is one, or one is wanted; return the engine's variables for it as pairs."""
    sys.path.insert(0, LIBRARY)  # -I leaves it out
    from vllmd_node import storage  # noqa: PLC0415 -- most guests have no such disk

    try:
        return tuple(storage.attach(storage.find(), cache_wishes(runtime), os.stat(CACHE).st_uid).items())
    except storage.CacheError as error:
        raise ConfigurationError(f"storage.cache is required: {error}") from error


def write(files, links, hostname):
    """Apply a plan. The environment may hold secrets: the engine's files are for root and the engine's group."""
    engine = os.stat(CACHE)
    engine_group = engine.st_gid
    os.makedirs(METRICS, mode=0o755, exist_ok=True)
    os.chown(METRICS, engine.st_uid, engine_group)
    try:
        write_files(files, engine_group)
    except OSError:
        for path in files:
            if os.path.exists(path):
                os.unlink(path)
        raise
    for path, target in links.items():
        if not os.path.islink(path):
            os.symlink(target, path)
    with open("/proc/sys/kernel/hostname", "w", encoding="utf-8") as stream:
        stream.write(hostname)


def write_files(files, engine_group):
    """Write the files, each with the owner and the mode that its readers need."""
    for path, content in files.items():
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(content)
        if path.startswith(f"{RUN}/engine."):
            os.chown(path, 0, engine_group)
            os.chmod(path, 0o640)
        elif path != KUBERNETES and not path.endswith("authorized_keys"):
            os.chmod(path, 0o644)


def main():
    """Configure the guest; return the exit status."""
    try:
        if not os.path.ismount(CONFIG_MOUNT):
            mount(find_volume(), CONFIG_MOUNT)
        runtime = load(f"{CONFIG_MOUNT}/vllmd/runtime.json")
        planned = plan(runtime)
        check_owner(runtime["uid"])
        caches = attach_caches(runtime) if "storage" in runtime or disks() > KNOWN_DISKS else ()
        write(*(plan(runtime, caches) if caches else planned))
    except ConfigurationError as error:
        print(f"vllmd: FAILED: {' '.join(str(error).split())}", flush=True)
        return 1
    except OSError as error:
        print(f"vllmd: FAILED: cannot configure the guest: {error.strerror} ({error.filename})", flush=True)
        return 1
    print(f"vllmd: configured runtime={runtime['name']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
