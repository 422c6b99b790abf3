"""A logger set up in one line, and the profiler attribute that scripts may call."""

from __future__ import annotations

import logging
import os
from typing import Any

__all__ = ["Profiler", "init_default_logger"]

FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"


def init_default_logger(
    log_level: int | str = logging.INFO,
    *,
    output_file: str | os.PathLike[str] | None = None,
    file_log_level: int | str | None = None,
    clear_handlers: bool = False,
    logger_name: str | None = None,
    **_: Any,
) -> logging.Logger:
    """Log to the terminal, and to a file where asked.

    Args:
        log_level: least level that is shown.
        output_file: also write to this file.
        file_log_level: least level written there; log_level where None.
        clear_handlers: take away what was set up before.
        logger_name: of the logger; the root logger where None.

    Options of radical.asyncflow about looks are accepted and make no difference.

    Returns:
        The logger. A second call changes its level and adds no second handler.
    """
    logger = logging.getLogger(logger_name)
    if clear_handlers:
        logger.handlers.clear()
    wanted: list[tuple[str, int | str, type[logging.Handler], tuple[Any, ...]]] = [
        ("asyncflow_hpc.terminal", log_level, logging.StreamHandler, ())
    ]
    if output_file is not None:
        path = os.fspath(output_file)
        wanted.append((f"asyncflow_hpc.{path}", file_log_level or log_level, logging.FileHandler, (path,)))
    known = {handler.name: handler for handler in logger.handlers}
    for name, level, kind, arguments in wanted:
        handler = known.get(name)
        if handler is None:
            handler = kind(*arguments)
            handler.name = name
            handler.setFormatter(logging.Formatter(FORMAT))
            logger.addHandler(handler)
        handler.setLevel(level)
    logger.setLevel(min(logging.getLevelName(level) if isinstance(level, str) else level for _, level, _, _ in wanted))
    return logger


class Profiler:
    """Events for whoever reads the log at DEBUG."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def prof(self, event: str, uid: str | None = None, msg: str | None = None) -> None:
        """Note an event."""
        self._logger.debug("prof: %s %s %s", event, uid or "-", msg or "")
