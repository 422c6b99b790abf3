"""Site profiles: where they are found, how they extend each other, and what is said of a wrong one."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow_hpc import load_site, site_names
from asyncflow_hpc.errors import ArgumentError, SiteError
from asyncflow_hpc.registry import SCHEDULERS, backend_names
from asyncflow_hpc.site_model import schema
from asyncflow_hpc.sites import default_site, merge, session_places

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PROFILES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))

Write = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of its own; the user's configuration directory is `config` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ASYNCFLOW_SITE", raising=False)
    (tmp_path / "config" / "asyncflow_hpc").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def write(here: Path) -> Write:
    """Write a profile into the current directory, or with `user=True` where the user keeps them."""

    def written(name: str, text: str, user: bool = False) -> Path:
        path = (here / "config" / "asyncflow_hpc" if user else here) / f"{name}.yaml"
        path.write_text(text)
        path.chmod(0o644)
        return path

    return written


# The profiles of the package ------------------------------------------------------------------------------------------


def test_the_generic_ones_are_there() -> None:
    assert {*SCHEDULERS, "dev_cluster"} <= set(PROFILES)
    assert set(backend_names()) >= SCHEDULERS, "each scheduler of a profile is a backend"


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_of_the_package_is_right(name: str, here: Path) -> None:
    site = load_site(name)
    assert (site.name, site.file) == (name, str(CONFIGS / f"{name}.yaml"))
    assert name == name.lower() and "-" not in name
    assert all(source.date <= date.today() for source in site.sources)
    if name not in {*SCHEDULERS, "dev_cluster"}:
        # What no page confirms is left out: of some machines, the nodes.
        assert site.sources and site.queues, "facts of a real machine come from a public page"
    assert "site.schema.json" in (CONFIGS / f"{name}.yaml").read_text().partition("\n")[0]
    assert name in site_names()


def test_the_schema_takes_what_we_take(here: Path) -> None:
    made = json.loads((CONFIGS / "site.schema.json").read_text())
    assert made == json.loads(json.dumps(schema()))
    jsonschema.Draft202012Validator.check_schema(made)
    check = jsonschema.Draft202012Validator(made)
    for name in PROFILES:
        values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        # Editors know no dates.
        check.validate(json.loads(json.dumps(values, default=str)))
    for wrong in (
        {},
        {"description": "x"},
        {"extends": "slurm", "queus": {}},
        {"extends": "x", "queues": {"a": {"x": 1}}},
    ):
        assert not check.is_valid(wrong)
    assert made["$defs"]["Profile"]["properties"]["defaults"]["properties"]["walltime"]["description"]


# Where they are found -------------------------------------------------------------------------------------------------


def test_the_users_own_goes_before_that_of_the_package(write: Write) -> None:
    assert "Slurm" in load_site("slurm").description
    write("slurm", "description: mine\nscheduler: slurm", user=True)
    assert load_site("slurm").description == "mine"
    write("mine", "extends: slurm", user=True)
    assert load_site("mine").description == "mine" and "mine" in site_names()


def test_the_current_directorys_goes_before_both(write: Write) -> None:
    write("slurm", "description: mine\nscheduler: slurm", user=True)
    assert default_site() is None
    write("asyncflow", "extends: slurm\ndescription: this project's")
    site = default_site()
    assert site is not None
    assert (site.name, site.description, site.scheduler) == ("slurm", "this project's", "slurm")
    assert load_site("slurm") == site
    assert load_site("pbs").scheduler == "pbs"
    write("asyncflow", "name: here\nextends: slurm\ndescription: this project's")
    assert load_site("here").description == "this project's" and load_site("slurm").description == "mine"


def test_a_name_in_the_environment_goes_before_the_current_directory(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("asyncflow", "extends: slurm")
    monkeypatch.setenv("ASYNCFLOW_SITE", "lsf")
    site = default_site()
    assert site is not None and site.scheduler == "lsf"


def test_a_path_and_a_loaded_site(write: Write, here: Path) -> None:
    path = write("else where", "extends: pbs")
    for asked in (path, str(path), "else where.yaml", "./else where.yaml"):
        site = load_site(asked)
        assert (site.name, site.scheduler) == ("else where", "pbs")
    assert load_site(site) is site


def test_home_is_where_the_users_own_are_by_default(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(here))
    directory = here / ".config" / "asyncflow_hpc"
    directory.mkdir(parents=True)
    (directory / "mine.yaml").write_text("extends: slurm")
    (directory / "mine.yaml").chmod(0o600)
    assert load_site("mine").scheduler == "slurm"


def test_an_unknown_name_is_answered_with_the_nearest(here: Path) -> None:
    with pytest.raises(SiteError, match=r"no site is called 'dev_clustr'; did you mean 'dev_cluster'"):
        load_site("dev_clustr")
    with pytest.raises(SiteError, match="cannot be the name of a site"):
        load_site("..")
    with pytest.raises(SiteError, match=r"nowhere\.yaml cannot be read: No such file"):
        load_site("nowhere.yaml")
    with pytest.raises(ArgumentError, match="'site'"):
        load_site(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(write: Write, mode: int) -> None:
    path = write("asyncflow", "extends: slurm")
    path.chmod(mode)
    for load in (default_site, lambda: load_site(path), lambda: load_site("slurm")):
        with pytest.raises(SiteError, match=rf"can be written by others \(mode 0{mode:o}\); `chmod go-w"):
            load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_must_be_asked_for(write: Write) -> None:
    path = write("asyncflow", "extends: slurm")
    os.chown(path, 12345, 12345)
    with pytest.raises(SiteError, match="belongs to user 12345; copy it, or ask for it with site="):
        default_site()
    assert load_site(path).scheduler == "slurm"
    write("base", "extends: slurm", user=True)
    os.chown(path, 0, 0)
    os.chown(path.parent / "config" / "asyncflow_hpc" / "base.yaml", 12345, 12345)
    write("asyncflow", "extends: base")
    with pytest.raises(SiteError, match="belongs to user 12345"):
        load_site(path)


# Extending ------------------------------------------------------------------------------------------------------------


def test_a_profile_extends_another(write: Write) -> None:
    write(
        "base",
        """
        description: base
        scheduler: slurm
        account_required: true
        nodes: {cpu: {cores: 128, memory: 512GB}, gpu: {cores: 64, gpus: 4}}
        queues: {short: {max_walltime: "1:00", nodes: [cpu, gpu]}, long: {max_walltime: 2-00}}
        defaults: {queue: short, environment: {A: 1, B: 2}}
        environment: {setup: [module load base], python: python3}
        """,
        user=True,
    )
    path = write(
        "top",
        """
        extends: base
        account_required: null
        queues: {short: {max_nodes: 4, nodes: [cpu]}, long: null, mine: {}}
        defaults: {environment: {B: 3}}
        environment: {setup: [module load top]}
        """,
    )
    site = load_site(path)
    assert (site.description, site.account_required, site.extends) == ("base", False, "base")
    assert list(site.queues) == ["short", "mine"]
    assert (site.queues["short"].max_walltime, site.queues["short"].max_nodes) == (3600.0, 4)
    assert site.queues["short"].nodes == ("cpu",)
    assert site.nodes["cpu"].memory == 512 * 1024**3
    assert site.defaults == {"queue": "short", "environment": {"A": 1, "B": 3}}
    assert (site.environment.setup, site.environment.python) == (("module load top",), "python3")


def test_a_profile_that_extends_its_own_name_extends_the_next_of_that_name(write: Write) -> None:
    write("slurm", "extends: slurm\ndefaults: {account: mine}", user=True)
    write("asyncflow", "extends: slurm\ndefaults: {queue: short}")
    site = load_site("slurm")
    assert site.defaults == {"account": "mine", "queue": "short"} and "Slurm" in site.description


def test_a_profile_extends_a_path_that_is_relative_to_it(write: Write, here: Path) -> None:
    (here / "shared").mkdir()
    for name, base in (("one", "shared/two.yaml"), ("shared/two", "three.yaml"), ("shared/three", "lsf")):
        write(name, f"extends: {base}")
    assert load_site("one.yaml").scheduler == "lsf"


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_circle_is_found(write: Write, length: int) -> None:
    for number in range(length):
        write(f"s{number}", f"extends: s{(number + 1) % length}", user=True)
    with pytest.raises(SiteError, match=r"extends: goes in a circle: .*s0\.yaml ->") as caught:
        load_site("s0")
    assert str(caught.value).count("->") == length


@pytest.mark.parametrize(
    ("base", "message"),
    [("slrm", "no site is called 'slrm'; did you mean 'slurm'"), ("3", "must be a name or a path, not 3")],
)
def test_what_cannot_be_extended(write: Write, base: str, message: str) -> None:
    with pytest.raises(SiteError, match=message):
        load_site(write("x", f"extends: {base}"))


LEAVES = st.sampled_from([None, 0, 1, -3, "", "x", [], [1, 2]])
INNER = st.dictionaries(st.sampled_from("abc"), LEAVES, max_size=2)
VALUES = LEAVES | INNER | st.dictionaries(st.sampled_from("abc"), LEAVES | INNER, max_size=3)
MAPPINGS = st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=4)

# A machine that others use, too.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def leaves(values: Any, at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if isinstance(values, dict) and values:
        found = {}
        for key, value in values.items():
            found |= leaves(value, (*at, key))
        return found
    return {at: values}


@unhurried
@given(below=MAPPINGS, above=MAPPINGS)
def test_what_is_above_holds(below: dict[str, Any], above: dict[str, Any]) -> None:
    before = json.dumps([below, above])
    merged = merge(merge({}, below), above)
    assert json.dumps([below, above]) == before, "neither is changed"
    assert None not in leaves(merged).values()
    assert merge(merged, above) == merged, "twice is once"
    assert merge(merged, {}) == merged == merge({}, merged)
    found = leaves(merged)
    for path, value in leaves(above).items():
        if value is None:
            assert not any(path == place[: len(path)] for place in found)
        elif value != {}:
            assert found[path] == value
    for path, value in leaves(merge({}, below)).items():
        if path and path[0] not in above:
            assert found[path] == value


# Wrong ones -----------------------------------------------------------------------------------------------------------

WRONG = {
    "queus: {}": "unknown key 'queus'; did you mean 'queues'",
    "queues: {a: {max_node: 1}}": "unknown key 'queues.a.max_node'; did you mean 'max_nodes'",
    "queues: {a: {max_nodes: many}}": "queues.a.max_nodes: Expected `int.*'many'",
    "queues: {a: {max_nodes: 0}}": "queues.a.max_nodes: Expected `int` >= 1.*it is 0",
    "queues: {a: {max_walltime: soon}}": "queues.a.max_walltime: a duration is written as.*'soon'",
    "queues: {a: {nodes: [gpu]}}\nnodes: {gpus: {}}": "queues.a.nodes: 'gpu' is not in nodes; did you mean 'gpus'",
    "queues: {a: {nodes: [gpu]}}": "queues.a.nodes: 'gpu' is not in nodes",
    "queues: {a: {min_nodes: 3, max_nodes: 2}}": "queues.a.min_nodes: 3 is more than max_nodes, 2",
    "queues: {a: {min_cores: 3, max_cores: 2}}": "queues.a.min_cores: 3 is more than max_cores, 2",
    "queues: {a: {shared: true, exclusive: true}}": "queues.a.exclusive: nodes cannot be shared, too",
    "queues: {a: {by: partition}}": "queues.a.by is 'partition'; valid are: qos, queue",
    "queues: [a]": "queues must hold keys and values",
    "queues: {a: 3}": r"queues\.a must hold keys and values, not 3",
    "queues: {3: {}}": "queues: a name must be text, write 3 in quotes",
    "nodes: {cpu: {memory: lots}}": "nodes.cpu.memory: a size of memory is written as",
    "nodes: {cpu: {memory: 1.5}}": "nodes.cpu.memory: must be bytes",
    "nodes: {cpu: {gpus: -1}}": "nodes.cpu.gpus: Expected `int` >= 0",
    "scheduler: slrm": "scheduler is 'slrm'; did you mean 'slurm'",
    "scheduler: null": "scheduler is missing",
    "description: null": "description is missing",
    "description: ''": "description: Expected",
    'launcher: "mpiexec \'a"': "launcher: No closing quotation",
    "defaults: {queu: x}": "defaults: unknown key 'queu' in task_description; did you mean 'queue'",
    "defaults: {walltime: x}": r"defaults: task_description\['walltime'\]",
    "defaults: {environment: {ASYNCFLOW_RANK: 1}}": "defaults: .*ASYNCFLOW_RANK, which every task is given",
    "filesystems: [{for: sessions}]": r"filesystems\[0\]\.path is missing",
    "filesystems: [{path: /x, for: food}]": r"filesystems\[0\]\.for is 'food'",
    "sources: [{url: mail, date: 2026-01-01}]": r"sources\[0\]\.url: Expected `str` matching regex",
    "sources: [{url: https://x, date: today}]": r"sources\[0\]\.date: Invalid",
    "environment: {setup: module load x}": "environment.setup: Expected `array`",
    "polling: {interval: 0}": "polling.interval: Expected `float` > 0",
    "account_required: 1": "account_required: Expected `bool`",
    "queues: {a: {}}\nqueues: {b: {}}": "key 'queues' is there twice",
    "{": "is no YAML",
    "x: !!python/object/apply:os.getpid []": "is no YAML: could not determine a constructor",
    "- a": "must hold keys and values",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_profile_is_told_apart(write: Write, text: str) -> None:
    given = {"description: x": "description:", "scheduler: slurm": "scheduler:"}
    lines = [line for line, key in given.items() if not text.startswith(key)]
    path = write("x", "\n".join(text for text in ([text] if text[0] in "{-" else [*lines, text])))
    with pytest.raises(SiteError, match=WRONG[text]) as caught:
        load_site(path)
    assert str(path) in str(caught.value)


PAGE = (CONFIGS.parent / "docs" / "sites.md").read_text()


@pytest.mark.parametrize("text", re.findall(r"^ *```yaml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))
def test_the_profiles_in_the_documentation_are_right(write: Write, text: str) -> None:
    assert load_site(write("x", textwrap.dedent(text))).scheduler == "slurm"


def test_what_is_no_text_is_refused(write: Write) -> None:
    path = write("x", "")
    with pytest.raises(SiteError, match="must hold keys and values"):
        load_site(path)
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(SiteError, match="not UTF-8"):
        load_site(path)
    with pytest.raises(SiteError, match="Is a directory"):
        load_site(path.parent)
    os.mkfifo(path.parent / "pipe.yaml", 0o600)
    with pytest.raises(SiteError, match="is no file"):
        load_site("pipe.yaml")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1:30", 5400), ("'1:30'", 5400), ("48:00:00", 172800), ("00:30:00", 1800), ("1-12", 129600), ("90", 90)],
)
def test_walltimes_mean_what_they_mean_in_a_task_description(write: Write, text: str, seconds: float) -> None:
    path = write("x", f"extends: slurm\nqueues: {{a: {{max_walltime: {text}}}}}")
    assert load_site(path).queues["a"].max_walltime == seconds


@unhurried
@given(st.dictionaries(st.sampled_from(["queues", "nodes", "defaults", "polling", "launcher", "extends"]), VALUES))
def test_a_profile_of_any_content_is_loaded_or_refused(tmp_path_factory: pytest.TempPathFactory, values: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "hostile.yaml"
    path.write_text(json.dumps({"description": "x", "scheduler": "slurm", **values}))
    path.chmod(0o600)
    try:
        load_site(path)
    except SiteError as error:
        assert str(path) in str(error) or "extends" in values


def test_places_for_sessions(write: Write, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NO_SUCH", raising=False)
    places = "[{path: $SCRATCH, for: sessions}, {path: $NO_SUCH/x}, {path: '~/work'}]"
    site = load_site(write("x", f"extends: slurm\nfilesystems: {places}"))
    assert session_places(site) == [Path("/scratch/me"), Path("~/work").expanduser()]
