"""Files between sandboxes: declared and not, with whatever names, there or missing."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from asyncflow_hpc import InputFile, OutputFile, WorkflowEngine
from asyncflow_hpc.errors import StagingConflictError, StagingError, TaskFailedError
from asyncflow_hpc.registry import make_backend
from asyncflow_hpc.states import FailureCause

from .tasks import sandbox_of, shell

pytestmark = [pytest.mark.asyncio, pytest.mark.needs("execution", "executables", "sandbox", "staging")]

HOSTILE = [
    "plain",
    "two words",
    "-n",
    "-rf",
    "'q\"",
    "new\nline",
    "ünï",
    ".hidden",
    "*",
    "$HOME",
    "a\\b",
    "sub/dir/x",
    "=",
    "~",
]


def writing(*names: str) -> str:
    """A command that writes its files: into each, its name."""
    lines = [f"mkdir -p -- ./{shlex.quote(os.path.dirname(name))}" for name in names if "/" in name]
    return "\n".join([*lines, *(f"printf %s {shlex.quote(name)} >./{shlex.quote(name)}" for name in names)])


def reading(*names: str) -> str:
    return "; ".join(f"cat -- ./{shlex.quote(name)} && printf '|'" for name in names)


@pytest_asyncio.fixture(params=["implicit", "explicit"])
async def either(request: pytest.FixtureRequest, backend: Any, root: Path) -> Any:
    """An engine with and without implicit data."""
    async with WorkflowEngine.create(backend, work_dir=root, implicit_data=request.param == "implicit") as engine:
        yield engine


async def test_declared_files_of_hostile_names(either: WorkflowEngine) -> None:
    command = shell(either)
    first = command(writing(*HOSTILE), [OutputFile(name) for name in HOSTILE])
    second = command(reading(*HOSTILE), first, {"in": [InputFile(name) for name in HOSTILE]})
    assert await second == "".join(f"{name}|" for name in HOSTILE)


async def test_a_file_is_its_name_in_the_sandbox(flow: WorkflowEngine, root: Path) -> None:
    (root / "data").write_text("words\n")
    data, last = InputFile(root / "data"), InputFile(root / "data", name="in/last")
    out = OutputFile("made/out")

    @flow.executable_task
    async def write(data: Any = data, out: Any = out) -> str:
        return f"mkdir made; cat {data} {data} >{out}"

    @flow.executable_task
    async def join(*files: Any, last: Any = last) -> list[Any]:
        return ["/bin/cat", *files, last]

    made = write()
    both = InputFile("made/out", task=made), InputFile("made/out", task=made, name="b")
    assert await join(*both) == "words\n" * 5
    assert await join(last=both[0]) == "words\n" * 2


@pytest.mark.needs("functions", "processes")
async def test_a_file_is_its_name_for_a_function(flow: WorkflowEngine, root: Path) -> None:
    (root / "data").write_text("words\n")
    data, other = InputFile(root / "data"), InputFile(root / "data", name="in/z")

    @flow.function_task
    def look(data: Any, *, other: Any = other) -> list[str]:
        return [str(data), os.fspath(data), f"{other}", Path(data).read_text(), Path(other).read_text()]

    assert await look(data) == ["data", "data", "in/z", "words\n", "words\n"]
    assert (await look(other, other=data))[:3] == ["in/z", "in/z", "data"]


async def test_undeclared_files_come_along(flow: WorkflowEngine) -> None:
    command = shell(flow)
    first = command(f"{writing(*HOSTILE)}; mkdir empty; printf 'echo run' >prog; chmod +x prog; ln -s plain alias")
    second = command(f"{reading(*HOSTILE)}; ./prog; cat alias; [ -d empty ] && echo", first)
    assert await second == "".join(f"{name}|" for name in HOSTILE) + "run\nplain\n"
    third = command("cat sub/dir/x; ls -d task.0*.out | wc -l", second)
    assert (await third).split() == ["sub/dir/x1"] or (await third).split() == ["sub/dir/x", "1"]


async def test_explicit_means_declared_only(backend: Any, root: Path) -> None:
    async with WorkflowEngine.create(backend, work_dir=root, implicit_data=False) as flow:
        command = shell(flow)
        first = command(writing("told", "untold"), OutputFile("told"))
        second = command("cat told; ls", first, InputFile("told"))
        assert "untold" not in await second and (await second).startswith("told")


async def test_a_long_chain_of_links(flow: WorkflowEngine) -> None:
    command = shell(flow)
    last = command(writing("deep"))
    for _ in range(45):
        last = command("true", last)
    # More links of links than a kernel follows.
    assert await command("cat deep", last) == "deep"


async def test_same_name_from_two_tasks(flow: WorkflowEngine) -> None:
    command = shell(flow)
    one = command("echo one >out.dat", OutputFile("out.dat"))
    two = command("echo two >out.dat", OutputFile("out.dat"))
    with pytest.raises(StagingConflictError, match=r"task\.000001.*task\.000002"):
        command("cat out.dat", one, two, InputFile("out.dat"))
    with pytest.raises(StagingConflictError, match=r"out\.dat"):
        command("cat out.dat", InputFile("out.dat", task=one), InputFile("out.dat", task=two))
    both = InputFile("out.dat", task=one, name="1/x"), InputFile("out.dat", task=two, name="2/x")
    assert await command("cat 1/x 2/x", *both) == "one\ntwo\n"
    # Shared by two, so it is there only under their names.
    seen = await command("cat task.000001/out.dat task.000002/out.dat; [ -e out.dat ] || echo none", one, two)
    assert seen == "one\ntwo\nnone\n"


async def test_names_and_actions(either: WorkflowEngine, root: Path) -> None:
    place = root / "outside"
    (place / "tree" / "below").mkdir(parents=True)
    (place / "tree" / "below" / "leaf").write_text("leaf")
    (place / "data").write_text("data")
    (place / "moved").write_text("moved")
    command = shell(either)
    inputs = [
        InputFile(place / "data", name="mine/renamed"),
        InputFile(place / "data", name="own copy", action="copy"),
        InputFile(place / "moved", action="move"),
        InputFile(place / "tree"),
        InputFile((place / "data").as_uri(), name="by url"),
    ]
    text = "cat mine/renamed 'own copy' moved tree/below/leaf 'by url'; echo changed >>'own copy'"
    future = command(text, inputs)
    assert await future == "datadatamovedleafdata"
    assert (place / "data").read_text() == "data" and not (place / "moved").exists()
    assert not (sandbox_of(future) / "own copy").is_symlink() and (sandbox_of(future) / "mine/renamed").is_symlink()


async def test_missing_input(either: WorkflowEngine) -> None:
    command = shell(either)
    first = command("true")
    for wanted in (InputFile("never written"), InputFile("never written", task=first)):
        future = command("echo >ran", first, wanted)
        with pytest.raises(TaskFailedError, match="never written") as caught:
            await future
        assert caught.value.cause is FailureCause.STAGING
        assert not (sandbox_of(future) / "ran").exists()


async def test_missing_output(either: WorkflowEngine, root: Path) -> None:
    command = shell(either)
    outputs = [OutputFile("made"), OutputFile("sub/never", target=root / "final" / "")]
    with pytest.raises(TaskFailedError, match="sub/never") as caught:
        await command(writing("made"), outputs)
    assert (caught.value.cause, caught.value.exit_code) == (FailureCause.MISSING_OUTPUT, 0)
    assert not (root / "final").exists()


async def test_outputs_reach_their_final_place(either: WorkflowEngine, root: Path) -> None:
    command = shell(either)
    (root / "there").mkdir()
    (root / "old").write_text("old")
    outputs = [
        OutputFile("a b", target=f"{root}/new/deep/"),
        OutputFile("a b", target=root / "there"),
        OutputFile("sub/c", target=root / "old"),
        OutputFile("sub", target=root / "whole"),
    ]
    await command(writing("a b", "sub/c"), outputs)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and "session" not in str(path)}
    assert found == {"new/deep/a b", "there/a b", "old", "whole/c"}
    assert (root / "old").read_text() == "sub/c"
    with pytest.raises(TaskFailedError):
        await command("echo >x; exit 3", OutputFile("x", target=root / "failed"))
    assert not (root / "failed").exists()


async def test_a_task_does_not_write_into_its_inputs(flow: WorkflowEngine) -> None:
    command = shell(flow)
    first = command("echo first >log; mkdir d; echo >d/a", OutputFile("log"))
    with pytest.raises(StagingConflictError, match="action='copy'"):
        command("echo second >log", first, InputFile("log"), OutputFile("log"))
    second = command("echo second >log; echo >d/b", first, OutputFile("log"))
    await second
    assert (sandbox_of(first) / "log").read_text() == "first\n"
    assert os.listdir(sandbox_of(first) / "d") == ["a"]
    changed = command("echo more >>log; cat log", first, InputFile("log", action="copy"), OutputFile("log"))
    assert await changed == "first\nmore\n"


@pytest.mark.parametrize("name", ["/abs/x", "../x", "a/../../x", ".asyncflow/run.sh", "."])
async def test_names_that_leave_the_sandbox(flow: WorkflowEngine, name: str) -> None:
    with pytest.raises(StagingError):
        shell(flow)("true", InputFile("x", name=name))
    if name != ".":
        with pytest.raises(StagingError):
            shell(flow)("true", OutputFile(name))


@pytest.mark.needs("functions", "processes")
async def test_functions_have_files_too(either: WorkflowEngine, root: Path) -> None:
    @either.function_task
    async def write(*_: Any) -> str:
        Path("sub").mkdir()
        Path("sub/made").write_text("made")
        return "written"

    @either.function_task
    async def read(given: InputFile, *_: Any) -> str:
        return Path(given.filename).read_text()

    target = OutputFile("sub/made", target=f"{root}/final/")
    first = write(target)
    assert await read(InputFile("sub/made", task=first, name="renamed"), first) == "made"
    assert (root / "final" / "made").read_text() == "made"
    with pytest.raises(TaskFailedError, match="nothing here") as caught:
        await read(InputFile("nothing here"))
    assert caught.value.cause is FailureCause.STAGING


async def test_files_of_another_backend(backend: Any, root: Path) -> None:
    async with WorkflowEngine.create([backend, make_backend("local", name="other")], work_dir=root) as flow:
        elsewhere = shell(flow, backend="other")
        first = elsewhere("echo here >a; echo told >b", OutputFile("b"))
        second = shell(flow)("cat a b; echo back >c", first, InputFile("b"))
        assert await second == "here\ntold\n"
        assert await elsewhere("cat a b c", second) == "here\ntold\nback\n"


async def test_a_thousand_inputs(flow: WorkflowEngine) -> None:
    command = shell(flow)
    names = [f"in/{number} x" for number in range(1000)]
    first = command('mkdir in; i=0; while [ $i -lt 1000 ]; do echo $i >"in/$i x"; i=$((i+1)); done')
    second = command(
        "cat in/* | sort -n | tail -1; ls in | wc -l", first, [InputFile(name, task=first) for name in names]
    )
    assert (await second).split() == ["999", "1000"]
