"""The pytest plugin of the contract suite: which backends it runs over, and which of its tests each of them skips."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import pytest

from asyncflow_hpc.errors import UnknownBackendError, nearest
from asyncflow_hpc.registry import backend_names, load_backend, make_backend

from . import hooks, summary
from .under_test import FEATURES, BackendUnderTest

__all__ = ["skip_where_lacking"]

SUITE = "asyncflow_hpc.testing.contract"

pytest.register_assert_rewrite(SUITE)

FIXTURE = "backend_under_test"

# Seconds that a test may take, unless a mark `timeout` says otherwise.
LIMIT = 120.0

_backends = pytest.StashKey[dict[str, BackendUnderTest]]()
_refused = pytest.StashKey[pytest.UsageError]()


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Declare the hook with which a conftest.py names its backends."""
    pluginmanager.add_hookspecs(hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that picks backends."""
    parser.getgroup("asyncflow_hpc").addoption(
        "--asyncflow-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="run the contract suite over this backend only: one of a conftest.py, or a registered one; repeatable",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark of what a test needs."""
    config.addinivalue_line("markers", "needs(*features): skipped for a backend that lacks one of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each contract test over every backend."""
    if FIXTURE not in metafunc.fixturenames:
        return
    config = metafunc.config
    if _backends not in config.stash:
        config.stash[_backends] = {}
        try:
            config.stash[_backends] = _chosen(config)
        except pytest.UsageError as error:
            # Raised here, it would be told once for each module.
            config.stash[_refused] = error
    found = config.stash[_backends]
    if found:
        metafunc.parametrize(FIXTURE, list(found.values()), ids=list(found), indirect=True)


def _chosen(config: pytest.Config) -> dict[str, BackendUnderTest]:
    known: dict[str, BackendUnderTest] = {}
    for answer in config.hook.pytest_asyncflow_backends():
        for name, under_test in answer.items():
            if name in known:
                raise pytest.UsageError(f"pytest_asyncflow_backends: {name!r} is given twice")
            _check_skips(name, under_test.skips)
            known[name] = under_test
    wanted = config.getoption("--asyncflow-backend")
    if not known and not wanted:
        raise pytest.UsageError(
            "no backend to run the contract suite over: give --asyncflow-backend NAME,"
            " or write a hook pytest_asyncflow_backends in conftest.py"
        )
    return {name: known.get(name) or _registered(name, known) for name in wanted} if wanted else known


def _check_skips(name: str, skips: Mapping[str, str]) -> None:
    # A skip that outlives the test it was for would hide the next test of that name.
    unknown = [key for key in skips if key not in FEATURES and key not in _names_of_tests()]
    if unknown:
        raise pytest.UsageError(f"skips of backend {name!r}: the suite has no {', '.join(unknown)}")


@functools.cache
def _names_of_tests() -> frozenset[str]:
    modules = [item.name for item in pkgutil.iter_modules(import_module(SUITE).__path__)]
    tests = (vars(import_module(f"{SUITE}.{module}")) for module in modules if module.startswith("test_"))
    return frozenset(name for module in tests for name in module if name.startswith("test_"))


def _registered(name: str, known: Mapping[str, BackendUnderTest]) -> BackendUnderTest:
    try:
        load_backend(name)
    except UnknownBackendError:
        hint = nearest(name, [*known, *backend_names()])
        raise pytest.UsageError(f"--asyncflow-backend: no backend is called {name!r}; {hint}") from None
    return BackendUnderTest(make=functools.partial(make_backend, name))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each contract test its time limit."""
    if _refused in config.stash:
        raise config.stash[_refused]
    for item in items:
        under_test = _under_test(item)
        if under_test is not None:
            own = item.get_closest_marker("timeout")
            seconds = (own.args[0] if own else LIMIT) * under_test.patience
            item.add_marker(pytest.mark.timeout(seconds), append=False)


def _under_test(item: pytest.Item) -> BackendUnderTest | None:
    spec = getattr(item, "callspec", None)
    return spec.params.get(FIXTURE) if spec is not None else None


def skip_where_lacking(item: pytest.Item, under_test: BackendUnderTest, backend: Any) -> None:
    """Skip a test that needs what a backend lacks, and note why for the list at the end.

    Args:
        item: the test.
        under_test: what is told about the backend.
        backend: made by it.
    """
    name = next(key for key, value in item.config.stash[_backends].items() if value is under_test)
    item.user_properties.append((summary.RAN_ON, name))
    marks = reversed(list(item.iter_markers("needs")))
    test = getattr(item, "originalname", item.name)
    for feature in [*(feature for mark in marks for feature in mark.args), test]:
        reason = under_test.skips.get(test) if feature == test else under_test.lacks(feature, backend)
        if reason is not None:
            item.user_properties.append((summary.LACKED, feature))
            pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what each backend skips."""
    lines = summary.lines(report for reports in terminalreporter.stats.values() for report in reports)
    if lines:
        terminalreporter.write_sep("=", "contract: what each backend skips")
        for line in lines:
            terminalreporter.write_line(line)
