"""Function bodies of real life: what scripts do to the process that they run in, and what a later call can see of it.

Each one stands alone, as in a script of its own. What it returns can be compared.
"""

# Files that nobody closes are what some are about.
# ruff: noqa: SIM115
# mypy: ignore-errors

from __future__ import annotations

__all__ = ["CHANGES", "ENDS", "VIEWS"]


def change_environment():
    import os

    os.environ["CHANGED"] = "yes"
    os.environ.pop("HOME", None)
    os.putenv("CHANGED_TOO", "yes")


def change_umask():
    import os

    return os.umask(0o777)


def change_directory():
    import os

    os.chdir("/")


def change_random_seed():
    import random

    random.seed(1)
    return random.random()


def change_handlers():
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])


def change_timer():
    import signal

    signal.setitimer(signal.ITIMER_REAL, 0.2)


def change_limits():
    import resource
    import sys

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    sys.setrecursionlimit(333)


def change_priority():
    import os

    return os.nice(3)


def change_warnings():
    import warnings

    warnings.simplefilter("error")


def change_numbers():
    import decimal
    import locale
    import math

    decimal.getcontext().prec = 3
    decimal.DefaultContext.prec = 4
    math.pi = 3
    locale.setlocale(locale.LC_ALL, "C")


def change_interpreter():
    import gc
    import sys

    gc.disable()
    gc.set_threshold(7)
    sys.setswitchinterval(0.5)
    sys.path.insert(0, "/changed")
    sys.argv.append("changed")
    sys.settrace(lambda *_: None)
    sys.excepthook = lambda *_: None
    sys.dont_write_bytecode = True


def change_modules():
    import builtins
    import json
    import sys
    import types

    json.dumps = lambda value: "changed"
    builtins.changed = True
    sys.modules["string"] = types.ModuleType("string")
    sys.modules["a_module"] = types.ModuleType("a_module")


def change_logging():
    import logging

    logging.basicConfig(level=logging.DEBUG, format="%(message)s")
    logging.debug("to the standard error")
    logging.addLevelName(77, "CHANGED")
    logging.disable(logging.ERROR)


def change_classes():
    import collections
    import dataclasses

    collections.OrderedDict.changed = 1
    dataclasses.MISSING.changed = 1
    collections.Counter.total = lambda self: -1


def change_streams():
    import os
    import sys

    sys.stdout = open("mine", "w")
    print("into a file of mine")
    os.dup2(sys.stdout.fileno(), 2)


def change_time_zone():
    import os
    import time

    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    return time.timezone


def change_event_loop():
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(asyncio.sleep(0, "slept"))


def change_sockets():
    import socket

    socket.setdefaulttimeout(3)


def change_own_attributes():
    def helper():
        helper.calls = getattr(helper, "calls", 0) + 1
        return helper.calls

    class Counter:
        count = 0

    helper()
    Counter.count += 1
    return helper(), Counter.count


def leave_thread():
    import threading
    import time

    def late():
        time.sleep(0.1)
        open("late", "w").write("by a thread")
        print("printed late")

    threading.Thread(target=late).start()
    return "early"


def leave_thread_that_changes_directory():
    import os
    import threading
    import time

    here = os.getcwd()

    def late():
        time.sleep(0.1)
        os.chdir("/")
        open(os.path.join(here, "late"), "w").close()

    threading.Thread(target=late).start()


def leave_daemon_thread():
    import threading
    import time

    def late():
        time.sleep(0.3)
        open("late", "w").close()

    threading.Thread(target=late, daemon=True).start()


def leave_executor():
    import time
    from concurrent.futures import ThreadPoolExecutor

    def late():
        time.sleep(0.1)
        open("late", "w").write("by an executor")

    executor = ThreadPoolExecutor(1)
    executor.submit(late)
    executor.shutdown(wait=False)


def leave_timer():
    import threading

    threading.Timer(0.1, lambda: open("late", "w").write("by a timer")).start()


def leave_process():
    import multiprocessing
    import time

    def late():
        time.sleep(0.1)
        open("late", "w").write("by a process")

    multiprocessing.get_context("fork").Process(target=late).start()


def leave_command():
    import subprocess

    subprocess.Popen(["sh", "-c", "sleep 0.3; echo late >late"])


def leave_fork():
    import os
    import time

    if os.fork() == 0:
        time.sleep(0.3)
        open("late", "w").close()
        os._exit(0)


def come_back_twice():
    import os

    os.fork()
    return "one of us is nobody"


def leave_exit_handlers():
    import atexit
    import sys

    @atexit.register
    def second():
        open("at exit", "w").write("done")
        print("printed at exit")

    @atexit.register
    def first():
        sys.stderr.write("first\n")


def leave_failing_exit_handler():
    import atexit

    atexit.register(lambda: 1 / 0)
    return "returned"


def leave_open_file():
    import sys

    sys.kept = open("kept", "w")
    sys.kept.write("never closed")


def leave_open_file_in_a_cycle():
    around = [open("kept", "w")]
    around.append(around)
    around[0].write("never closed")


def leave_object():
    import os
    import sys

    class Kept:
        def __del__(self, write=os.write):
            write(1, b"gone\n")

    sys.kept = Kept()


def leave_temporary_files():
    import tempfile

    directory = tempfile.TemporaryDirectory(dir=".")
    tempfile.tempdir = "/changed"
    with open(directory.name + "/x", "w") as stream:
        stream.write("x")


def leave_generator():
    import sys

    def steps():
        try:
            yield 1
        finally:
            open("finally", "w").write("closed")

    sys.kept = steps()
    return next(sys.kept)


def print_by_c():
    import ctypes

    ctypes.CDLL(None).puts(b"by C")


def print_much():
    import sys

    print("x" * 100_000)
    print("complaint", file=sys.stderr)


def print_without_end():
    import sys

    sys.stdout.write("no end of line")


def write_files():
    import os

    os.mkdir("results")
    with open("results/table.csv", "w") as stream:
        stream.write("1,2\n")
    return os.listdir("results")


def recurse():
    def depth(n):
        return 0 if n == 0 else 1 + depth(n - 1)

    return depth(500)


def return_much():
    return bytes(3_000_000)


def return_collections():
    return {"a": [1, 2.5, None], "b": {"c": (1, "ü")}, "d": {1, 2}}


def arithmetic():
    return sum(i * i for i in range(1000)) + len("text")


async def asynchronous():
    return sorted({3, 1, 2})


async def asynchronous_that_waits():
    import asyncio

    async def one(i):
        await asyncio.sleep(0.01)
        return i

    return await asyncio.gather(*map(one, range(3)))


async def asynchronous_that_leaves_tasks():
    import asyncio

    async def forever():
        try:
            await asyncio.sleep(600)
        finally:
            print("cancelled")

    asyncio.get_running_loop().create_task(forever())
    await asyncio.sleep(0)
    return "left"


def fail():
    raise KeyError("why")


def fail_plainly():
    return [1, 2, 3][7]


def fail_after_printing():
    print("before")
    raise ValueError("two\nlines")


def fail_in_thread():
    import threading

    def fails():
        raise OSError("in a thread")

    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()
    return "returned"


def fail_for_want_of_memory():
    raise MemoryError


def interrupt():
    raise KeyboardInterrupt


def exit_with_zero():
    import sys

    print("printed")
    sys.exit(0)


def exit_with_seven():
    import sys

    sys.exit(7)


def exit_with_text():
    import sys

    sys.exit("the reason")


def exit_at_once():
    import os

    print("lost, as it is not flushed")
    os._exit(5)


def exit_at_once_with_zero():
    import os

    print("seen", flush=True)
    os._exit(0)


def exit_at_the_end():
    import atexit
    import os

    atexit.register(os._exit, 3)
    return "returned"


def kill_itself():
    import os
    import signal

    print("seen", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def terminate_itself():
    import os
    import signal

    os.kill(os.getpid(), signal.SIGTERM)
    signal.pause()


def terminate_itself_and_survive():
    import os
    import signal

    seen = []
    signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    os.kill(os.getpid(), signal.SIGTERM)
    return seen


def crash():
    import os
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.kill(os.getpid(), signal.SIGSEGV)


def die_in_thread_after_return():
    import os
    import signal
    import threading
    import time

    def late():
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=late).start()
    return "returned"


def view_environment():
    import os

    return {name: value for name, value in os.environ.items() if name in ("HOME", "PATH") or "CHANGED" in name}


def view_environment_of_commands():
    import subprocess

    return subprocess.run(["sh", "-c", "echo $HOME $CHANGED $CHANGED_TOO"], capture_output=True, text=True).stdout


def view_umask():
    import os

    open("file", "w").close()
    return os.umask(0o022), oct(os.stat("file").st_mode)


def view_handlers():
    import signal

    names = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGALRM", "SIGCHLD", "SIGPIPE")
    return [str(signal.getsignal(getattr(signal, name))) for name in names]


def view_signals():
    import signal

    return signal.getitimer(signal.ITIMER_REAL), signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.set_wakeup_fd(-1)


def view_limits():
    import os
    import resource
    import sys

    names = ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_FSIZE")
    limits = [resource.getrlimit(getattr(resource, name)) for name in names]
    return limits, sys.getrecursionlimit(), os.getpriority(os.PRIO_PROCESS, 0)


def view_warnings():
    import warnings

    warnings.warn("once", UserWarning, stacklevel=1)
    return len(warnings.filters)


def view_numbers():
    import decimal
    import locale
    import math

    return decimal.getcontext().prec, decimal.Context().prec, math.pi, locale.setlocale(locale.LC_ALL)


def view_interpreter():
    import gc
    import sys

    found = gc.isenabled(), gc.get_threshold(), sys.getswitchinterval(), "/changed" in sys.path
    return *found, "changed" in sys.argv, sys.gettrace(), sys.excepthook is sys.__excepthook__, sys.dont_write_bytecode


def view_modules():
    import builtins
    import json
    import string
    import sys

    return json.dumps([1]), hasattr(builtins, "changed"), string.digits, "a_module" in sys.modules


def view_logging():
    import logging

    logging.warning("to the standard error")
    return len(logging.root.handlers), logging.root.level, logging.getLevelName(77), logging.root.manager.disable


def view_classes():
    import collections
    import dataclasses

    return (
        hasattr(collections.OrderedDict, "changed"),
        hasattr(dataclasses.MISSING, "changed"),
        collections.Counter("abc").total(),
    )


def view_threads():
    import threading

    return threading.active_count(), threading.current_thread().name, threading.main_thread().name


def view_streams():
    import sys

    print("to the output")
    print("to the error", file=sys.stderr)
    streams = sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__, sys.stdin.read()
    return *streams, sys.stdout.line_buffering, sys.stdout.encoding, sys.stderr.line_buffering


def view_time():
    import socket
    import tempfile
    import time

    return time.timezone, time.strftime("%H", time.localtime(0)), socket.getdefaulttimeout(), tempfile.tempdir


def view_event_loop():
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return type(asyncio.get_event_loop_policy()).__name__, asyncio.run(asyncio.sleep(0, "slept"))


def view_children():
    import os

    try:
        return os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return "none"


def view_directory():
    import os
    import time

    # What an earlier call left running would have written by now.
    time.sleep(0.4)
    return sorted(name for name in os.listdir(".") if not name.startswith((".", "task.")))


def view_random():
    import random
    import uuid

    return random.random() == 0.13436424411240122, len(str(uuid.uuid4()))


_OWN = {name: value for name, value in globals().items() if callable(value) and not name.startswith("_")}
VIEWS = [name for name in _OWN if name.startswith("view_")]
ENDS = [
    name for name in _OWN if name.split("_")[0] in ("fail", "interrupt", "exit", "kill", "terminate", "crash", "die")
]
CHANGES = [name for name in _OWN if name not in VIEWS and name not in ENDS]
