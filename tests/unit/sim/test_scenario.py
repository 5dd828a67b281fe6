import re
from pathlib import Path

import pytest

from golemp2p.errors import UsageError
from golemp2p.sim.main import WRONG_USE, main
from golemp2p.sim.scenario import load, parse, shipped

SHIPPED = (
    "chain-outage",
    "churn-30",
    "crash-while-paying",
    "first-offers",
    "flash-crowd",
    "free-riders",
    "offer-spam",
    "partition-heal",
    "price-war",
    "provider-crash",
    "requestor-crash",
    "sybil-eclipse",
    "ten-thousand",
    "tight-budget",
)


def test_all_promised_scenarios_are_shipped_and_say_what_they_are() -> None:
    found = shipped()
    assert set(SHIPPED) <= set(found)
    assert all(found.values())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_is_valid_and_has_its_own_name(name: str) -> None:
    assert load(name).name == name


def test_a_wrong_key_is_named() -> None:
    with pytest.raises(UsageError, match=r"mine\.toml: providers\.0\.speeed: Extra inputs"):
        parse('name = "x"\n[[providers]]\ncount = 1\nspeeed = 3\n', "mine.toml")


def test_what_is_no_toml_is_refused_with_its_name() -> None:
    with pytest.raises(UsageError, match=r"mine\.toml is no TOML: Invalid value"):
        parse("name = ", "mine.toml")


def test_an_unknown_scenario_is_answered_with_those_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frist-offers"]) == WRONG_USE
    assert "first-offers" in capsys.readouterr().err


def test_scaling_keeps_the_shares_and_every_group() -> None:
    scenario = load("free-riders").scaled(62)
    assert [group.count for group in scenario.providers] == [40, 6, 4]
    assert [group.count for group in load("free-riders").scaled(3).requestors] == [1, 1]


ONE = 'name = "x"\n[[providers]]\ncount = 3\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\n', "it has no nodes"),
        (ONE + "price = [5, 1]\n", "providers.0.price: from 5 to 1"),
        (ONE + "start_s = [9, 1]\n", "providers.0.start_s: from 9 to 1"),
        ('name = "x"\n[[requestors]]\ncount = 1\nbudget = "much"\n', "requestors.0.budget"),
        (ONE + '[[faults]]\nkind = "crash"\nat_s = 5\nwho = 3\n', "faults.0.who: there is no node 3 among 3"),
        (ONE + '[[faults]]\nkind = "crash"\nat_s = 150\n', "faults.0: this crash may last until 210 s"),
        (ONE + '[[faults]]\nkind = "partition"\nat_s = 150\n', "faults.0: this partition may last until 210 s"),
    ],
    ids=["no nodes", "price", "start", "budget", "fault's node", "late crash", "late partition"],
)
def test_a_scenario_that_cannot_be_meant_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=r"^mine\.toml: " + re.escape(said)):
        parse(text, "mine.toml")


def test_a_run_that_breaks_says_how_to_see_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("golemp2p.sim.main.simulate", breaks)
    with pytest.raises(ZeroDivisionError):
        main(["first-offers", "--nodes", "4", "--seed", "9"])
    assert "scripts/simulate first-offers --seed 9 --nodes 4" in capsys.readouterr().err


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no text in UTF-8"):
        load(str(path))


@pytest.mark.parametrize(
    "words",
    [("--sweep", "seeds=0"), ("--sweep", "seeds=9-3"), ("--until", "-5"), ("--until", "nan"), ("--log", "/proc/x/y")],
    ids=["no seed", "seeds backwards", "until before the start", "until never", "log nowhere"],
)
def test_options_under_which_nothing_would_be_looked_at_are_refused(words: tuple[str, str]) -> None:
    assert main(["first-offers", *words]) == WRONG_USE
