"""protocols/activity.md and its vectors are what the code does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from golemp2p.activity.transfers import Package, parse_package
from golemp2p.core.activity import ACTIVITY, BATCH, COMMAND_RULES, Results
from golemp2p.core.exescript import ScriptError, parse_script
from golemp2p.wire.p2p.activity import EventBody, event_body
from golemp2p.wire.rest.activity import Frames, result_body

PROTOCOLS = Path(__file__).parents[3] / "protocols"


@pytest.fixture
def vectors() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((PROTOCOLS / "vectors" / "activity.json").read_text())
    return loaded


def test_events_make_the_results_and_the_frames(vectors: dict[str, Any]) -> None:
    commands = parse_script(vectors["script"])
    results, frames = Results(commands), Frames(vectors["batch_id"], commands)
    made = []
    for item in vectors["events"]:
        body = {**item, "data": bytes.fromhex(item["data"])} if "data" in item else item
        event = EventBody.model_validate(body).to_event()
        assert event_body(item["seq"], event) == body
        results.add(event)
        made.append(frames.frame(item["seq"], event))
    assert made == vectors["frames"]
    assert [result_body(result) for result in results.done] == vectors["results"]


def test_bad_scripts_are_refused_in_these_words(vectors: dict[str, Any]) -> None:
    for text, complaint in vectors["refused"]:
        with pytest.raises(ScriptError) as caught:
            parse_script(text)
        assert caught.value.message == complaint


def test_packages_are_read_like_this(vectors: dict[str, Any]) -> None:
    for text, parts in vectors["packages"]:
        assert parse_package(text) == Package(*parts)


def test_the_document_shows_the_tables() -> None:
    document = (PROTOCOLS / "activity.md").read_text()
    assert ACTIVITY.diagram() in document
    assert BATCH.diagram() in document
    for (command, state), event in COMMAND_RULES.items():
        target = ACTIVITY.next(state, event) if event else "unchanged"
        assert f"| `{command}` | {state} | {target} |" in document
