"""10,000 generated environments: each becomes a Config or one-line errors, never anything else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from vllmd_hypervisor.config import DEFAULTS, PREFIX, Config, parse_config, parse_identity
from vllmd_hypervisor.devices import normalise_bdf
from vllmd_hypervisor.errors import ConfigError, one_line
from vllmd_hypervisor.memory import Memory

# Plausible pieces, glued at random, reach deeper into the parsers than random text does.
PIECES = (
    *("size", "shared", "hugepages", "hugepage_size", "hotplug_size", "mergeable", "prefault", "thp", "zones"),
    *("mode", "user", "tap", "none", "forward", "bridge", "mac", "127.0.0.1", "8000", "22", "52:54:00:12:34:56", "br0"),
    *(
        "on",
        "off",
        "auto",
        "qemu",
        "kvm",
        "tcg",
        "cloud-hypervisor",
        "16G",
        "512M",
        "2M",
        "1T",
        "4096",
        "0",
        "-1",
        "1e9",
    ),
    *(
        "four",
        "1024",
        "/dev/vfio/10",
        "0000:01:00.0",
        "/k",
        "r1",
        "..",
        "/dev/stdout",
        "x" * 120,
        "=",
        ",",
        ":",
        "/",
        " ",
    ),
    *("\n", "\0", "\udcff", "\ud800", "é", "٤", "%s", "{}", "$HOME", "`id`", "\N{WAVING HAND SIGN}"),
)
NAMES = (*(PREFIX + name for name in DEFAULTS), "XDG_RUNTIME_DIR", PREFIX + "CPUS", PREFIX, PREFIX + "\n")
REQUIRED = {PREFIX + name: "/k" for name in ("KERNEL_FILEPATH", "SYSTEM_IMAGE_FILEPATH", "CONFIG_IMAGE_FILEPATH")}


def environment_from(recipe: bytes, text: str) -> dict[str, str]:
    """Read a recipe: which variable, of how many pieces, which pieces, and so on. One draw of bytes is ten times faster
    than a draw for each choice, and shrinks just as well. `text` is one more piece, of any characters.
    """
    choices = iter(recipe)
    environment = dict(REQUIRED)
    for choice in choices:
        count = next(choices, 0) % 6
        pieces = [(*PIECES, text)[next(choices, 0) % (len(PIECES) + 1)] for _ in range(count)]
        environment[NAMES[choice % len(NAMES)]] = "".join(pieces)
    return environment


@settings(max_examples=10_000, deadline=None, database=None)
@given(st.binary(max_size=40), st.text(st.characters(), max_size=8), st.sampled_from([0, 1000]))
def test_an_environment_is_a_config_or_one_line_errors(recipe: bytes, text: str, uid: int) -> None:
    for parse in (parse_config, parse_identity):
        try:
            result = parse(environment_from(recipe, text), uid)
        except ConfigError as error:
            assert error.problems
            for problem in error.problems:
                assert problem == one_line(problem) != ""
                problem.encode()
        else:
            if isinstance(result, Config):
                _check(result)


def _check(config: Config) -> None:
    assert 1 <= config.cpu_count <= 1024
    assert isinstance(config.memory, Memory)
    assert config.memory.size % 4096 == 0
    assert all(path.is_absolute() for path in (config.kernel, config.system_image, config.config_image))
    assert "/" not in config.identity.name not in ("", ".", "..")


@settings(max_examples=500, deadline=None, database=None)
@given(st.text(st.characters(), max_size=20))
def test_a_pci_address_is_canonical_or_none(text: str) -> None:
    bdf = normalise_bdf(text)
    assert bdf is None or normalise_bdf(bdf) == bdf
