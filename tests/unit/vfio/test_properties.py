"""500 random hosts, whole and spoiled: decisions are safe by the truth, and there is always an exact way back."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host
from ansible_collections.vllmd.platform.plugins.module_utils.host.read import read_host
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.choose import SelectionError
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.outcome import Options, Outside
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.plan import Request
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.record import BOUND
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.refuse import Policy
from ansible_collections.vllmd.platform.plugins.module_utils.vfio.run import Run
from tests.support.hosts import GPU, VGA
from tests.support.simulated_sysfs import Deaths, Killed, MemoryStore, SimulatedSysfs
from tests.support.trees import Tree, materialise
from tests.unit.vfio.generated import Generated, generate

SETTINGS = settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)


# Drawn by a seed and not choice by choice: hypothesis prefers small and odd values, and hardly any host would be bound.
SEEDS = st.integers(0, 2**32 - 1)
# Hundreds of hosts of hundreds of files: in memory where the machine has a file system for that.
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def host_of(tree: Tree) -> Host:
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        return read_host(str(materialise(tree, Path(directory))))


class NoServices:
    def stop(self, unit: str) -> None:
        raise AssertionError(f"{unit} was to be stopped")

    def start(self, unit: str) -> None:
        raise AssertionError(f"{unit} was to be started")


def request_for(random: Random, made: Generated) -> Request:
    """A random request: mostly everything of the vendor, sometimes an address, an id or a class, whatever is there."""
    bdfs = sorted(made.ids)
    devices = random.choice(
        (
            *(("all",),) * 6,
            (random.choice(sorted(made.ids.values())),),
            (f"class:{made.classes[random.choice(bdfs)] >> 8:04x}",),
            ("class:01",),
            (random.choice(bdfs),),
            tuple(random.sample(bdfs, min(2, len(bdfs)))),
        )
    )
    exclude = (random.choice(bdfs),) if random.random() < 0.2 else ()
    return Request(devices, exclude, random.random() < 0.3, Policy())


def asked_for(request: Request, made: Generated) -> set[str]:
    """By the truth: what the request names, and the other functions of those cards."""
    named = set()
    for bdf, ids in made.ids.items():
        code = f"class:{made.classes[bdf]:06x}"
        for selector in request.devices:
            accelerator = ids.startswith("10de") and (
                made.classes[bdf] in (GPU, VGA) or (request.nvswitches and made.classes[bdf] >> 8 == 0x0680)
            )
            if selector in (bdf, ids) or code.startswith(selector) or (selector == "all" and accelerator):
                named.add(bdf)
    cards = {bdf[:-1] for bdf in named}
    return {bdf for bdf in made.ids if bdf[:-1] in cards}


def outside(host: Host, sysfs: SimulatedSysfs, store: MemoryStore, root: Path) -> Outside:
    """The host as its files told, with the drivers that the kernel has now."""

    def read() -> Host:
        devices = {
            bdf: replace(device, driver=sysfs.functions[bdf].driver, driver_override=sysfs.functions[bdf].override)
            if bdf in sysfs.functions
            else device
            for bdf, device in host.pci.devices.items()
        }
        return replace(host, pci=replace(host.pci, devices=devices))

    return Outside(sysfs, store, read, NoServices(), root)


@SETTINGS
@given(SEEDS, st.booleans())
def test_decisions_are_safe_and_reversible(seed: int, garbage: bool) -> None:
    random = Random(seed)  # noqa: S311 - to be reproducible, not secret
    made = generate(random, garbage=garbage)
    request = request_for(random, made)
    host = host_of(made.tree)
    sysfs, store = SimulatedSysfs(made.functions), MemoryStore()
    before = sysfs.state()
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        here = outside(host, sysfs, store, Path(directory))
        options = Options(request=request)
        try:
            outcome = Run(here, options).bind()
        except SelectionError as error:
            event("nothing selected")
            assert len(str(error).splitlines()) == 1
            assert sysfs.writes == []
            return
        assert all(len(line.splitlines()) == 1 for line in outcome.errors)
        touched = {path.split("/")[3] for path, _text in sysfs.writes if "/devices/" in path}
        assert not touched & made.vital
        assert touched <= asked_for(request, made)
        assert not touched & set(request.exclude)
        if outcome.refusals:
            event("refused")
            assert (sysfs.writes, sysfs.state()) == ([], before)
            return
        for group in outcome.groups:
            event(str(group["action"]))
            devices = group["devices"]
            if group["action"] in ("bound", "unchanged"):
                assert all(sysfs.functions[bdf].driver == "vfio-pci" for bdf in devices)
            else:
                assert group["action"] == "rolled_back"
                assert all(sysfs.state()[bdf] == before[bdf] for bdf in devices)
        again = Run(here, options).bind()
        assert again.changed is bool(outcome.errors), "a second run changes nothing"
        for function in sysfs.functions.values():
            function.polls_to_leave = min(function.polls_to_leave, 3)
        back = Run(here, Options(request=replace(request, devices=(), exclude=()))).give_back()
        assert back.errors == []
        assert sysfs.state() == before
        assert [path for path in Path(directory).rglob("*") if not path.is_dir()] == []


@SETTINGS
@given(SEEDS)
def test_a_kill_leaves_a_way_to_bound_or_unbound(seed: int) -> None:
    random = Random(seed)  # noqa: S311 - to be reproducible, not secret
    made = generate(random, garbage=False)
    host = host_of(made.tree)
    sysfs, store = SimulatedSysfs(made.functions), MemoryStore()
    before = sysfs.state()
    with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
        here = outside(host, sysfs, store, Path(directory))
        options = Options(request=Request(("all",)))
        sysfs.deaths = store.deaths = Deaths(random.randint(1, 30), random.random() < 0.5)
        try:
            Run(here, options).bind()
        except Killed:
            event("killed")
        except SelectionError:
            return
        sysfs.deaths = store.deaths = Deaths()
        bound = random.random() < 0.5
        if bound:
            Run(here, options).bind()
            for group in store.load().groups:
                assert group.phase == BOUND
                assert all(sysfs.functions[bdf].driver == "vfio-pci" for bdf in group.bdfs)
            kept = {bdf for group in store.load().groups for bdf in group.bdfs}
            assert all(state == before[bdf] for bdf, state in sysfs.state().items() if bdf not in kept)
        for function in sysfs.functions.values():
            function.polls_to_leave = min(function.polls_to_leave, 3)
        Run(here, Options(request=Request(()))).give_back()
        assert sysfs.state() == before
