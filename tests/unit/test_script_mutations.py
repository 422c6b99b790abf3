"""Random edits of small scripts: what changes the result of a function changes its key, and layout and names do not.

What the edited script does when it is executed anew is the judge.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow_hpc.keys import Unkeyable, digest_of_code

SCRIPTS = {
    "values": '''
import math
import functools as ft
LIMIT, NAMES, TABLE = 5, ["a", "b"], {"a": 1, "b": [2, 3]}
OTHER = ["a", "b"]
def scale(x, factor=2, *, offset=1):
    """Scale a value."""
    total = x * factor
    for step in range(3):
        total += step - offset
    return total
def fill(n):
    NAMES.append(str(n))
@ft.lru_cache(maxsize=None)
def cached(n):
    return n + LIMIT
def work(n=3):
    fill(n)
    first = scale(n, offset=2)
    second = [scale(item) for item in range(n) if item % 2 == 0]
    third = {key: value for key, value in TABLE.items() if key != "c"}
    return first, second, third, NAMES, OTHER, cached(first), math.floor(n / 2), LIMIT > n or first < 0
''',
    "closures": '''
def make(amount, start=0):
    """Make functions that share a variable."""
    count = start
    other = start
    log = []
    spare = []
    def bump(by=1):
        nonlocal count
        count += by * amount
        log.append(count)
        return count
    def show():
        return count, other, log, spare
    return bump, show
def twice(function):
    def wrapper(*args, **kwargs):
        before = function(*args, **kwargs)
        after = function(*args, **kwargs)
        return before, after
    return wrapper
bump, show = make(2)
@twice
def add(a, b=4):
    result = a + b
    return bump(result)
def work(n=3):
    """Work."""
    values = add(n), add(n, b=1)
    total = sum(value for pair in values for value in pair)
    small = lambda x, y=total: x - y
    return total, small(n), show(), [small(i) for i in range(2)]
''',
    "classes": '''
import dataclasses
import enum
import typing
class Base:
    """The base."""
    kind = "base"
    factor = 2
    def __init__(self, size=1):
        self.size = size
    def area(self):
        return self.size * self.factor
    @property
    def name(self):
        return self.kind.upper()
    @classmethod
    def make(cls, size):
        return cls(size + 1)
    @staticmethod
    def unit(flag=True):
        return "m" if flag else "km"
class Square(Base):
    factor = 3
    def area(self):
        inner = super().area()
        return inner ** 2 - 1
@dataclasses.dataclass(order=True)
class Point:
    """A place."""
    x: int
    y: float = 2.0
    tags: list = dataclasses.field(default_factory=lambda: ["t"], metadata={"unit": 1})
class Colour(enum.Flag):
    RED = 1
    BLUE = 2
    def mixed(self):
        return self | Colour.BLUE
class Pair(typing.NamedTuple):
    left: int
    right: int = 4
def work(n=3):
    shape = Square.make(n)
    point = Point(n)
    hints = [(field.name, str(field.type), dict(field.metadata)) for field in dataclasses.fields(point)]
    both = Pair(n), Pair(left=1)
    return (
        shape.area(), Base(n).area(), shape.name, shape.unit(), repr(point), point < Point(4), hints,
        Colour.RED.mixed().value, [colour.name for colour in Colour], both, isinstance(shape, Base),
    )
''',
    "control": '''
import functools
from contextvars import ContextVar
from math import floor as down, ceil as up
level = ContextVar("level", default=1)
class Trouble(Exception):
    code = 7
def check(n):
    if n > 2:
        raise Trouble(n)
    return n
def items(n):
    """Yield."""
    for item in range(n):
        if item == 1:
            continue
        got = yield item
        if got:
            break
@functools.singledispatch
def show(value):
    return "other"
@show.register
def _(value: int):
    return "int"
def classify(value):
    match value:
        case [first, *rest]:
            return first, rest
        case {"a": inner}:
            return inner
        case str() | int():
            return "plain"
    return None
async def later(n):
    result = n + level.get()
    return result
def run(coroutine):
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
def work(n=3):
    try:
        found = check(n)
    except (Trouble, ValueError) as error:
        found = f"{error!r:>10} {error.code}"
    else:
        found = found + 1
    finally:
        last = list(items(n))
    with_walrus = [half for item in range(4) if (half := item // 2) > 0]
    global STATE
    STATE = n
    return (
        found, last, with_walrus, show(n), show("x"), classify([1, 2, n]), classify({"a": 5}), classify("s"),
        run(later(n)), down(2.5), up(2.5), STATE, not n, n if n else -n, *range(2),
    )
''',
}

Edit = Callable[[ast.Module, random.Random], bool]


def nodes(tree: ast.AST, *kinds: type[ast.AST]) -> list[Any]:
    """All nodes of some kinds."""
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def documented(tree: ast.AST) -> list[Any]:
    """What may have a docstring."""
    return nodes(tree, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def docstrings(tree: ast.AST) -> set[int]:
    """The ids of the constants that are docstrings."""
    return {id(node.body[0].value) for node in documented(tree) if ast.get_docstring(node) is not None}


def change_constant(tree: ast.Module, source: random.Random) -> bool:
    """Change a number or a text."""
    known = docstrings(tree)
    found = [node for node in nodes(tree, ast.Constant) if id(node) not in known and node.value is not Ellipsis]
    node = source.choice(found)
    if isinstance(node.value, bool) or node.value is None:
        node.value = not node.value
    elif isinstance(node.value, str):
        node.value += "x"
    else:
        node.value = source.choice([node.value + 1, -node.value, float(node.value), node.value * 2])
    return True


def change_operator(tree: ast.Module, source: random.Random) -> bool:
    """Put another operator in the place of one."""
    node = source.choice(nodes(tree, ast.BinOp, ast.Compare, ast.BoolOp, ast.AugAssign, ast.UnaryOp))
    if isinstance(node, ast.Compare):
        node.ops[0] = source.choice([ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Eq, ast.NotEq])()
    elif isinstance(node, ast.BoolOp):
        node.op = source.choice([ast.And, ast.Or])()
    elif isinstance(node, ast.UnaryOp):
        node.op = source.choice([ast.Not, ast.USub, ast.UAdd])()
    else:
        node.op = source.choice([ast.Add, ast.Sub, ast.Mult, ast.FloorDiv, ast.Mod])()
    return True


def change_name(tree: ast.Module, source: random.Random) -> bool:
    """Read another variable in the place of one."""
    found = nodes(tree, ast.Name)
    read = source.choice([node for node in found if isinstance(node.ctx, ast.Load)])
    read.id = source.choice([node.id for node in found])
    return True


def change_attribute(tree: ast.Module, source: random.Random) -> bool:
    """Read another attribute in the place of one."""
    found = nodes(tree, ast.Attribute)
    source.choice(found).attr = source.choice(found).attr
    return True


def drop_statement(tree: ast.Module, source: random.Random) -> bool:
    """Leave out a statement."""
    bodies = [node for node in ast.walk(tree) if isinstance(getattr(node, "body", None), list)]
    node = source.choice([node for node in bodies if len(node.body) > 1])
    del node.body[source.randrange(len(node.body))]
    return True


def swap_statements(tree: ast.Module, source: random.Random) -> bool:
    """Exchange two statements that follow each other in a function or class."""
    node = source.choice([node for node in documented(tree) if len(node.body) > 1])
    place = source.randrange(len(node.body) - 1)
    node.body[place], node.body[place + 1] = node.body[place + 1], node.body[place]
    return True


def change_default(tree: ast.Module, source: random.Random) -> bool:
    """Change, add or drop the default of a parameter."""
    arguments = source.choice(nodes(tree, ast.arguments))
    if arguments.defaults and source.random() < 0.7:
        arguments.defaults[source.randrange(len(arguments.defaults))] = ast.Constant(source.randint(5, 9))
    elif arguments.kw_defaults:
        arguments.kw_defaults[0] = ast.Constant(source.randint(5, 9))
    elif len(arguments.args) > len(arguments.defaults):
        arguments.defaults.insert(0, ast.Constant(source.randint(5, 9)))
    return True


def change_annotation(tree: ast.Module, source: random.Random) -> bool:
    """Change the annotation of an attribute of a class."""
    found = nodes(tree, ast.AnnAssign)
    if not found:
        return False
    source.choice(found).annotation = ast.Name(source.choice(["str", "bytes", "set"]), ast.Load())
    return True


def change_base(tree: ast.Module, source: random.Random) -> bool:
    """Let a class have another base, or no decorator."""
    found = nodes(tree, ast.ClassDef, ast.FunctionDef)
    node = source.choice(found)
    if node.decorator_list:
        node.decorator_list.pop()
    elif isinstance(node, ast.ClassDef):
        node.bases = [ast.Name(source.choice(["object", "dict", "Base"]), ast.Load())]
    return True


CHANGES: list[Edit] = [
    change_constant, change_operator, change_name, change_attribute, drop_statement, swap_statements, change_default,
    change_annotation, change_base,
]  # fmt: skip


def change_docstring(tree: ast.Module, source: random.Random) -> bool:
    """Write, change or drop a docstring."""
    node = source.choice(documented(tree))
    if ast.get_docstring(node) is not None:
        node.body.pop(0)
    if source.random() < 0.7 or not node.body:
        node.body.insert(0, ast.Expr(ast.Constant(f"Number {source.random()}.\n\nAnd more.")))
    return True


def rename_local(tree: ast.Module, source: random.Random) -> bool:
    """Give a local variable another name, which sorts elsewhere."""
    function = source.choice(nodes(tree, ast.FunctionDef, ast.AsyncFunctionDef))
    outside = {name for node in nodes(tree, ast.Global) for name in node.names}
    if any(isinstance(node, ast.Nonlocal) for node in ast.walk(function)):
        return False
    bound = {node.id for node in nodes(function, ast.Name) if isinstance(node.ctx, ast.Store)} - outside
    if not bound:
        return False
    old, new = source.choice(sorted(bound)), source.choice(["a", "m", "zz"]) + str(source.randrange(1000))
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id == old:
            node.id = new
    return True


def rename_import(tree: ast.Module, source: random.Random) -> bool:
    """Import something under another name."""
    found = [alias for node in nodes(tree, ast.Import, ast.ImportFrom) for alias in node.names if "." not in alias.name]
    if not found:
        return False
    alias = source.choice(found)
    old, alias.asname = alias.asname or alias.name, f"renamed{source.randrange(1000)}"
    for node in nodes(tree, ast.Name):
        if node.id == old:
            node.id = alias.asname
    return True


def add_unrelated(tree: ast.Module, source: random.Random) -> bool:
    """Define something that nothing refers to."""
    text = source.choice(["def unrelated():\n    return 1\n", "class Unrelated:\n    n = 1\n", "UNRELATED = [1]\n"])
    tree.body.insert(source.randrange(len(tree.body) + 1), ast.parse(text).body[0])
    return True


def reorder(tree: ast.Module, source: random.Random) -> bool:
    """Exchange two plain functions that follow each other, in the script or in a class."""
    groups = [tree.body, *(node.body for node in nodes(tree, ast.ClassDef))]
    body = source.choice(groups)
    for place in range(len(body) - 1):
        pair = body[place : place + 2]
        if all(isinstance(node, ast.FunctionDef) and not node.decorator_list for node in pair):
            body[place : place + 2] = reversed(pair)
            return True
    return False


def annotate(tree: ast.Module, source: random.Random) -> bool:
    """Annotate a local variable, or the parameters of a plain function."""
    function = source.choice([node for node in tree.body if isinstance(node, ast.FunctionDef)])
    if function.decorator_list:
        return False
    for argument in function.args.args:
        argument.annotation = ast.Name("object", ast.Load())
    for place, node in enumerate(function.body):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            function.body[place] = ast.AnnAssign(node.targets[0], ast.Name("object", ast.Load()), node.value, 1)
    return True


NEUTRAL: list[Edit] = [change_docstring, rename_local, rename_import, add_unrelated, reorder, annotate]


def executed(tree: ast.Module) -> Any:
    """The function of a script, executed as the main one; None if it is no script."""
    ast.fix_missing_locations(tree)
    space: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(ast.unparse(tree), "<script>", "exec", dont_inherit=True), space)
    except Exception:
        return None
    return space.get("work") if callable(space.get("work")) else None


def result(work: Any) -> str:
    """What calling a function comes to."""
    try:
        return re.sub(" at 0x[0-9a-f]+", "", repr([work(), work(1), work(n=4)]))
    except Exception as error:
        return repr(error)


def key_of(work: Any) -> str:
    """The key of a function; "" where it has none, so that nothing is reused."""
    try:
        return digest_of_code(work)
    except Unkeyable:
        return ""


def count_of(name: str, seed: int, edits: int) -> tuple[int, int, list[str]]:
    """Edit a script again and again: how often its result changed, how often nothing did, and what went wrong."""
    source = random.Random(f"{name} {seed}")
    text = SCRIPTS[name]
    known, expected = digest_of_code(executed(ast.parse(text))), result(executed(ast.parse(text)))
    changed = neutral = 0
    wrong = []
    for _ in range(edits):
        tree = ast.parse(text)
        edit = source.choice(CHANGES if source.random() < 0.65 else NEUTRAL)
        done = edit(tree, source)
        work = executed(tree)
        if not done or work is None:
            continue
        key, found = key_of(work), result(work)
        if found != expected:
            changed += 1
            if key == known:
                wrong.append(f"{edit.__name__}: another result, but the same key:\n{ast.unparse(tree)}")
        if edit in NEUTRAL:
            neutral += 1
            assert found == expected, f"{edit.__name__} is not neutral:\n{ast.unparse(tree)}"
            if key != known:
                wrong.append(f"{edit.__name__}: the same result, but another key:\n{ast.unparse(tree)}")
    return changed, neutral, wrong


@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name", SCRIPTS)
def test_edits(name: str) -> None:
    changed, neutral, wrong = count_of(name, 16, 250)
    assert not wrong, "\n\n".join(wrong)
    assert changed > 50
    assert neutral > 30
