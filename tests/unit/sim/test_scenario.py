import pytest

from golemp2p.errors import UsageError
from golemp2p.sim.main import WRONG_USE, main
from golemp2p.sim.scenario import load, parse, shipped

SHIPPED = (
    "chain-outage",
    "churn-30",
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
