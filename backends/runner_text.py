"""The text of the runner, which carries every attempt from its claim to its completion record, and that of its step.

The runner is the same for all tasks, lies once in each session, and evaluates no word of a user: what differs from one
attempt to the next are quoted words in the attempt's own `run.sh`, which ends by reading the runner. The user's lines
and command are in `task.sh`, which the runner starts in a process group of its own.

It needs sh and coreutils; setsid of util-linux, or bash, gives the task its process group.
"""

from __future__ import annotations

__all__ = ["RUNNER", "STEP"]

# Bytes that a record may have; a file system gives a file no less than that.
_ROOM = 4000

_RUNNER = r"""# The runner of asyncflow_hpc, read by the run.sh of each attempt; it holds no word of a user.
# It claims the attempt, stages its files, starts task.sh, waits, judges, and leaves a record in .asyncflow/exit.json.
# shellcheck shell=sh disable=SC2034,SC2154,SC2329

# As bash, sh takes functions from its environment, which may bear the names of tools; with -p it does not.
# Only bash can start a task in a group of its own without a session of its own.
asyncflow_shell=${BASH_VERSION:+bash}
case $asyncflow_shell.$-.$asyncflow_apart in
  bash.*p*.*) ;;
  bash.*) exec "${BASH:-/bin/bash}" -p "$0" "$@" ;;
  *.group) [ ! -x /bin/bash ] || exec /bin/bash -p "$0" "$@" ;;
esac
IFS='@IFS@'
asyncflow_path=${PATH-} asyncflow_pathless=${PATH-yes}
PATH=/usr/bin:/bin:/usr/sbin:/sbin:/usr/local/bin:/run/current-system/sw/bin
umask 077
cd -- "$asyncflow_box" || exit 125

# asyncflow_clean VALUE: set asyncflow_plain to it if it may stand in a string of JSON, else to nothing
asyncflow_clean() {
  case $1 in
    *[!]A-Za-z0-9_.,:@/+=[" "-]*) asyncflow_plain='' ;;
    *) asyncflow_plain=$1 ;;
  esac
}

# asyncflow_look: set asyncflow_clock to the seconds since the machine was started, or else since the epoch
asyncflow_look() {
  if [ -r /proc/uptime ]; then
    read -r asyncflow_clock asyncflow_rest </proc/uptime
  else
    asyncflow_clock=$(date +%s)
  fi
}

# asyncflow_kills: set asyncflow_oom to the number of processes that the kernel has killed for memory in this cgroup
asyncflow_kills() {
  asyncflow_oom=null
  [ -n "$asyncflow_events" ] || return 0
  while read -r asyncflow_key asyncflow_value; do
    [ "$asyncflow_key" != oom_kill ] || asyncflow_oom=$asyncflow_value
  done <"$asyncflow_events"
  case $asyncflow_oom in
    '' | *[!0-9]*) asyncflow_oom=null ;;
  esac
}

# asyncflow_find_cgroup: set asyncflow_events to the file that counts such kills, and asyncflow_cgroup to the cgroup
asyncflow_find_cgroup() {
  asyncflow_events='' asyncflow_cgroup=''
  [ -r /proc/self/cgroup ] || return 0
  while IFS=: read -r asyncflow_key asyncflow_value asyncflow_rest; do
    asyncflow_file=''
    case ,$asyncflow_value, in
      ,,) asyncflow_file=/sys/fs/cgroup$asyncflow_rest/memory.events ;;
      *,memory,*) asyncflow_file=/sys/fs/cgroup/memory$asyncflow_rest/memory.oom_control ;;
    esac
    if [ -n "$asyncflow_file" ] && [ -r "$asyncflow_file" ]; then
      asyncflow_events=$asyncflow_file asyncflow_cgroup=$asyncflow_rest
    fi
  done </proc/self/cgroup
}

# asyncflow_claim: only the job that comes first runs the attempt; the same job may run it again, as when it was put
# back into the queue, until the task has ended by itself. Of symbolic links with one name, one alone can be made, on
# every file system.
asyncflow_claim() {
  if [ -z "$asyncflow_native" ] || ln -s -- "$asyncflow_native" .asyncflow/claim 2>/dev/null; then
    return 0
  fi
  asyncflow_first=$(readlink .asyncflow/claim)
  if [ "$asyncflow_first" != "$asyncflow_native" ]; then
    printf 'nothing is run: this task belongs to job %s, not to %s\n' "$asyncflow_first" "$asyncflow_native" >&2
    exit 75
  elif [ -e .asyncflow/ended ]; then
    echo 'nothing is run: this task has ended in an earlier run of its job' >&2
    exit 75
  fi
  asyncflow_again=yes
}

# asyncflow_forget: remove the marks of an earlier run
asyncflow_forget() {
  rm -f -- .asyncflow/exit.json .asyncflow/usage .asyncflow/began .asyncflow/finished .asyncflow/group .asyncflow/code.*
  for asyncflow_file in "$asyncflow_out" "$asyncflow_err"; do
    : >"$asyncflow_file"
  done
}

asyncflow_fail() {
  printf '%s\n' "$*" >"$asyncflow_box/.asyncflow/error"
  exit 1
}

# asyncflow_note SIGNAL: note a signal
asyncflow_note() {
  asyncflow_noted=$asyncflow_noted${asyncflow_noted:+ }$1 asyncflow_count=$((asyncflow_count + 1))
  [ -z "$asyncflow_waiting" ] || asyncflow_hand_on "$1"
}

# asyncflow_hand_on SIGNAL: send a signal to the task, where nobody else does, and kill it soon where the job will be
# killed, so that there is time for the record and for what the task leaves behind
asyncflow_hand_on() {
  [ -z "$asyncflow_forward" ] || kill "-$1" "-$asyncflow_group" 2>/dev/null
  case $1 in
    USR*) return 0 ;;
  esac
  if [ "$asyncflow_waiting" = yes ] && [ -n "$asyncflow_hurry" ]; then
    asyncflow_waiting=hurry
    set -m
    (sleep "$asyncflow_hurry" && kill -KILL "-$asyncflow_group") >/dev/null 2>&1 &
    asyncflow_killer=$!
    set +m
  fi
}

# asyncflow_usage: read what GNU time has written: a line about a signal, and the peak of memory and the CPU times
asyncflow_usage() {
  asyncflow_signal=null asyncflow_used=
  if [ -f .asyncflow/usage ]; then
    while read -r asyncflow_line; do
      case $asyncflow_line in
        'Command terminated by signal '*) asyncflow_signal=${asyncflow_line##* } ;;
        'Command '*) ;;
        *) asyncflow_used=$asyncflow_line ;;
      esac
    done <.asyncflow/usage
  fi
  case $asyncflow_signal in
    *[!0-9]*) asyncflow_signal=null ;;
  esac
  asyncflow_clean "$asyncflow_used"
  asyncflow_used=$asyncflow_plain
}

# asyncflow_return CODE: go back to the sandbox; where the task has removed it there can be no record, and a driver that
# is not the parent of this process must not take the job for one that ended well
asyncflow_return() {
  cd -- "$asyncflow_box" && return 0
  [ -z "$asyncflow_watched" ] || exit 125
  exit "$1"
}

# asyncflow_finish CODE: leave the completion record, whole or not at all, and then the marker
asyncflow_finish() {
  asyncflow_return "$1"
  [ -z "$asyncflow_result" ] || set -- "$asyncflow_result"
  [ "$asyncflow_stage" != stage_out ] || [ -z "$asyncflow_missing" ] || set -- 0
  asyncflow_kills
  asyncflow_look
  { times; } >.asyncflow/times
  { read -r asyncflow_times && read -r asyncflow_children; } <.asyncflow/times
  trap '' HUP INT TERM USR1 USR2 XCPU
  # It was not ended from outside, so its record is final, and its driver has it or will.
  if [ -z "$asyncflow_noted" ] && [ "$asyncflow_signal" = null ] && [ "$1" -le 128 ]; then
    { :; } >.asyncflow/ended
  fi
  {
    printf '{%s, "stage": "%s", "exit_code": %d, "signal": %s, "noted": "%s", "missing": [%s], ' \
      "$asyncflow_own" "$asyncflow_stage" "$1" "$asyncflow_signal" "$asyncflow_noted" "$asyncflow_missing" &&
    printf '"clock": [%s, %s], "host": "%s", "native_id": "%s", "times": "%s %s", "usage": "%s", ' \
      "$asyncflow_start" "$asyncflow_clock" "$asyncflow_host" "$asyncflow_native" \
      "$asyncflow_times" "$asyncflow_children" "$asyncflow_used" &&
    printf '"oom": [%s, %s], "cgroup": "%s"}\n' "$asyncflow_oom_before" "$asyncflow_oom" "$asyncflow_cgroup"
  } 1<>"$asyncflow_record" &&
    { [ -z "$asyncflow_durable" ] || sync -- "$asyncflow_record"; } &&
    { [ -z "$asyncflow_watched" ] || mv -f -- "$asyncflow_record" .asyncflow/exit.json; } && : >"$asyncflow_marker"
}

# asyncflow_begin [SHELL...]: become the task, in the environment that the runner was given
asyncflow_begin() {
  if [ -n "$asyncflow_timer" ]; then
    # It must outlive the command, which alone is to be ended by a signal.
    trap '' HUP INT TERM USR1 USR2 XCPU
    set -- "$asyncflow_timer" -o "$asyncflow_box/.asyncflow/usage" -f '%M %U %S' -- \
      /usr/bin/env --default-signal=HUP,INT,TERM,USR1,USR2,XCPU "$@"
  fi
  if [ "$asyncflow_shell.$asyncflow_apart" != bash.group ] && [ -n "$asyncflow_setsid" ]; then
    # The group is known before there is one: it bears the number of this process.
    read -r asyncflow_group asyncflow_rest </proc/self/stat && printf '%s\n' "$asyncflow_group" >.asyncflow/group
    set -- "$asyncflow_setsid" "$@"
  fi
  umask "$asyncflow_umask"
  exec 2>>"$asyncflow_err" </dev/null
  if [ "$asyncflow_pathless" = yes ] && [ -z "$asyncflow_path" ]; then
    unset PATH
  else
    PATH=$asyncflow_path
  fi
  [ -z "$asyncflow_lines" ] || exec "$@"
  # Without lines of the user, task.sh is read here, which saves a shell; it puts these words before the command.
  . "$asyncflow_box/.asyncflow/task.sh"
}

# asyncflow_run [SHELL...]: run the task in a group of its own, end what it has left there, and set asyncflow_code;
# SHELL are the words that start a shell on task.sh, if that holds lines of the user
asyncflow_run() {
  if [ "$asyncflow_shell.$asyncflow_apart" = bash.group ]; then
    # shellcheck disable=SC3040
    set +o posix
    set -m
    (asyncflow_begin "$@") &
    asyncflow_group=$! asyncflow_waiting=yes
    set +m
    printf '%s\n' "$asyncflow_group" >.asyncflow/group
    [ -z "$asyncflow_noted" ] || asyncflow_hand_on TERM
    while :; do
      asyncflow_seen=$asyncflow_count
      wait "$asyncflow_group"
      asyncflow_code=$?
      # A signal cuts the wait short, with a code of its own.
      [ "$asyncflow_code" -gt 128 ] && [ "$asyncflow_seen" != "$asyncflow_count" ] || break
    done
    asyncflow_waiting=''
    [ -z "$asyncflow_killer" ] || kill -KILL "-$asyncflow_killer" 2>/dev/null
  else
    asyncflow_group=''
    (asyncflow_begin "$@")
    asyncflow_code=$?
    [ ! -f .asyncflow/group ] || read -r asyncflow_group asyncflow_rest <.asyncflow/group
  fi
  case $asyncflow_group in
    '' | 0 | 1 | *[!0-9]*) ;;
    *) kill -KILL "-$asyncflow_group" 2>/dev/null ;;
  esac
  [ -z "$asyncflow_daemons" ] || asyncflow_end_daemons
}

# asyncflow_end_daemons: end what the task has left in other groups and sessions; its environment tells it
asyncflow_end_daemons() {
  # shellcheck disable=SC2013
  for asyncflow_file in $(grep -lzsxF -- "ASYNCFLOW_SANDBOX=$asyncflow_box" /proc/[0-9]*/environ); do
    asyncflow_pid=${asyncflow_file#/proc/}
    kill -KILL "${asyncflow_pid%/environ}" 2>/dev/null
  done
}

# asyncflow_judge: set asyncflow_stage and asyncflow_code by how the task has ended
asyncflow_judge() {
  asyncflow_return "$asyncflow_code"
  asyncflow_stage=run
  if [ -z "$asyncflow_lines" ]; then
    { :; } >".asyncflow/code.$asyncflow_code"
    return 0
  fi
  set -- .asyncflow/code.*
  asyncflow_own_code=${1##*.}
  if ! [ -e .asyncflow/began ]; then
    asyncflow_stage=pre_exec
  elif ! [ -e "$1" ]; then
    asyncflow_stage=lost
  elif [ "$asyncflow_own_code" -ne 0 ] || [ -e .asyncflow/finished ]; then
    # A signal that has ended the shell after the command has not ended the command.
    asyncflow_code=$asyncflow_own_code asyncflow_signal=null
  else
    asyncflow_stage=post_exec
  fi
}

if [ -n "$asyncflow_native" ]; then
  asyncflow_clean "$asyncflow_native"
  asyncflow_native=$asyncflow_plain
fi
asyncflow_again=''
[ -z "$asyncflow_claims" ] || asyncflow_claim
[ -z "$asyncflow_again" ] || asyncflow_forget
# Where somebody may read the record before the runner has ended, it appears whole.
asyncflow_record=.asyncflow/exit.json${asyncflow_watched:+.part}
# Room for the record, should the disk be full at the end: else nothing is run.
if ! printf '%@ROOM@s\n' '' >"$asyncflow_record"; then
  rm -f -- "$asyncflow_record"
  [ -z "$asyncflow_claims" ] || rm -f -- .asyncflow/claim
  exit 125
fi
exec >>"$asyncflow_out" 2>>.asyncflow/script.log
asyncflow_stage=stage_in asyncflow_code=0 asyncflow_noted='' asyncflow_count=0 asyncflow_missing='' asyncflow_waiting=''
asyncflow_result='' asyncflow_killer=''
asyncflow_look
asyncflow_start=$asyncflow_clock
if [ -r /proc/sys/kernel/hostname ]; then
  read -r asyncflow_host </proc/sys/kernel/hostname
else
  asyncflow_host=$(uname -n)
fi
asyncflow_clean "$asyncflow_host"
asyncflow_host=$asyncflow_plain
printf '%s\n' "$asyncflow_host" >.asyncflow/host
asyncflow_find_cgroup
asyncflow_clean "$asyncflow_cgroup"
asyncflow_cgroup=$asyncflow_plain
asyncflow_kills
asyncflow_oom_before=$asyncflow_oom
asyncflow_signal=null asyncflow_used=''
for asyncflow_name in HUP INT TERM USR1 USR2 XCPU; do
  # shellcheck disable=SC2064
  trap "asyncflow_note $asyncflow_name" "$asyncflow_name"
done
trap 'asyncflow_finish $?' EXIT

if [ -n "$asyncflow_stages_in" ] && ! { [ -n "$asyncflow_claims" ] && [ -e .asyncflow/staged ]; }; then
  umask "$asyncflow_umask"
  asyncflow_stage_in
  umask 077
  # A later run of the same job finds what this one has staged, and what it wrote.
  [ -z "$asyncflow_claims" ] || : >.asyncflow/staged
fi
[ -z "$asyncflow_cwd" ] || [ -d "$asyncflow_cwd" ] || asyncflow_fail "$asyncflow_cwd is not there"
case " $asyncflow_noted " in
  *' HUP '* | *' INT '* | *' TERM '* | *' XCPU '*)
    # It has been asked to end before there was anything to end.
    asyncflow_stage=pre_exec
    exit 125
    ;;
esac

asyncflow_setsid=''
for asyncflow_file in /usr/bin/setsid /bin/setsid /run/current-system/sw/bin/setsid; do
  [ -z "$asyncflow_setsid" ] && [ -x "$asyncflow_file" ] && [ -r /proc/self/stat ] && asyncflow_setsid=$asyncflow_file
done
[ -x "$asyncflow_timer" ] && /usr/bin/env --default-signal=TERM true 2>/dev/null || asyncflow_timer=''
# Without lines of the user, task.sh is the command and nothing else.
[ -n "$asyncflow_lines" ] || { :; } >.asyncflow/began
asyncflow_task
asyncflow_usage
asyncflow_judge
[ "$asyncflow_code" -eq 0 ] || exit "$asyncflow_code"
if [ "$asyncflow_stage" != run ]; then
  # The job has failed, though all that ended in it ended with 0.
  asyncflow_result=0
  exit 125
fi
asyncflow_stage=stage_out
umask "$asyncflow_umask"
if [ -n "$asyncflow_stages_out" ]; then
  cd -- "${asyncflow_cwd:-$asyncflow_box}" || asyncflow_fail 'its directory is gone'
  asyncflow_stage_out
fi
umask 077
asyncflow_stage=run
exit 0
"""

STEP = r"""#!/bin/sh
# Runs the command of a task between the user's lines; notes that it has begun, and how it has ended.
# Usage: sh step.sh SANDBOX COMMAND...
asyncflow_own=$1/.asyncflow
shift
{ :; } >"$asyncflow_own/began" || exit 125
if { :; } 9>&2; then
  # The words of this shell on a command that a signal has ended are no output of the task.
  { (exec "$@" 2>&9 9>&-); } 9>&2 2>/dev/null
else
  (exec "$@")
fi
asyncflow_code=$?
{ :; } >"$asyncflow_own/code.$asyncflow_code"
exit "$asyncflow_code"
"""

RUNNER = _RUNNER.replace("@ROOM@", str(_ROOM)).replace("@IFS@", " \t\n")
