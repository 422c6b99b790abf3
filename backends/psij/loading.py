"""Importing PSI/J, which takes long."""

from __future__ import annotations

import logging

__all__ = ["load_psij"]


def load_psij() -> None:
    """Import PSI/J, in a thread, without its warning there about an executor that is not used here."""
    local = logging.getLogger("psij.executors.local")
    local.addFilter(_is_no_warning)
    try:
        import psij  # noqa: F401

        from . import executors  # noqa: F401
    finally:
        local.removeFilter(_is_no_warning)


def _is_no_warning(record: logging.LogRecord) -> bool:
    return record.levelno != logging.WARNING
