"""A new image reaches every replica without a failed request; one that does not answer right reaches none for long."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import Clients, named, play, publish, replicas

ALL = ["amber", "amber.1", "birch"]


def amber_urls() -> list[str]:
    """Where clients of amber ask."""
    return [each.url for name, each in sorted(replicas().items()) if name.startswith("amber")]


def test_without_anything_new_nothing_is_replaced() -> None:
    outcome = play("update.yml")
    assert (outcome.returncode, outcome.changed) == (0, 0), outcome.output


def test_a_rolling_update_costs_no_request() -> None:
    publish("two")
    with Clients(amber_urls()) as clients:
        outcome = play("update.yml")
    assert outcome.returncode == 0, outcome.output
    assert clients.failures == []
    assert {answer.split()[1] for answer in clients.answers} == {"one", "two"}
    for name in ALL:
        assert named(name).ask() == "release two heard: who?"


def test_the_update_is_done() -> None:
    outcome = play("update.yml")
    assert (outcome.returncode, outcome.changed) == (0, 0), outcome.output


@pytest.mark.drill
def test_an_image_that_answers_wrongly_is_taken_back() -> None:
    publish("silent")
    with Clients(amber_urls()) as clients:
        outcome = play("update.yml", vllmd_runtime_names=["amber", "amber.1"])
    assert outcome.returncode != 0
    assert clients.failures == []
    # What was seen, then what was done about it.
    said = [line for line in outcome.output.splitlines() if "FAILED" in line]
    assert len(said) == 2, outcome.output
    assert "its completion is ''" in said[0]
    assert "amber was rolled back, and serves as before" in said[1]
    for name in ALL:
        assert named(name).ask() == "release two heard: who?"


@pytest.mark.drill
@pytest.mark.parametrize("playbook", ["update.yml", "start.yml"])
def test_what_was_refused_is_not_tried_again(playbook: str) -> None:
    outcome = play(playbook, vllmd_runtime_names=["amber", "amber.1"])
    for name in ("amber", "amber.1"):
        assert named(name).ask() == "release two heard: who?"
    assert outcome.returncode == 0, outcome.output
