"""Staging as POSIX sh, for the script that a task runs as; it does what `apply.py` does.

It needs sh and coreutils. `test -ef`, which POSIX has since 2024, is in dash, bash and busybox.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from .plan import Delivery, Dependency, Plan, Transfer, directories_around

__all__ = ["FUNCTIONS", "names_of", "stage_in_lines", "stage_out_lines"]

# Characters of one command, so that no list of arguments gets too long for a kernel.
_LONGEST = 60_000

_LOOK = """\
# asyncflow_there PLACE...: set asyncflow_found to the one file that is in one of these places
asyncflow_there() {
  asyncflow_found=
  for asyncflow_place in "$@"; do
    [ -e "$asyncflow_place" ] || continue
    if [ -z "$asyncflow_found" ]; then
      asyncflow_found=$asyncflow_place
    elif ! [ "$asyncflow_found" -ef "$asyncflow_place" ]; then
      asyncflow_fail "input $asyncflow_origin is there twice: $asyncflow_found and $asyncflow_place"
    fi
  done
  [ -n "$asyncflow_found" ]
}

# asyncflow_need ORIGIN OTHERWISE PLACE...: find an input, and wait for it, as a shared file system may lag behind
asyncflow_need() {
  asyncflow_origin=$1 asyncflow_otherwise=$2 asyncflow_waited=0
  shift 2
  until asyncflow_there "$@"; do
    if [ -n "$asyncflow_otherwise" ] && [ -e "$asyncflow_otherwise" ]; then
      asyncflow_found=$asyncflow_otherwise
      return
    fi
    [ "$asyncflow_waited" -lt "$asyncflow_patience" ] ||
      asyncflow_fail "input $asyncflow_origin is not there: $* $asyncflow_otherwise"
    sleep 1
    asyncflow_waited=$((asyncflow_waited + 1))
  done
}
"""

_PUT = """\
# asyncflow_link DIRECTORY FILE...: link files into a directory; of links, copies are made, as links of links pile up
asyncflow_link() {
  asyncflow_into=$1 asyncflow_links=
  shift
  for asyncflow_leaf in "$@"; do
    if [ -L "$asyncflow_leaf" ]; then
      asyncflow_links=yes
    fi
  done
  [ -z "$asyncflow_links" ] || for asyncflow_leaf in "$@"; do
    shift
    if [ -L "$asyncflow_leaf" ]; then
      asyncflow_relink "$asyncflow_leaf" "$asyncflow_into/${asyncflow_leaf##*/}"
    else
      set -- "$@" "$asyncflow_leaf"
    fi
  done
  [ $# -eq 0 ] || ln -s -- "$@" "$asyncflow_into/" || asyncflow_fail "links in $asyncflow_into cannot be made"
}

# asyncflow_relink FILE NAME: make a link to what a link means
asyncflow_relink() {
  cp -P -- "$1" "$2" && [ "$1" -ef "$2" ] && return
  { rm -f -- "$2" && ln -s -- "$1" "$2"; } || asyncflow_fail "link $2 to $1 cannot be made"
}

# asyncflow_put ACTION NAME: stage what asyncflow_need has found
asyncflow_put() {
  if [ -e "$2" ] || [ -L "$2" ]; then
    asyncflow_fail "input $asyncflow_origin cannot be $2, which is there already"
  fi
  case $1 in
    link)
      if [ -L "$asyncflow_found" ]; then
        asyncflow_relink "$asyncflow_found" "$2"
      else
        ln -s -- "$asyncflow_found" "$2"
      fi ;;
    copy) cp -pRH -- "$asyncflow_found" "$2" ;;
    move) mv -- "$asyncflow_found" "$2" ;;
  esac || asyncflow_fail "$1 of $asyncflow_found to $2 failed"
}
"""

_TREES = """\
# asyncflow_share NAME: several dependencies have left it, so it is linked from none
asyncflow_share() {
  { mkdir -p -- ".asyncflow/shared/$1" && : >".asyncflow/shared/$1/=" && rm -rf -- "./$1"; } ||
    asyncflow_fail "links to $1 cannot be taken back"
  printf 'several dependencies have left %s: it is linked from none of them\\n' "$1" >>.asyncflow/staging.log
}

# asyncflow_taken FILE NAME: whether a dependency before this one has left such a file too
asyncflow_taken() {
  [ -f ".asyncflow/shared/$2/=" ] && return
  [ -e "./$2" ] || [ -L "./$2" ] || return
  [ "$1" -ef "./$2" ] || asyncflow_share "$2"
}

# asyncflow_is KIND FILE: whether a file is a link, or one that is no directory either
asyncflow_is() {
  case $1 in
    links) [ -L "$2" ] ;;
    files) [ -e "$2" ] && ! [ -L "$2" ] && ! [ -d "$2" ] ;;
  esac
}

# asyncflow_files KIND SANDBOX SUBDIRECTORY/: put links or files of one directory into the sandbox
asyncflow_files() {
  asyncflow_kind=$1 asyncflow_from=$2 asyncflow_sub=$3
  set --
  for asyncflow_leaf in "$asyncflow_from/$asyncflow_sub"* "$asyncflow_from/$asyncflow_sub".[!.]* \
    "$asyncflow_from/$asyncflow_sub"..?*; do
    asyncflow_is "$asyncflow_kind" "$asyncflow_leaf" || continue
    asyncflow_target=$asyncflow_sub${asyncflow_leaf##*/}
    asyncflow_own "$asyncflow_target" || asyncflow_declared "$asyncflow_target" ||
      asyncflow_taken "$asyncflow_leaf" "$asyncflow_target" || set -- "$@" "$asyncflow_leaf"
    if [ $# -ge 200 ]; then
      asyncflow_batch "./$asyncflow_sub" "$@"
      set --
    fi
  done
  [ $# -eq 0 ] || asyncflow_batch "./$asyncflow_sub" "$@"
}

# asyncflow_batch DIRECTORY FILE...: link or copy them; of links, copies are made, where these mean the same
asyncflow_batch() {
  asyncflow_into=$1
  shift
  case $asyncflow_action-$asyncflow_kind in
    link-files) ln -s -- "$@" "$asyncflow_into" ;;
    link-links) cp -P -- "$@" "$asyncflow_into" && asyncflow_mend "$@" ;;
    copy-*) cp -pRH -- "$@" "$asyncflow_into" ;;
  esac || asyncflow_fail "$asyncflow_action of the files of $asyncflow_from failed"
}

asyncflow_mend() {
  for asyncflow_leaf in "$@"; do
    asyncflow_target=$asyncflow_into${asyncflow_leaf##*/}
    [ "$asyncflow_leaf" -ef "$asyncflow_target" ] ||
      { rm -f -- "$asyncflow_target" && ln -s -- "$asyncflow_leaf" "$asyncflow_target"; } || return
  done
}

# asyncflow_tree SANDBOX SUBDIRECTORY/: put all files below a directory into the sandbox
asyncflow_tree() {
  if ! [ -r "$1/$2." ]; then
    asyncflow_fail "sandbox $1/$2 cannot be read"
  fi
  # Links first: one to a neighbour must not find it here, but stay with the original.
  asyncflow_files links "$1" "$2"
  asyncflow_files files "$1" "$2"
  for asyncflow_dir in "$1/$2"*/ "$1/$2".[!.]*/ "$1/$2"..?*/; do
    asyncflow_dir=${asyncflow_dir%/}
    if ! [ -d "$asyncflow_dir" ] || [ -L "$asyncflow_dir" ]; then
      continue
    fi
    asyncflow_target=$2${asyncflow_dir##*/}
    if asyncflow_own "$asyncflow_target" || asyncflow_declared_dir "$asyncflow_target" ||
      [ -f ".asyncflow/shared/$asyncflow_target/=" ]; then
      continue
    fi
    if [ -L "./$asyncflow_target" ] || { [ -e "./$asyncflow_target" ] && ! [ -d "./$asyncflow_target" ]; }; then
      asyncflow_share "$asyncflow_target"
    else
      [ -d "./$asyncflow_target" ] || mkdir -- "./$asyncflow_target" ||
        asyncflow_fail "directory $asyncflow_target cannot be made"
      asyncflow_tree "$1" "$asyncflow_target/"
    fi
  done
}
"""


def _quoted(name: str) -> str:
    """Quote a name in the sandbox, so that it is never taken for an option."""
    return shlex.quote(f"./{name}")


def names_of(plan: Plan) -> list[str]:
    """Write the functions that know the names of a plan; FUNCTIONS call them."""
    if not plan.dependencies:
        return []
    reserved = plan.reserved()
    return [
        "# Names of declared files, which no file of a dependency takes, nor those of the directories around them",
        _case("asyncflow_declared", reserved.union(directories_around(reserved))),
        _case("asyncflow_declared_dir", reserved),
    ]


def stage_in_lines(plan: Plan, patience: int) -> list[str]:
    """Write what puts the inputs of a task into the sandbox, which is the current directory.

    Args:
        patience: seconds to wait for a declared file.
    """
    if not plan.stages_in:
        return []
    lines = [f"asyncflow_patience={patience}"]
    above = {name: None for transfer in plan.transfers if (name := os.path.dirname(transfer.name))}
    for words in _batches(_quoted(name) for name in above):
        lines.append(f"mkdir -p -- {words} || asyncflow_fail 'directories cannot be made'")
    for (simple, directory), group in groupby(plan.transfers, _kind):
        together = list(group)
        lines += _links(directory, together) if simple else [_one(transfer) for transfer in together]
    if plan.dependencies:
        lines += _dependency_lines(plan)
    return lines


def _kind(transfer: Transfer) -> tuple[bool, str]:
    """Say whether it is a link of the file's own name, and in which directory: such go together in one command."""
    directory, name = os.path.split(transfer.name)
    place = transfer.places[0] if len(transfer.places) == 1 else ""
    simple = transfer.action == "link" and transfer.otherwise is None and os.path.basename(place) == name
    return (True, directory) if simple else (False, "")


def _links(directory: str, transfers: Sequence[Transfer]) -> list[str]:
    into = shlex.quote(f"./{directory}") if directory else "."
    # A function for each would take longer than the links.
    lines = [f"[ -e {shlex.quote(item.places[0])} ] || asyncflow_need {_words(item)}" for item in transfers]
    for words in _batches([shlex.quote(item.places[0]) for item in transfers]):
        lines.append(f"asyncflow_link {into} {words}")
    return lines


def _one(transfer: Transfer) -> str:
    return f"asyncflow_need {_words(transfer)}; asyncflow_put {transfer.action} {_quoted(transfer.name)}"


def _words(transfer: Transfer) -> str:
    words = [transfer.origin, transfer.otherwise or "", *transfer.places]
    return " ".join(shlex.quote(word) for word in words)


def _batches(words: Iterable[str]) -> Iterator[str]:
    """Join words to parts of commands, each no longer than a command may be."""
    batch: list[str] = []
    length = 0
    for word in words:
        if batch and length + len(word) > _LONGEST:
            yield " ".join(batch)
            batch, length = [], 0
        batch.append(word)
        length += len(word) + 1
    if batch:
        yield " ".join(batch)


def _dependency_lines(plan: Plan) -> list[str]:
    lines = []
    named = [dependency for dependency in plan.dependencies if os.path.basename(dependency.sandbox) == dependency.link]
    for words in _batches(shlex.quote(dependency.sandbox) for dependency in named):
        lines.append(f"ln -s -- {words} . || asyncflow_fail 'links to dependencies cannot be made'")
    for dependency in plan.dependencies:
        if dependency not in named:
            lines.append(
                f"ln -s -- {shlex.quote(dependency.sandbox)} {_quoted(dependency.link)}"
                " || asyncflow_fail 'links to dependencies cannot be made'"
            )
    for dependency in plan.dependencies:
        lines += _tree_lines(dependency)
    return lines


def _tree_lines(dependency: Dependency) -> list[str]:
    return [
        _case("asyncflow_own", dependency.own),
        f"asyncflow_action='{dependency.action}'",
        f"asyncflow_tree {shlex.quote(dependency.sandbox)} ''",
    ]


def _case(function: str, names: Iterable[str]) -> str:
    patterns = "|".join(shlex.quote(name) for name in sorted(names))
    arm = f"    {patterns}) return 0 ;;\n" if patterns else ""
    return f"{function}() {{\n  case $1 in\n{arm}    *) return 1 ;;\n  esac\n}}"


_EXPECT = """\
# asyncflow_expect NUMBER FILE: note an output that is not there
asyncflow_expect() {
  [ -e "$2" ] || asyncflow_missing=$asyncflow_missing${asyncflow_missing:+, }$1
}
"""

_DELIVER = """\
# asyncflow_deliver FILE TARGET PART: copy an output to its final place, where it appears whole
asyncflow_deliver() {
  { mkdir -p -- "${2%/*}/" && rm -rf -- "$3" && cp -pRH -- "$1" "$3"; } || asyncflow_undelivered "$1" "$2"
  if [ -d "$2" ] && ! [ -L "$2" ]; then
    mv -- "$2" "$3.old" && mv -- "$3" "$2" && rm -rf -- "$3.old"
  else
    mv -f -- "$3" "$2"
  fi || asyncflow_undelivered "$1" "$2"
}

asyncflow_undelivered() {
  asyncflow_fail "output $1 cannot be copied to $2"
}
"""


def stage_out_lines(promised: Sequence[str], deliveries: Sequence[Delivery], mark: str) -> list[str]:
    """Write what looks for the promised files, in the current directory, and copies them to their final places.

    Args:
        mark: unique to this attempt, for the names of what is not whole yet.
    """
    lines = []
    if promised:
        lines += [f"asyncflow_expect {number} {_path(name)}" for number, name in enumerate(promised)]
        lines.append('[ -z "$asyncflow_missing" ] || exit 1')
    for delivery in deliveries:
        above, name = os.path.split(delivery.target)
        part = f"{above}/.{name}.{mark}.part"
        words = (_path(delivery.name), shlex.quote(delivery.target), shlex.quote(part))
        lines.append(f"asyncflow_deliver {' '.join(words)}")
    return lines


def _path(name: str) -> str:
    return shlex.quote(name) if os.path.isabs(name) else _quoted(name)


FUNCTIONS = "\n".join([_LOOK, _PUT, _TREES, _EXPECT, _DELIVER])
"""What the lines for a plan call; the script must have `asyncflow_fail MESSAGE`, which ends it."""
