"""Attempts of function tasks: in a worker process, or in an executor of the driver."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from contextlib import suppress
from typing import Any

from asyncflow_hpc.errors import SerializationError, SessionError, UnsupportedTaskError
from asyncflow_hpc.states import FailureCause, TaskState

from ..call_results import raised_there, why_left
from ..calling import described
from ..pickling import dump_arguments, dump_context, dump_value
from .attempts import Attempt
from .captures import capture_path
from .plain_calls import are_plain
from .processes import End
from .taking_over import keep_result
from .threads import submit_call
from .worker_process import Call, Message

__all__ = ["FunctionAttempt", "ThreadAttempt"]

log = logging.getLogger(__name__)

# Bytes of a call that may be sent ahead; a larger one would hold up what is taken back behind it.
_SMALL = 1 << 16

# Times that a worker may die before it begins a call: it could be the call that no worker can be started for.
_MOST_LOST = 3


class FunctionAttempt(Attempt, Call):
    """A function task: a call in a worker process."""

    _message: Message | None = None
    _answer: dict[str, Any] | None = None
    _unfit = _returned = False
    _lost = 0

    def start(self) -> None:
        """Pickle the call and hand it to a worker."""
        if self.grant.gpus:
            # An earlier try had others.
            self._message = None
        # Before a worker is taken: it may fail.
        self.message()
        self.backend.workers.run(self)

    def message(self) -> Message:
        """Return the pickled call.

        Raises:
            SerializationError: it cannot be pickled.
        """
        if self._message is None:
            self._message = self._pickled()
        return self._message

    def may_go_ahead(self) -> bool:
        """Tell whether it can be sent to a worker before it has room; what cannot be pickled fails when it has."""
        if self._unfit or self.task.get("is_service"):
            return False
        try:
            message = self.message()
            self._unfit = len(message.body) + len(message.function) > _SMALL
        except Exception as error:
            log.debug("%s is not sent ahead: %s", self.task["uid"], error)
            self._unfit = True
        return not self._unfit

    def _pickled(self) -> Message:
        task = self.task
        name, function = task["name"], task["function"]
        assert function is not None
        number, data = self.backend.pickles.get(name, function)
        message: dict[str, Any] = {
            "uid": task["uid"],
            "arguments": dump_arguments(name, task["args"], task["kwargs"]),
            "session": str(self.backend.session.path),
            "mark": self.backend.mark,
            "sandbox": self.sandbox,
            "cwd": self.description.cwd,
            "environment": self._environment(),
            "plain": False,
        }
        context = dump_context(task["context"]) if task.get("context") is not None else []
        if self.plan.stages_in or self.plan.deliveries:
            message["plan"] = self.plan
        if context:
            message["context"] = context
        if self.description.cwd is None and not context and "plan" not in message:
            values = (*task["args"], *task["kwargs"].values())
            message["plain"] = self.backend.plain.holds(number, function) and are_plain(values)
        return Message(pickle.dumps(message, pickle.HIGHEST_PROTOCOL), number, data)

    def take_over(self, old: Call) -> None:
        """Take the slots of the call before it."""
        assert isinstance(old, FunctionAttempt)
        self.backend.pass_on(old, self)

    def started(self, pid: int) -> None:
        """Report that it runs."""
        self._kills_before = self.backend.kills_before
        self.task["sandbox"] = self.sandbox
        self._running(str(pid))

    def never_began(self, end: End) -> None:
        """Wait for another worker."""
        self._lost += 1
        if self._cause is not None or self._lost > _MOST_LOST or self.backend.state() == "CLOSED":
            self.answered(end)
            return
        log.warning("the worker that was to run %s ended before it began; it gets another", self.task["uid"])
        self._stop_timers()
        self.backend.wait_again(self)

    def end(self, cause: FailureCause, grace: float) -> None:
        """End its worker, unless it has answered already."""
        self.backend.recall(self)
        super().end(cause, grace)
        self.backend.start_waiting()

    def recall(self) -> None:
        """Find out whether it has begun; if not, it waits as others do."""
        self.backend.workers.recall(self)

    def answered(self, answer: dict[str, Any] | End) -> None:
        """Take the worker's answer, or the end of the worker that died over it."""
        if not isinstance(answer, End) and "again" in answer and self._cause is None:
            # It has not run: the worker was not fit for it.
            self._stop_timers()
            self.backend.wait_again(self)
            return
        self._over = True
        self.backend.free(self)
        if isinstance(answer, End):
            self._answer = None
            self._rescue_output()
            self._settle(answer)
            return
        if "ended" in answer:
            self._take_end(answer)
            return
        self._answer = answer
        self.task["max_rss"], self.task["cpu_time"] = answer["max_rss"], answer["cpu_time"]
        if "result" in answer and self._cause is None and not self.task.get("capture_stdio"):
            self.settle_by_judgement(None)
        else:
            self._settle(None)

    def _take_end(self, answer: dict[str, Any]) -> None:
        """Take the end of the call's own process, which its worker has seen."""
        code, self._returned = answer["ended"], answer["returned"]
        self._answer = None
        self.task["max_rss"], self.task["cpu_time"] = answer["max_rss"], answer["cpu_time"]
        self._settle(End(code, None) if code >= 0 else End(None, -code))

    def _rescue_output(self) -> None:
        session, pid = str(self.backend.session.path), int(self.task["native_id"] or 0)
        for ending in ("out", "err"):
            try:
                os.rename(capture_path(session, self.backend.mark, pid, ending), self._path(ending))
            except OSError as error:
                log.debug("no output of the worker that ran %s: %s", self.task["uid"], error)

    def _judge(self, end: End | None) -> None:
        if self._answer is None:
            assert end is not None
            state, cause = self._judge_end(end, self._kills_before)
            if state is TaskState.DONE:
                state, cause = TaskState.FAILED, FailureCause.EXIT_CODE
            if state is TaskState.FAILED and cause is not FailureCause.WALLTIME:
                self.task["exception"] = (
                    "the function returned, but its process then failed, in a thread or at its exit"
                    if self._returned
                    else "the process that ran the function ended before the function did"
                )
            self._conclude(state, cause)
        elif "result" in self._answer:
            self._take_result(self._answer["result"])
        else:
            self._take_failure(self._answer)

    def _take_result(self, data: bytes) -> None:
        if self._cause is not None:
            # It answered in the grace between the request to end and the kill.
            self._conclude_cut_short()
            return
        try:
            self.task["return_value"] = pickle.loads(data)
        except BaseException as error:
            told = f"the result of task '{self.task['name']}' cannot be unpickled: {described(error)}"
            self._fail(SerializationError(told))
            return
        self.task["exit_code"] = 0
        state, cause = self._judge_outputs(self.sandbox)
        if state is TaskState.DONE:
            keep_result(self.task, data, self.sandbox)
        self._conclude(state, cause)

    def _take_failure(self, answer: dict[str, Any]) -> None:
        name = self.task["name"]
        if self._cause is FailureCause.CANCELLED or "again" in answer:
            self._conclude_cut_short()
        elif "exit" in answer:
            self.task["exit_code"] = answer["exit"]
            self.task["exception"] = why_left(answer)
            self._conclude(TaskState.FAILED, FailureCause.EXIT_CODE)
        elif "unpicklable" in answer:
            self._fail(SerializationError(f"task '{name}' ran, but {answer['unpicklable']}"))
        elif "staging_error" in answer:
            self.task["exception"], self.task["exit_code"] = answer["staging_error"], answer["exit_code"]
            self._conclude(TaskState.FAILED, FailureCause.STAGING)
        elif "sandbox_error" in answer:
            self._fail(SessionError(answer["sandbox_error"]))
        else:
            error = _loaded(answer["exception"]) if "exception" in answer else None
            told = answer["traceback"] if error is None else raised_there(error, answer["traceback"])
            self._fail(told, FailureCause.MEMORY if "memory" in answer else FailureCause.EXIT_CODE)

    def _fail(self, error: BaseException | str, cause: FailureCause = FailureCause.BACKEND) -> None:
        self.task["exception"] = error
        self.task["exit_code"] = 1
        self._conclude(TaskState.FAILED, self._cause or cause)

    def _terminate(self, grace: float) -> None:
        self.backend.workers.terminate(self, grace)

    def kill(self) -> None:
        """Do nothing: the workers are killed together."""


class ThreadAttempt(Attempt):
    """A function task in an executor of the driver; what it runs cannot be stopped."""

    needs_slots = False
    _future: asyncio.Future[Any] | None = None

    def start(self) -> None:
        """Submit the call to the executor."""
        task = self.task
        if self.plan.transfers or self.plan.deliveries:
            raise UnsupportedTaskError(
                f"function task '{task['name']}' runs in a thread, which has no sandbox for its files:"
                " let functions run in processes"
            )
        function, executor = task["function"], self.backend.executor
        assert function is not None and executor is not None
        self._future = submit_call(executor, task["name"], function, task["args"], task["kwargs"], task.get("context"))
        self._future.add_done_callback(self._ended)
        self._running(None)

    def _ended(self, future: asyncio.Future[Any]) -> None:
        if self._cause is not None:
            return
        self._over = True
        if future.cancelled():
            self.task["exception"] = "the executor was shut down before the function ran"
            self._conclude(TaskState.FAILED, FailureCause.BACKEND)
            return
        error = future.exception()
        if error is None:
            self.task["return_value"] = future.result()
            self.task["exit_code"] = 0
            with suppress(Exception):
                keep_result(self.task, dump_value(future.result()), None)
            self._conclude(*self._judge_outputs(os.getcwd()))
        else:
            self.task["exception"] = error
            self.task["exit_code"] = 1
            self._conclude(TaskState.FAILED, FailureCause.EXIT_CODE)

    def _judge(self, end: End | None) -> None:
        """Nothing is read back: the function shares the driver's output."""

    def _terminate(self, grace: float) -> None:
        if self._future is not None and not self._future.cancel():
            log.warning("%s runs in a thread, which cannot be stopped; its result will be dropped", self.task["uid"])
        self._conclude_cut_short()

    def kill(self) -> None:
        """Do nothing: a thread cannot be killed."""


def _loaded(data: bytes) -> Exception | None:
    try:
        error = pickle.loads(data)
    except BaseException as failure:
        # Its class may differ here from what it is in the worker; the text says what the object cannot.
        log.debug("an exception cannot be unpickled: %s", described(failure))
        return None
    return error if isinstance(error, Exception) else None
