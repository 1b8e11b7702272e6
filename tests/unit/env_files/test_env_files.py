"""Environment files are read as systemd reads them; the role's template writes what they read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.vllmd.platform.plugins.module_utils.env_files import EnvFileError, parse

TEMPLATES = Path(__file__).parents[3] / "roles/hypervisor/templates"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("A=1\n", {"A": "1"}),
        ("A=1", {"A": "1"}),
        ("  A = 1 \n", {"A": "1"}),
        ("# A=1\n; B=2\nC=3\n", {"C": "3"}),
        ("A=\n", {"A": ""}),
        ("A=one two  \n", {"A": "one two"}),
        ("A='one  '\n", {"A": "one  "}),
        ("A='back\\slash'\n", {"A": "back\\slash"}),
        ('A="say \\"hi\\" \\\\ \\$x \\`y\\` \\n"\n', {"A": 'say "hi" \\ $x `y` \\n'}),
        ('A="one\\\ntwo"\n', {"A": "onetwo"}),
        ("A=one\\\ntwo\n", {"A": "onetwo"}),
        ("A=\\'x\n", {"A": "'x"}),
        ("A=1\nA=2\n", {"A": "2"}),
        ("A=x # no comment here\n", {"A": "x # no comment here"}),
        ("A=$HOME\n", {"A": "$HOME"}),
        ('A="one" "two" three \n', {"A": "onetwothree"}),
        ('A=one"two"\n', {"A": 'one"two"'}),
        ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        ('A="one\ntwo"\n', {"A": "one\ntwo"}),
        ("A=one\\ \n", {"A": "one "}),
    ],
)
def test_reads_as_systemd_does(text: str, expected: dict[str, str]) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("export A=1\n", "x.env line 1: 'export A' is no variable name"),
        ("A=1\n\n1B=2\n", "x.env line 3: '1B' is no variable name"),
        ("A=1\nnothing\n", "x.env line 2: no NAME=value"),
        ("=1\n", "x.env line 1"),
    ],
)
def test_says_which_line_is_wrong(text: str, said: str) -> None:
    with pytest.raises(EnvFileError, match="^" + said):
        parse(text, "x.env")


@given(st.text())
def test_any_text_gives_variables_or_one_line(text: str) -> None:
    try:
        parse(text)
    except EnvFileError as error:
        assert "\n" not in str(error)


@settings(deadline=None)  # the first rendering loads Ansible's filters
@given(st.dictionaries(st.from_regex(r"\A[A-Z_]{1,20}\Z"), TEXT, max_size=5))
def test_template_writes_what_is_read_back(values: dict[str, str]) -> None:
    template = trust_as_template((TEMPLATES / "runtime.env.j2").read_text())
    variables = {"ansible_managed": "managed", "__hypervisor_environment": values}
    assert parse(str(Templar(DataLoader(), variables).template(template, escape_backslashes=False))) == values
