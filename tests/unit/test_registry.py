"""Backends by name: those of this project, and third-party ones in whatever state they are in."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asyncflow_hpc.backend import BaseExecutionBackend
from asyncflow_hpc.errors import ConfigurationError, UnknownBackendError
from asyncflow_hpc.registry import GROUP, backend_names, broken_backends, load_backend, make_backend

Install = Callable[..., None]

GOOD = """
    from asyncflow_hpc.backend import BaseExecutionBackend

    class Backend(BaseExecutionBackend):
        def __init__(self, name="other", site=None):
            super().__init__(name)
            self.site = site

        async def submit_tasks(self, tasks): ...
        async def cancel_task(self, uid): return False
        async def shutdown(self): ...
"""

# As a backend of another project may be: it follows the contract and derives from nothing of ours.
FOREIGN = """
    class Backend:
        name = "foreign"
        def submit_tasks(self, tasks): ...
        def cancel_task(self, uid): ...
        def shutdown(self): ...
        def register_callback(self, func): ...
        def get_task_states_map(self): ...
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a distribution with one module and one entry point, as pip would leave it."""
    before = set(sys.modules)
    count = 0

    def installed(name: str, source: str | None, value: str = "{module}:Backend", group: str = GROUP) -> None:
        nonlocal count
        count += 1
        directory, module = tmp_path / f"site{count}", f"plugin_of_a_third_party_{count}"
        info = directory / f"{module}-1.{count}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.{count}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {value.format(module=module)}\n")
        if source is not None:
            lines = source.splitlines()
            (directory / f"{module}.py").write_text("\n".join(line.removeprefix("    ") for line in lines) + "\n")
        # Behind what is installed already, as a second directory of packages is.
        monkeypatch.setattr(sys, "path", [*sys.path, str(directory)])

    yield installed
    for name in set(sys.modules) - before:
        if name.startswith("plugin_of_a_third_party_"):
            del sys.modules[name]


def test_the_backends_of_this_project_are_there() -> None:
    assert {"local", "noop"} <= set(backend_names())
    assert backend_names() == sorted(backend_names())
    assert not {"local", "noop"} & set(broken_backends())


@pytest.mark.parametrize("name", ["local", "noop"])
def test_they_load_as_backends(name: str) -> None:
    cls = load_backend(name)
    assert isinstance(cls, type) and issubclass(cls, BaseExecutionBackend)
    assert load_backend(name) is cls


def test_a_backend_is_made_with_its_options() -> None:
    made = make_backend("noop", name="mine")
    assert type(made) is load_backend("noop") and made.name == "mine"
    assert make_backend("noop") is not make_backend("noop")
    with pytest.raises(TypeError, match="no_such_option"):
        make_backend("noop", no_such_option=1)


@pytest.mark.parametrize("ask", [load_backend, make_backend])
def test_an_unknown_name_is_answered_with_the_nearest(ask: Callable[[str], object]) -> None:
    with pytest.raises(UnknownBackendError, match="no backend is called 'locall'; did you mean 'local'") as caught:
        ask("locall")
    assert isinstance(caught.value, KeyError) and isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("name", ["zzzzzz", "", "LOCAL/../x", "asyncflow_hpc.backends.local"])
def test_a_name_like_no_other_is_answered_with_all(name: str) -> None:
    with pytest.raises(UnknownBackendError) as caught:
        load_backend(name)
    assert repr(name) in str(caught.value) and "local" in str(caught.value)


@pytest.mark.parametrize("source", [GOOD, FOREIGN], ids=["ours", "foreign"])
def test_a_third_party_backend_is_found(install: Install, source: str) -> None:
    install("other", source)
    assert "other" in backend_names() and "other" not in broken_backends()
    assert make_backend("other").name in ("other", "foreign")
    with pytest.raises(UnknownBackendError, match="'other'"):
        load_backend("othr")


def test_its_options_reach_it(install: Install) -> None:
    install("other", GOOD)
    assert make_backend("other", site="cluster").site == "cluster"


def test_an_entry_of_another_group_is_no_backend(install: Install) -> None:
    install("other", GOOD, group="somebody.elses")
    assert "other" not in backend_names()


BROKEN = {
    "needs a missing package": "import a_package_that_nobody_has",
    "raises": "raise RuntimeError('license server is down')",
    "is no Python": "def (",
    "lacks the class": "backend = 1",
    "lacks its module": None,
}


@pytest.mark.parametrize("source", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_plugin_is_reported_and_not_fatal(
    install: Install, source: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    install("broken", source)
    install("other", GOOD)
    assert {"broken", "other", "local", "noop"} <= set(backend_names())
    with caplog.at_level(logging.WARNING):
        broken = broken_backends()
    assert set(broken) == {"broken"}
    assert isinstance(broken["broken"], ConfigurationError)
    assert "'broken' (plugin_of_a_third_party_1:Backend)" in str(broken["broken"])
    assert str(broken["broken"]) in caplog.text
    assert make_backend("other").name == "other" and make_backend("noop").name == "noop"
    with pytest.raises(ConfigurationError, match="'broken'") as caught:
        load_backend("broken")
    assert not isinstance(caught.value, UnknownBackendError), "it is known, and does not work"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("value", ["{module}", "not a reference", "{module}:Backend.inner.deeper"])
def test_an_entry_that_refers_to_nothing_of_use(install: Install, value: str) -> None:
    install("broken", GOOD, value)
    assert set(broken_backends()) == {"broken"}


CONTRACT = ["submit_tasks", "cancel_task", "shutdown", "register_callback", "get_task_states_map"]


@pytest.mark.parametrize("method", CONTRACT)
def test_a_plugin_that_lacks_a_method_of_the_contract_is_refused(install: Install, method: str) -> None:
    install("broken", "\n".join(line for line in FOREIGN.splitlines() if f"def {method}(" not in line))
    with pytest.raises(ConfigurationError, match=f"'broken' .* is no backend: it lacks {method}$"):
        load_backend("broken")
    with pytest.raises(ConfigurationError, match="is no backend"):
        make_backend("broken")
    assert set(broken_backends()) == {"broken"}


@pytest.mark.parametrize(
    "source", ["Backend = 7", "class Backend: ...", "def Backend(): ...", "import json as Backend"]
)
def test_something_else_altogether_is_refused(install: Install, source: str) -> None:
    install("broken", source)
    with pytest.raises(ConfigurationError, match="it lacks submit_tasks, cancel_task"):
        load_backend("broken")


def test_of_two_backends_of_one_name_the_first_found_counts(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("twice", GOOD)
    install("twice", FOREIGN)
    install("noop", FOREIGN)
    assert backend_names().count("twice") == 1
    caplog.clear()
    assert load_backend("twice").__module__ == "plugin_of_a_third_party_1"
    assert "'twice' is given twice: plugin_of_a_third_party_1:Backend counts, not" in caplog.text
    assert make_backend("noop").name == "noop", "nobody takes the place of what was there before"
