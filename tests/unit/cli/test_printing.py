"""What strangers wrote reaches a terminal as text, never as commands to it or to rich."""

from __future__ import annotations

import pytest
import structlog

from golemp2p.cli.common import facts, printable, say, table
from golemp2p.log import harmless

EVIL = "\x1b]0;owned\x07\x1b[2J\r\u202e[/x] [bold]\x9b"


def is_harmless(text: str) -> bool:
    return all(c.isprintable() or c in "\n\t" for c in text)


def test_commands_are_shown_and_all_else_stays() -> None:
    assert printable("Zürich 東京 🙂\n\tx [a]") == "Zürich 東京 🙂\n\tx [a]"
    assert printable("\x1b[2J\u202e\x9b") == "\\x1b[2J\\u202e\\x9b"


def test_tables_facts_and_messages_show_foreign_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    table(("provider", "why"), [(EVIL, "[/no] such tag")], title=EVIL)
    facts([("about", EVIL)])
    say(EVIL)
    shown = capsys.readouterr()
    assert is_harmless(shown.out)
    assert is_harmless(shown.err)
    assert "[/x] [bold]" in shown.out
    assert "[/no] such tag" in shown.out


def test_a_log_for_a_terminal_gives_it_no_commands() -> None:
    event = harmless(None, "info", {"event": "refused", "reason": EVIL, "count": 3})
    line = structlog.dev.ConsoleRenderer(colors=False)(None, "info", event)
    assert is_harmless(str(line))
    assert event["count"] == 3
