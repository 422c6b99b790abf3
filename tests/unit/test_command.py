"""Commands that run without a shell mean what a shell would have made of them."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from asyncflow_hpc.command import argv_of, checked_command, direct_words
from asyncflow_hpc.errors import AsyncFlowError, CommandError

BASH = shutil.which("bash")
SHELLS = [
    pytest.param("/bin/sh", id="sh"),
    # On many clusters sh is bash; called by that name it is as strict as it is there.
    pytest.param(BASH, id="bash", marks=pytest.mark.skipif(BASH is None, reason="no bash here")),
]

# Names that sh runs itself and that mean the same as the programs of that name.
SAME_AS_PROGRAMS = {"true", "false"}

POSSIBLY_BUILT_IN = sorted(
    set(
        """
        ! . : [ [[ ]] { } alias autoload bg bind break builtin caller case cd chdir command compgen complete compopt
        continue coproc declare dirs disown do done echo elif else enable esac eval exec exit export false fc fg fi
        float for function functions getopts hash help hist history if in integer jobs kill let local logout mapfile
        nameref newgrp popd print printf pushd pwd read readarray readonly return select set shift shopt source
        suspend test then time times trap true type typeset ulimit umask unalias unset until wait whence while
        """.split()  # noqa: SIM905
    )
)


def through_shell(shell: str, command: str, *arguments: str, cwd: str | None = None) -> bytes:
    """What `sh -c` prints."""
    argv = ["sh", "-c", command, "sh", *arguments]
    return subprocess.run(argv, executable=shell, stdout=subprocess.PIPE, check=True, timeout=60, cwd=cwd).stdout


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program that prints how many arguments it got, and each with a NUL behind it."""
    path = tmp_path_factory.mktemp("bin") / "show"
    path.write_text("#!/bin/sh\nprintf '%s\\0' $# \"$@\"\n")
    path.chmod(0o700)
    return str(path)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
plain = st.text("abzAZ09_@%+=:,./-", min_size=1, max_size=6)
in_single = text.map(lambda inside: "'" + inside.replace("'", "") + "'")
in_double = text.map(lambda inside: '"' + inside.translate(dict.fromkeys(map(ord, '"$`\\'))) + '"')
words = st.lists(st.one_of(plain, in_single, in_double), min_size=1, max_size=3).map("".join)
blanks = st.text(" \t", min_size=1, max_size=2)
orderly = st.lists(st.tuples(blanks, words).map("".join), max_size=4).map("".join)
shell_characters = st.text("ab0 \t\n'\"\\$`~*?[]{}()<>|&;#!=-%+:,./@^\x7f\x81é\u00a0", max_size=12)
tails = st.one_of(orderly, shell_characters, st.tuples(orderly, shell_characters).map("".join))


@pytest.mark.parametrize("shell", SHELLS)
@settings(max_examples=250, deadline=None)
@given(tail=tails)
@example(tail=" a=b =c ~ x")
@example(tail=" ''")
@example(tail=" 'it'\"'\"'s' \"a'b\"'c\"d'\n")
@example(tail=" 'a\nb' \"c\n\" \t\n")
@example(tail=" -- -n {} !")
@example(tail=" '\x81\x82\x88' é \"\x7f\u2028\"")
def test_direct_words_are_what_the_shell_passes_on(shell: str, show: str, tail: str) -> None:
    command = f"{shlex.quote(show)} {tail}"
    found = direct_words(command)
    event("direct" if found else "left to the shell")
    if found is not None:
        arguments = [os.fsencode(word) for word in found[1:]]
        assert found[0] == show
        printed = through_shell(shell, command, cwd=os.path.dirname(show)).split(b"\0")
        assert printed == [b"%d" % len(arguments), *arguments, b""]


@settings(max_examples=100, deadline=None)
@given(tail=orderly)
def test_quoted_and_plain_words_need_no_shell(tail: str) -> None:
    assert direct_words("program" + tail) is not None


@pytest.mark.parametrize("shell", SHELLS)
def test_words_that_the_shell_runs_itself_are_left_to_it(shell: str) -> None:
    script = 'for word; do case $(command -v -- "$word") in /* | "") ;; *) echo "$word" ;; esac; done'
    own = through_shell(shell, script, *POSSIBLY_BUILT_IN).decode().split()
    assert {"cd", "export", "if", "."} <= set(own)
    assert [word for word in own if word not in SAME_AS_PROGRAMS and direct_words(f"{word} x")] == []


@pytest.mark.skipif(BASH is None, reason="no bash here")
def test_the_builtins_of_this_bash_are_all_considered() -> None:
    assert BASH is not None
    names = subprocess.run([BASH, "-c", "compgen -b -k"], capture_output=True, text=True, check=True).stdout.split()
    assert "cd" in names
    assert [name for name in names if name not in SAME_AS_PROGRAMS and direct_words(f"{name} x")] == []


@pytest.mark.parametrize(
    "command",
    [
        "a; b", "a & b", "a && b", "a | b", "a || b", "a &", "(a)", "{ a; }", "a\nb",
        "a > f", "a < f", "a >> f", "a 2>&1",
        "a $HOME", 'a "$HOME"', "a ${X}", "a $(b)", "a `b`", 'a "`b`"', "a $((1+1))", "a $1", "$a", "a$b c",
        "a \\", "a \\b", 'a "\\b"', "a\\\nb", 'a "b', "a 'b", "a 'b'c'",
        "# a", "a # b", "a #b", "X=1 a", "X=1", "A=b=c d", "a ~", "a ~/x", "~/a", "a b~c",
        "a *", "a ?", "a [b]", "a{b,c}", "a {b,c}", "a b*c", "! a", "a !b", "a ^b",
        "cd /tmp", "exit 3", "exec a", "export A", "set -e", "source x", ". ./x", ": x",
        "echo -n a", "printf a", "test a", "kill 1", "read x", "wait", "umask 077", "ulimit -c 0",
        "if true", "for x in y", "pushd /tmp", "shopt -s x", "chdir /tmp",
        "", " ", "\n", "\na", "''", "'a' b", '"a" b', "a'b' c", "é", "a é",
        "a\u00a0b", "a\x0bb", "a\rb", "a\0b", "a '\0'",
    ],
)  # fmt: skip
def test_what_only_a_shell_understands_is_left_to_it(command: str) -> None:
    assert direct_words(command) is None
    assert argv_of(command) == ["/bin/sh", "-c", command]


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("/bin/date", ["/bin/date"]),
        ("  date\t-u  \n", ["date", "-u"]),
        ("mpirun -n 4 ./app --in=a.dat", ["mpirun", "-n", "4", "./app", "--in=a.dat"]),
        ("grep -c 'a b;$c' \"it's here\" ''", ["grep", "-c", "a b;$c", "it's here", ""]),
        ("prog --name='x y'\"z\"w", ["prog", "--name=x yzw"]),
        ("a '\\' '#' '~' '*'", ["a", "\\", "#", "~", "*"]),
        ("true x", ["true", "x"]),
        ("cdo x", ["cdo", "x"]),
        ("./test x", ["./test", "x"]),
    ],
)
def test_what_needs_no_shell_runs_without_one(command: str, argv: list[str]) -> None:
    assert direct_words(command) == argv
    assert argv_of(command) == argv
    assert argv_of(command, shell=True) == argv


def test_an_argv_never_sees_a_shell() -> None:
    argv = ["show me", "$HOME; rm -rf *", "", "'", "cd"]
    for shell in (False, True, "bash"):
        assert argv_of(argv, shell) == argv
    assert argv_of(tuple(argv)) == argv
    assert argv_of(argv) is not argv
    assert argv_of(["cd /tmp"]) == ["cd /tmp"], "a program of that name"


def test_a_shell_that_is_named_reads_all_text() -> None:
    assert argv_of("date -u", shell="bash") == ["bash", "-c", "date -u"]
    assert argv_of("a < <(b)", shell="/opt/my zsh") == ["/opt/my zsh", "-c", "a < <(b)"]


@pytest.mark.parametrize("command", ["date", " a | b ", "#", ["date"], ["date", "", " "], [" "]])
def test_a_command_is_handed_on_as_it_is(command: str | list[str]) -> None:
    assert checked_command("step", command) == command


def test_a_tuple_is_an_argv() -> None:
    assert checked_command("step", ("date", "-u")) == ["date", "-u"]


NO_COMMANDS = [
    "", " \t\n", "a\0b", [], (), [""], ["", "a"], ["a", "b\0"], ["a", 1], ["a", None], [["a"]],
    b"date", [b"date"], None, 0, True, {"a": 1}, {"a"}, Path("date"), [Path("date")],
]  # fmt: skip


@pytest.mark.parametrize("command", NO_COMMANDS)
def test_what_is_no_command_is_refused_by_name_and_value(command: object) -> None:
    with pytest.raises(CommandError, match="'count_words'") as caught:
        checked_command("count_words", command)
    assert repr(command) in str(caught.value)
    assert isinstance(caught.value, (AsyncFlowError, ValueError))
