"""Files that tasks read and write: the words in which a script declares them."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["InputFile", "OutputFile"]

_REMOTE_SCHEMES = frozenset({"http", "https", "ftp", "ftps", "s3", "gs", "gcs", "sftp", "scp", "file", "globus"})


class InputFile:
    """A file that a task reads.

    What it names is told apart in this order: a URL, a path that exists now, else the output of another task.

    Args:
        file: URL, path, or name of another task's output.

    Attributes:
        remote_url: the URL, else None.
        local_file: the path as given, when it exists, else None.
        other_task_file: the name, when it is another task's output, else None.
        filepath: where the file is, as far as it is known now.
        filename: the name under which the task finds it.
    """

    __slots__ = ("filename", "filepath", "local_file", "other_task_file", "remote_url")

    def __init__(self, file: str | os.PathLike[str]) -> None:
        text = os.fspath(file)
        if not text:
            raise ValueError("InputFile needs a URL, a path or the name of another task's output; it was given ''")
        self.remote_url: str | None = None
        self.local_file: str | None = None
        self.other_task_file: str | None = None
        url = urlsplit(text)
        if url.scheme in _REMOTE_SCHEMES:
            self.remote_url = text
            self.filepath = Path(url.path.rsplit("/", 1)[-1] or "downloaded_file")
        elif os.path.exists(text):
            self.local_file = text
            self.filepath = Path(text).resolve()
        else:
            self.other_task_file = text
            self.filepath = Path(text)
        self.filename = self.filepath.name

    def __repr__(self) -> str:
        return f"InputFile({self.remote_url or self.local_file or self.other_task_file!r})"


class OutputFile:
    """A file that a task promises to write.

    Args:
        filename: its name.

    Raises:
        ValueError: the name is empty or ends with a slash.
    """

    __slots__ = ("filename",)

    def __init__(self, filename: str | os.PathLike[str]) -> None:
        text = os.fspath(filename)
        self.filename = os.path.basename(text)
        if not self.filename:
            raise ValueError(f"OutputFile needs the name of a file; {text!r} names none")

    def __repr__(self) -> str:
        return f"OutputFile({self.filename!r})"
