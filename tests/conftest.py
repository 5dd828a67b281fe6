"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling

from golemp2p.recursion import recursion_limit_kept
from tests.engine import Engine, open_engine

# Some tests import eth_account, and with it py_ecc: it must not raise the limit of the process under test.
with recursion_limit_kept():
    import eth_account  # noqa: F401


@pytest.fixture(scope="session")
def docker_engine() -> Iterator[Engine]:
    """A Docker engine of our own for all tests; a machine that cannot have one fails them."""
    with open_engine() as engine:
        yield engine


class OneProcessPerKind(LoadScopeScheduling):  # type: ignore[misc] # xdist ships no types
    """Of scripts/test: the clients' tests in one process, the end-to-end tests in one, the integration tests by area.

    They share networks and engines among themselves, and wait more than they compute. Unit tests fill what is left,
    file by file, so scripts/test keeps the order (--no-loadscope-reorder): the long ones first.
    """

    def _split_scope(self, nodeid: str) -> str:
        kind, _, rest = nodeid.removeprefix("tests/").partition("/")
        if kind == "integration":
            return f"{kind}/{rest.partition('/')[0]}"
        return kind if kind in ("e2e", "compat") else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> OneProcessPerKind:
    return OneProcessPerKind(config, log)


# --- once more --------------------------------------------------------------------------------------------------------
# Tests of real processes share two busy cores with each other. One that fails is run once more, its first failure is
# shown in full, and more than MAX_RERUNS of them in one run are a failure of the run. Unit tests have no second try.
MAX_RERUNS: Final = 3
_FAILED_ONCE: Final = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FAILED_ONCE] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.nodeid.startswith("tests/unit/"):
            item.add_marker(pytest.mark.flaky(reruns=1))


class _Reruns:
    """Where all reports arrive: also those of xdist's processes."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if str(report.outcome) == "rerun":  # rerunfailures' own word
            self._config.stash[_FAILED_ONCE].append((report.nodeid, report.longreprtext))


def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(_Reruns(session.config))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if len(session.config.stash[_FAILED_ONCE]) > MAX_RERUNS and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    failed = config.stash[_FAILED_ONCE]
    if not failed:
        return
    terminalreporter.section("failed at the first try", sep="=", yellow=True)
    for nodeid, text in failed:
        terminalreporter.section(nodeid, sep="_")
        terminalreporter.line(text)
    if len(failed) > MAX_RERUNS:
        terminalreporter.line(f"{len(failed)} tests needed a second try, at most {MAX_RERUNS} may", red=True)
