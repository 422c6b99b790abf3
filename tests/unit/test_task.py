"""Task descriptions: what users may write, what they are told when they wrote something else."""

from __future__ import annotations

import copy
import reprlib
import traceback
from dataclasses import FrozenInstanceError, fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow_hpc.errors import AsyncFlowError, DescriptionTypeError, TaskDescriptionError
from asyncflow_hpc.task import NAMESPACES, OWN_VARIABLES, REPORTED, Task, TaskDescription, describe
from asyncflow_hpc.units import parse_memory, parse_walltime

KEYS = [item.name for item in fields(TaskDescription) if item.metadata]

KIB, MIB, GIB, TIB, PIB = (1024**power for power in range(1, 6))
MINUTE, HOUR, DAY = 60, 3600, 86400


# Durations ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (timedelta(days=2), 2 * DAY),
        ("1:30", HOUR + 30 * MINUTE),
        ("00:01", MINUTE),
        ("100:00", 100 * HOUR),
        ("1:02:03", HOUR + 2 * MINUTE + 3),
        ("00:00:01", 1),
        ("48:00:00", 2 * DAY),
        ("2-12", 2 * DAY + 12 * HOUR),
        ("1-0", DAY),
        ("1-02:30", DAY + 2 * HOUR + 30 * MINUTE),
        ("7-00:00:01", 7 * DAY + 1),
        (" 01:00:00 \n", HOUR),
    ],
)
def test_the_forms_of_a_duration(written: object, seconds: float) -> None:
    found = parse_walltime(written)
    assert found == seconds and type(found) is float


NO_DURATIONS = [
    0, -1, 0.0, -0.5, float("nan"), float("inf"), -float("inf"), timedelta(0), timedelta(seconds=-1), True, False,
    "", " ", "90", "1h", "90s", "1:60", "1:00:60", "00:00:00", "0-0", "1:2:3:4", "1-2-3", "-1:00", "1 :00", "1:00 pm",
    "1.5:00", "1-", "-1", ":30", "1:", "1:000", "inf", "nan", None, [], {}, b"1:00", object(),
]  # fmt: skip


@pytest.mark.parametrize("written", NO_DURATIONS)
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"duration|seconds, a timedelta"):
        parse_walltime(written)


@pytest.mark.parametrize("written", [10**400, "9" * 400 + ":00", "9" * 400 + "-1"], ids=["number", "clock", "days"])
def test_a_duration_beyond_all_numbers(written: object) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_walltime(written)


@settings(deadline=None)
@given(
    days=st.integers(0, 500),
    hours=st.integers(0, 23),
    minutes=st.integers(0, 59),
    seconds=st.integers(0, 59),
)
def test_durations_come_back_as_they_were_written(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    exact = [f"{days}-{hours:02}:{minutes:02}:{seconds:02}", f"{days * 24 + hours}:{minutes}:{seconds}", total]
    for written in [*exact, total.total_seconds()]:
        if total:
            assert timedelta(seconds=parse_walltime(written)) == total
        else:
            with pytest.raises(ValueError, match="duration"):
                parse_walltime(written)
    if days or hours or minutes:
        to_the_minute = total - timedelta(seconds=seconds)
        for written in (f"{days}-{hours}:{minutes:02}", f"{days * 24 + hours:02}:{minutes:02}"):
            assert timedelta(seconds=parse_walltime(written)) == to_the_minute
    if days or hours:
        assert parse_walltime(f"{days}-{hours:02}") == days * DAY + hours * HOUR


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1),
        (4 * GIB, 4 * GIB),
        ("1", 1),
        ("512", 512),
        ("512B", 512),
        ("512MB", 512 * MIB),
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("4g", 4 * GIB),
        ("4gb", 4 * GIB),
        ("2K", 2 * KIB),
        ("1.5 TiB", 3 * TIB // 2),
        ("0.5G", GIB // 2),
        ("2P", 2 * PIB),
        (" 1 GB ", GIB),
        ("0.1K", 102),
        ("1.0000000001K", KIB),
    ],
)
def test_the_forms_of_a_size(written: object, size: int) -> None:
    found = parse_memory(written)
    assert found == size and type(found) is int


NO_SIZES = [
    0, -1, True, False, 1.5, 4.0, float("nan"), float("inf"), "0", "0GB", "0.5", "0.0001K", "-1G", "+1G", "1e9", "GB",
    "", " ", "1 G B", "1GiBs", "1,5G", "1.G", ".5G", "1.5.1G", "4GB 2", "4 words", "1X", "inf", "nan", "0x10", "1_000",
    None, [], {}, b"1G", object(),
]  # fmt: skip


@pytest.mark.parametrize("written", NO_SIZES)
def test_what_is_no_size(written: object) -> None:
    with pytest.raises((TypeError, ValueError), match=r"memory|bytes, or text"):
        parse_memory(written)


@settings(deadline=None)
@given(
    number=st.integers(1, 10**30),
    unit=st.sampled_from(["", "K", "M", "G", "T", "P"]),
    ending=st.sampled_from(["", "B", "iB", "b", "IB"]),
    space=st.sampled_from(["", " "]),
    small=st.booleans(),
)
def test_sizes_are_exact(number: int, unit: str, ending: str, space: str, small: bool) -> None:
    written = f"{number}{space}{unit}{ending}"
    assert parse_memory(written.lower() if small else written) == number * 1024 ** " KMGTP".index(unit or " ")


def test_a_size_beyond_all_numbers() -> None:
    assert parse_memory("9" * 400 + "P") == int("9" * 400) * PIB


# Keys ---------------------------------------------------------------------------------------------------------------

COUNTS = ["ranks", "ranks_per_node", "cores_per_rank", "nodes"]
COUNTS_OR_ZERO = ["gpus_per_rank", "retries"]
TEXTS = ["queue", "account", "reservation", "qos", "constraint", "launcher"]
PATHS = ["cwd", "ready_file"]
LINES = ["pre_exec", "post_exec"]
OTHERS = ["mem_per_rank", "walltime", "exclusive", "environment", "shell", "on_oom", "ready_port"]

GOOD: list[tuple[str, Any, Any]] = [
    *((key, value, value) for key in COUNTS for value in (1, 4096, 10**12)),
    *((key, value, value) for key in COUNTS_OR_ZERO for value in (0, 1, 8)),
    *((key, value, value) for key in TEXTS for value in ("debug", "a b", "ünïcode", "$X; rm")),
    *((key, " ", " ") for key in TEXTS if key != "launcher"),
    *((key, "/a b/c", "/a b/c") for key in PATHS),
    *((key, Path("/a b/c"), "/a b/c") for key in PATHS),
    ("ready_file", "data/x", "data/x"),
    ("cwd", "data/x", f"{Path.cwd()}/data/x"),
    ("cwd", Path("../x"), f"{Path.cwd()}/../x"),
    *((key, "module load gcc", ("module load gcc",)) for key in LINES),
    *((key, ["a", "b c\nd"], ("a", "b c\nd")) for key in LINES),
    *((key, ("a",), ("a",)) for key in LINES),
    *((key, [], ()) for key in LINES),
    ("mem_per_rank", "1.5GB", 3 * GIB // 2),
    ("walltime", "1-00:00:00", float(DAY)),
    ("exclusive", True, True),
    ("exclusive", False, False),
    ("environment", {}, {}),
    ("environment", {"OMP_NUM_THREADS": 4, "P": Path("/x"), "F": 0.5, "E": ""}, None),
    ("shell", True, True),
    ("shell", "/bin/bash", "/bin/bash"),
    ("on_oom", "warn", "warn"),
    ("ready_port", 1, 1),
    ("ready_port", 65535, 65535),
    *((name, {"--export": "ALL", "gres": ["gpu:1", 2]}, None) for name in NAMESPACES),
]

WRONG_TYPES: list[tuple[str, Any]] = [
    *(
        (key, value)
        for key in [*COUNTS, *COUNTS_OR_ZERO, "ready_port"]
        for value in (True, False, "4", 1.0, [1], {}, b"1")
    ),
    *((key, value) for key in TEXTS for value in (1, True, b"debug", ["debug"], {}, Path("x"))),
    *((key, value) for key in PATHS for value in (1, True, b"/x", ["/x"])),
    *((key, value) for key in LINES for value in (1, True, b"a", {"a": 1}, {"a"}, [1], ["a", None], [["a"]])),
    *(("exclusive", value) for value in (1, 0, "yes", [])),
    *(("shell", value) for value in (1, 0, b"sh", ["sh"])),
    *(("environment", value) for value in ("A=1", ["A=1"], [("A", "1")], 1, True)),
    *((name, value) for name in NAMESPACES for value in ("--x", ["--x"], 1, True, {1: "x"})),
]

WRONG_VALUES: list[tuple[str, Any]] = [
    *((key, value) for key in COUNTS for value in (0, -1, -(10**30))),
    *((key, -1) for key in COUNTS_OR_ZERO),
    *((key, value) for key in [*TEXTS, *PATHS, *LINES, "shell"] for value in ("", "a\0b")),
    *((key, value) for key in LINES for value in ([""], ["a", "\0"])),
    *(("ready_port", value) for value in (0, -1, 65536)),
    *(("walltime", value) for value in (0, -1, "", "1h", float("nan"), "0:00", 1e300, 10**400)),
    *(("launcher", value) for value in ("mpiexec '-n", " ")),
    *(("mem_per_rank", value) for value in (0, -1, "", "4X", "0GB")),
    *(("environment", value) for value in ({"": "x"}, {"A=B": "x"}, {"A\0": "x"}, {1: "x"}, {None: "x"})),
    *(("environment", {name: "x"}) for name in OWN_VARIABLES),
    *(("environment", {"A": value}) for value in (None, [], {}, b"x", "a\0b", object(), Path("a\0b"))),
]


def test_the_tables_above_cover_every_key() -> None:
    named = [*COUNTS, *COUNTS_OR_ZERO, *TEXTS, *PATHS, *LINES, *OTHERS, *NAMESPACES]
    assert sorted(named) == sorted(KEYS)
    assert {key for key, *_ in GOOD} == set(KEYS)
    assert {key for key, _ in WRONG_TYPES} | {"mem_per_rank", "walltime", "on_oom"} == set(KEYS)


@pytest.mark.parametrize(("key", "value", "kept"), GOOD)
def test_good_values(key: str, value: Any, kept: Any) -> None:
    found = getattr(TaskDescription.from_dict({key: value}), key)
    if kept is None:
        kept = {name: str(text) for name, text in value.items()} if key == "environment" else value
    assert found == kept and type(found) is type(kept)


@pytest.mark.parametrize(("key", "value"), WRONG_TYPES)
def test_wrong_types(key: str, value: Any) -> None:
    with pytest.raises(DescriptionTypeError, match=f"task_description\\['{key}'\\]") as caught:
        TaskDescription.from_dict({"ranks": 2, key: value})
    assert isinstance(caught.value, TypeError) and isinstance(caught.value, ValueError)
    assert key == "environment" or reprlib.repr(value) in str(caught.value)


@pytest.mark.parametrize(("key", "value"), WRONG_VALUES)
def test_wrong_values(key: str, value: Any) -> None:
    with pytest.raises(TaskDescriptionError, match=f"task_description\\['{key}'\\]") as caught:
        TaskDescription.from_dict({"ranks": 2, key: value})
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, AsyncFlowError)
    assert key == "environment" or reprlib.repr(value) in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("walltime", [60]), ("walltime", b"1:00"), ("mem_per_rank", 4.5e9)])
def test_a_duration_or_size_of_a_wrong_type(key: str, value: Any) -> None:
    with pytest.raises(DescriptionTypeError):
        TaskDescription.from_dict({key: value})


hostile = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**80), 2**80),
        st.floats(),
        st.sampled_from([10**400, -(10**400), 1e308, 5e-324, complex(1), ..., NotImplemented, int, object(), len]),
        st.text(max_size=8),
        st.text("0123456789-:.KGB ", max_size=8),
        st.binary(max_size=3),
        st.timedeltas(),
        st.decimals(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.none()), inner, max_size=3),
    ),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(values=st.dictionaries(st.sampled_from(KEYS), hostile, max_size=3))
def test_no_value_gets_past_with_another_error(values: dict[str, Any]) -> None:
    """Checked once, a description holds: what came out goes in again and stays the same."""
    try:
        description = TaskDescription.from_dict(values)
    except TaskDescriptionError:
        return
    again = {key: getattr(description, key) for key in KEYS}
    assert TaskDescription.from_dict(again) == description
    for key, value in values.items():
        if value is None:
            assert getattr(description, key) == getattr(TaskDescription(), key)


@settings(max_examples=100, deadline=None)
@given(key=st.text(max_size=12).filter(lambda key: key not in KEYS), value=hostile)
def test_an_unknown_key_is_refused_whatever_its_value(key: str, value: Any) -> None:
    with pytest.raises(TaskDescriptionError) as caught:
        TaskDescription.from_dict({key: value})
    assert repr(key) in str(caught.value)
    assert "did you mean '" in str(caught.value) or ", ".join(sorted(KEYS)) in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("template", ["{short}", "{key}s", "{first}{key}", "{title}"])
def test_a_misspelt_key_is_answered_with_the_right_one(key: str, template: str) -> None:
    wrong = template.format(key=key, short=key[:-1], first=key[0], title=key.title())
    with pytest.raises(TaskDescriptionError) as caught:
        TaskDescription.from_dict({wrong: 1})
    assert f"unknown key '{wrong}'" in str(caught.value) and f"'{key}'" in str(caught.value)


def test_a_key_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(TaskDescriptionError, match="valid are: ") as caught:
        TaskDescription.from_dict({"zzzzzzzz": 1}, frozenset({"backend_own"}))
    assert all(key in str(caught.value) for key in [*KEYS, "backend_own"])


@pytest.mark.parametrize("key", [None, 1, (), b"ranks", 1.5])
def test_a_key_that_is_no_text(key: Any) -> None:
    with pytest.raises(TaskDescriptionError, match="unknown key"):
        TaskDescription.from_dict({key: 1})


# Secrets ------------------------------------------------------------------------------------------------------------

SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "environment",
    [
        f"TOKEN={SECRET}",
        [f"TOKEN={SECRET}"],
        [("TOKEN", SECRET)],
        {"TOKEN": [SECRET]},
        {"TOKEN": SECRET + "\0"},
        {"TOKEN": SECRET.encode()},
        {"TOKEN": {"inner": SECRET}},
        {"GOOD": SECRET, "": "x"},
        {"GOOD": SECRET, "BAD": None},
        {"GOOD": SECRET, b"B": "x"},
    ],
)
def test_a_message_never_shows_the_value_of_a_variable(environment: Any) -> None:
    with pytest.raises(TaskDescriptionError) as caught:
        TaskDescription.from_dict({"environment": environment})
    error = caught.value
    shown = [
        str(error),
        repr(error),
        str(error.__context__),
        "".join(traceback.format_exception_only(type(error), error)),
    ]
    assert not any(SECRET in text for text in shown)


def test_a_message_about_another_key_does_not_show_the_environment() -> None:
    with pytest.raises(TaskDescriptionError) as caught:
        TaskDescription.from_dict({"environment": {"TOKEN": SECRET}, "ranks": 0})
    assert SECRET not in str(caught.value)
    with pytest.raises(TaskDescriptionError) as caught:
        TaskDescription.from_dict({"enviroment": {"TOKEN": SECRET}})
    assert "'environment'" in str(caught.value) and SECRET not in str(caught.value)


# The whole ----------------------------------------------------------------------------------------------------------


def full() -> dict[str, Any]:
    return {key: value for key, value, _ in reversed(GOOD)}


def test_the_users_dict_is_never_changed() -> None:
    values = full()
    before = copy.deepcopy(values)
    description = TaskDescription.from_dict(values, frozenset({"own"}))
    assert values == before and list(values) == list(before)
    description.environment["ADDED"] = "x"
    description.slurm["added"] = "x"
    assert values == before, "nor what is in it"
    for key, value in [("ranks", 0), ("unknown", 1), ("environment", {"A": None})]:
        broken = {**full(), key: value}
        before = copy.deepcopy(broken)
        with pytest.raises(TaskDescriptionError):
            TaskDescription.from_dict(broken)
        assert broken == before


def test_nothing_given_means_the_defaults() -> None:
    default = TaskDescription.from_dict({})
    assert default == TaskDescription() == TaskDescription.from_dict(dict.fromkeys(KEYS))
    ones = ["ranks", "cores_per_rank"]
    others = {"gpus_per_rank": 0, "exclusive": False, "shell": False, "pre_exec": (), "post_exec": (), "on_oom": "fail"}
    empty = ["environment", *NAMESPACES]
    expected = {**dict.fromkeys(KEYS), **dict.fromkeys(ones, 1), **others, **{key: {} for key in empty}}
    assert {key: getattr(default, key) for key in KEYS} == expected
    assert default.exclusive is False and default.shell is False
    assert default.environment is not TaskDescription().environment


@pytest.mark.parametrize(
    ("made", "given"),
    [
        (TaskDescription(), set()),
        (TaskDescription.from_dict({}), set()),
        (TaskDescription.from_dict({"ranks": 1, "queue": None}), {"ranks", "queue"}),
        (TaskDescription(ranks=2, environment={"A": "1"}), {"ranks", "environment"}),
        (replace(TaskDescription.from_dict({"ranks": 1}), queue="short"), {"ranks"}),
    ],
)
def test_what_was_given_is_known(made: TaskDescription, given: set[str]) -> None:
    assert made.given == given


def test_cores_are_those_of_all_ranks() -> None:
    assert TaskDescription.from_dict({"ranks": 4, "cores_per_rank": 3}).cores == 12


def test_a_description_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        TaskDescription().ranks = 2  # type: ignore[misc]


def test_native_keys_are_let_through_and_left_out() -> None:
    native = frozenset({"scheduler_option", "priority"})
    found = TaskDescription.from_dict({"ranks": 2, "scheduler_option": object(), "priority": None}, native)
    assert found == TaskDescription.from_dict({"ranks": 2})
    with pytest.raises(TaskDescriptionError, match="did you mean 'priority'"):
        TaskDescription.from_dict({"prioritty": 1}, native)
    with pytest.raises(TaskDescriptionError, match="unknown key 'priority'"):
        TaskDescription.from_dict({"priority": 1})
    with pytest.raises(TaskDescriptionError, match="ranks"):
        TaskDescription.from_dict({"ranks": 0}, frozenset({"ranks"}))


def test_describe_returns_what_the_engine_made() -> None:
    made = TaskDescription.from_dict({"ranks": 2})
    task: Task = {"uid": "task.000001", "description": made, "task_backend_specific_kwargs": {"ranks": 7}}
    assert describe(task) is made


def test_describe_makes_one_of_a_foreign_engines_dict() -> None:
    given = {"ranks": 3, "walltime": "1:00", "of_that_engine": object()}
    task: Task = {"uid": "task.000001", "task_backend_specific_kwargs": given}
    assert describe(task) == TaskDescription.from_dict({"ranks": 3, "walltime": "1:00"})
    assert set(given) == {"ranks", "walltime", "of_that_engine"} and "description" not in task
    assert describe({"uid": "task.000001"}) == TaskDescription()
    assert describe({"task_backend_specific_kwargs": {}}) == TaskDescription()
    with pytest.raises(TaskDescriptionError, match="ranks"):
        describe({"task_backend_specific_kwargs": {"ranks": 0}})


def test_what_backends_report_are_keys_of_a_task() -> None:
    assert set(Task.__annotations__) >= REPORTED
    assert REPORTED.isdisjoint({"uid", "name", "function", "args", "kwargs", "state", "metadata", "description"})
