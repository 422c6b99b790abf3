"""The program behind each emulated command: it takes a request to the batch system, and prints what that answers.

Run as `python -I -S client.py SOCKET COMMAND ARGUMENTS...`. Only modules that are compiled into Python are imported, as
the interpreter's start is most of the time that a command takes.
"""

from __future__ import annotations

import _socket
import marshal
import posix
import sys
from typing import Any

# What comes back when the batch system is gone for good.
_GONE = 2


def _receive(connection: Any, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _send(connection: Any, message: Any) -> None:
    data = marshal.dumps(message)
    connection.sendall(len(data).to_bytes(8, "big") + data)


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[posix.write(descriptor, data) :]


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := posix.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _encoded(text: str) -> bytes:
    return text.encode(sys.getfilesystemencoding(), "surrogateescape")


def main() -> int:
    """Ask, print, and return the exit code."""
    path, program, *arguments = sys.argv[1:]
    try:
        directory = posix.getcwdb()
    except OSError:
        directory = b"/"
    mask = posix.umask(0o077)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        connection.connect(path)
        words = [_encoded(word) for word in arguments]
        _send(connection, (program, words, directory, mask, dict(posix.environ)))
        while True:
            kind, *rest = marshal.loads(_receive(connection, int.from_bytes(_receive(connection, 8), "big")))
            if kind == "input":
                _send(connection, _read_all(0))
            elif kind == "say":
                _write(2, rest[0])
            else:
                code, out, err = rest
                _write(1, out)
                _write(2, err)
                return int(code)
    except (OSError, EOFError) as error:
        _write(2, b"%s: the emulated batch system does not run: %s\n" % (_encoded(program), _encoded(str(error))))
        return _GONE


if __name__ == "__main__":
    posix._exit(main())
