"""The report as a whole: verdict, score, order, comparison, files; and nothing a host says can steer its reader."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ansible_collections.vllmd.platform.plugins.module_utils.checks import html, store
from ansible_collections.vllmd.platform.plugins.module_utils.checks.compare import EarlierReportError, compare
from ansible_collections.vllmd.platform.plugins.module_utils.checks.model import REGISTRY, STATUSES, check
from ansible_collections.vllmd.platform.plugins.module_utils.checks.policy import PolicyError, make_policy
from ansible_collections.vllmd.platform.plugins.module_utils.checks.run import run_checks
from ansible_collections.vllmd.platform.plugins.module_utils.checks.text import table
from ansible_collections.vllmd.platform.plugins.module_utils.host.model import Host, PciDevice
from tests.support.healthy_host import GPU, GPUS, added_device, both, changed, changed_device, healthy_host

SCHEMA = json.loads(
    (Path(__file__).parents[3] / "plugins/module_utils/schemas/precheck-v1.schema.json").read_text(encoding="utf-8")
)
HOSTILE = "<script>alert(1)</script>\"'>\x1b[31m\x00\u202e"


def report_of(host: Host, name: str = "gpu-01", **policy: Any) -> dict[str, Any]:
    report = {"host": name, "checked": "2026-01-02T03:04:05Z", **run_checks(host, make_policy(policy)).as_dict()}
    jsonschema.validate(report, SCHEMA, cls=jsonschema.Draft202012Validator)
    return report


def warned() -> Host:
    return changed("numa", balancing=True)(healthy_host())


def failed() -> Host:
    return changed("iommu", groups={})(healthy_host())


@pytest.mark.parametrize(
    ("host", "policy", "verdict", "exit_status"),
    [
        (healthy_host(), {"strict": True}, "ready", 0),
        (warned(), {}, "warnings", 0),
        (warned(), {"strict": True}, "warnings", 1),
        (failed(), {}, "not ready", 2),
        (failed(), {"strict": True}, "not ready", 2),
        (warned(), {"strict": True, "accept": ["numa-balancing"]}, "ready", 0),
    ],
)
def test_verdict_and_exit_status(host: Host, policy: dict[str, Any], verdict: str, exit_status: int) -> None:
    report = report_of(host, **policy)
    assert (report["verdict"], report["exit_status"]) == (verdict, exit_status)


def test_score_falls_with_severity_and_ignores_what_was_not_decided() -> None:
    scores = [report_of(host)["score"] for host in (healthy_host(), warned(), failed())]
    assert scores[0] == 100 > scores[1] > scores[2]
    assert report_of(healthy_host())["scores"]["confidential"] is None


def test_most_urgent_findings_stand_first() -> None:
    order = [STATUSES.index(finding["status"]) for finding in report_of(failed())["findings"]]
    assert order == sorted(order)


def test_equal_findings_about_several_devices_are_one_line_with_one_remedy() -> None:
    asleep = both(*(changed_device(bdf, power_state="D3cold") for bdf in GPUS))(healthy_host())
    found = [finding for finding in report_of(asleep)["findings"] if finding["id"] == "power-state"]
    assert [finding["subjects"] for finding in found] == [list(GPUS)]
    assert " ".join(GPUS) in found[0]["remedy"]


def test_a_check_that_breaks_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_host: Host, _policy: Any) -> Any:
        raise ZeroDivisionError("oops")

    monkeypatch.setitem(REGISTRY, "uefi", replace(REGISTRY["uefi"], examine=breaks))
    monkeypatch.setattr(breaks, "__module__", REGISTRY["bare-metal"].examine.__module__)
    found = {finding["id"]: finding for finding in report_of(healthy_host())["findings"]}
    assert found["uefi"]["status"] == "SKIP"
    assert "please report it: ZeroDivisionError: oops" in found["uefi"]["evidence"]
    assert found["kvm-works"]["status"] == "PASS"


def test_an_id_is_registered_once() -> None:
    with pytest.raises(ValueError, match="check uefi is registered twice"):
        check("uefi", "platform", "again", why="", reference="")(lambda _host, _policy: [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"acceleratorcount": 1}, "policy key acceleratorcount: unknown; did you mean accelerator_count?"),
        ({"x": 1}, "policy key x: unknown; allowed: accelerator_vendors, "),
        ({"strict": 1}, "policy key strict: found 1; true or false is wanted"),
        ({"minimum_cpus": "8"}, "policy key minimum_cpus: found '8'; a whole number is wanted"),
        ({"minimum_cpus": True}, "policy key minimum_cpus: found True; a whole number is wanted"),
        ({"minimum_cpus": -1}, "policy key minimum_cpus: found -1; zero or more is wanted"),
        ({"kvm": "maybe"}, "policy key kvm: found 'maybe'; allowed: required, preferred"),
        ({"accelerator_vendors": "10de"}, "a list of strings is wanted"),
        (
            {"accelerator_except": ["01:00.0"]},
            "policy key accelerator_except: found '01:00.0'; each",
        ),
        ({"accept": ["uefi;"]}, "policy key accept: found 'uefi;'"),
    ],
)
def test_a_wrong_policy_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError) as refused:
        make_policy(given)
    assert message in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_accepting_a_check_that_does_not_exist_is_refused() -> None:
    with pytest.raises(PolicyError, match="accept: no check is called secureboot; did you mean secure-boot"):
        report_of(healthy_host(), accept=["secureboot"])


def test_ids_are_case_insensitive_and_names_are_not() -> None:
    policy = make_policy({"accelerator_vendors": ["10DE"], "runtime_user": "Vllm"})
    assert (policy.accelerator_vendors, policy.runtime_user) == (("10de",), "Vllm")


def test_changes_are_those_of_status_alone() -> None:
    before = report_of(healthy_host())
    less_memory = changed("memory", available_bytes=1)(warned())
    assert compare(before, before) == []
    assert compare(before, report_of(less_memory)) == [
        {"id": "numa-balancing", "subject": "", "before": "PASS", "after": "WARN", "evidence": "on, with 2 nodes"}
    ]


def test_a_device_that_is_gone_is_a_change() -> None:
    host = healthy_host()
    devices = {bdf: device for bdf, device in host.pci.devices.items() if bdf != GPU}
    changes = compare(report_of(host), report_of(replace(host, pci=replace(host.pci, devices=devices))))
    gone = [change for change in changes if change["subject"] == GPU]
    assert gone and all((change["before"], change["after"]) == ("PASS", "") for change in gone)


@pytest.mark.parametrize("earlier", [{}, {"schema_version": 9, "findings": []}, {"schema_version": 1, "findings": [1]}])
def test_what_is_no_report_is_not_compared_with(earlier: dict[str, Any]) -> None:
    with pytest.raises(EarlierReportError):
        compare(earlier, report_of(healthy_host()))


def test_table_says_failures_first_and_each_remedy_below() -> None:
    lines = table(report_of(failed()))
    assert lines[0] == f"gpu-01: NOT READY, score {report_of(failed())['score']} of 100"
    first = next(number for number, line in enumerate(lines) if line.startswith("FAIL"))
    assert lines[first - 1].startswith("STATUS")
    assert "iommu-enabled" in lines[first] and "no IOMMU groups" in lines[first]
    assert lines[first + 1].strip().startswith("remedy: echo 'GRUB_CMDLINE_LINUX=")
    assert not [line for line in table(report_of(failed()), "problems") if line.startswith(("PASS", "INFO", "SKIP"))]


class _Page(HTMLParser):
    """Collects what a browser would load or run, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)
        names = dict(attrs)
        self.outside += [f"{tag} {name}" for name in ("src", "data", "srcset", "onload", "onclick") if name in names]
        self.outside += [tag] if tag in ("script", "link", "iframe", "object", "img", "base", "form") else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, (self.open[-3:], tag)
        self.open.pop()


def hostile() -> Host:
    card = PciDevice(
        bdf="0000:11:00.1", vendor_id=HOSTILE, device_id=HOSTILE, class_code=0x040300, driver=HOSTILE, iommu_group=20
    )
    return both(added_device(card), changed("system", os_name=HOSTILE, vendor=HOSTILE))(healthy_host())


@pytest.mark.parametrize(
    "host", [healthy_host(), failed(), hostile(), Host()], ids=["healthy", "failed", "hostile", "unknown"]
)
def test_page_is_well_formed_and_loads_and_runs_nothing(host: Host) -> None:
    report = {**report_of(host, HOSTILE), "changes": [], "compared_with": HOSTILE}
    for text in (html.host_page(report), html.fleet_page([report], [HOSTILE])):
        page = _Page(text)
        assert not page.outside
        assert "default-src 'none'" in text
        assert not [char for char in text if not char.isprintable() and char != "\n"]
    assert all(line.isprintable() for line in table(report))


def test_drawing_shows_each_accelerator_its_node_and_its_group() -> None:
    page = html.host_page(report_of(healthy_host()))
    for number, bdf in enumerate(GPUS):
        assert f"{bdf} 3D controller 10de:2330" in page
        assert f">group {20 + number}<" in page
    assert "NUMA node 1: CPUs 32-63, 512 GiB" in page


def test_drawing_marks_a_shared_group() -> None:
    neighbour = PciDevice(bdf="0000:12:00.0", vendor_id="144d", class_code=0x010802, iommu_group=20, numa_node=0)
    page = html.host_page(report_of(added_device(neighbour)(healthy_host())))
    assert page.count(">group 20 shared<") == 2
    assert 'class="bracket"' in page


def test_files_of_a_report(tmp_path: Path) -> None:
    report = report_of(healthy_host(), "gpu/01")
    paths = store.save(report, tmp_path / "reports")
    assert sorted(path.suffix for path in paths) == [".html", ".json", ".txt"]
    assert {path.parent for path in paths} == {tmp_path / "reports"}
    assert all(path.stat().st_mode & 0o777 == 0o640 for path in paths)
    assert store.compared(report, paths[0])["changes"] == []


def test_hosts_never_share_a_file() -> None:
    names = ["gpu-01", "gpu/01", "gpu_01", "index", "fleet", "..", "", "gpu-01.example.com"]
    assert len({store.stem(name) for name in names}) == len(names)
    assert not {store.stem(name) for name in names} & {"index", "fleet", "", ".."}


@pytest.mark.parametrize("content", ["", "[]", "{}", "\udcff"])
def test_a_saved_report_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "host.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(store.ReportError, match="remove it, or give another one") as refused:
        store.load(path)
    assert len(str(refused.value).splitlines()) == 1


def test_fleet_is_as_ready_as_its_worst_host(tmp_path: Path) -> None:
    reports = [report_of(healthy_host(), "a"), report_of(failed(), "b"), report_of(warned(), "c", strict=True)]
    assert [store.fleet(reports[:1], [])["exit_status"], store.fleet(reports, [])["exit_status"]] == [0, 2]
    assert store.fleet([reports[0], reports[2]], [])["exit_status"] == 1
    assert store.fleet(reports[:1], ["d"])["verdict"] == "not ready"
    assert [line.split()[0] for line in store.fleet_lines(reports, ["d"])] == ["HOST", "d", "b", "c", "a"]
    page, data = store.save_fleet(reports, ["d"], tmp_path)
    assert "No report from:</b> d" in page.read_text(encoding="utf-8")
    assert json.loads(data.read_text(encoding="utf-8"))["hosts"]["b"]["verdict"] == "not ready"
