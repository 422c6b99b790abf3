"""The bytes of one URL: HTTP by requests, other schemes by fsspec."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from asyncflow_hpc.errors import StagingError
from asyncflow_hpc.masking import masked, masked_url

if TYPE_CHECKING:
    import requests

__all__ = ["CHUNK", "THREAD", "TransientError", "opened"]

CHUNK = 1 << 20

THREAD = "asyncflow-download"
"""Name of the threads that download."""

# Seconds to wait for a connection, and for the next bytes of an answer.
_CONNECT, _READ = 15, 60

_REDIRECTS = 10

# Answers that may be better another time; RFC 9110 and RFC 6585.
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


class TransientError(Exception):
    """A failure that may be gone the next time."""


@contextmanager
def opened(url: str) -> Iterator[Iterator[bytes]]:
    """Yield the content of a URL in chunks, as it is served.

    Raises:
        StagingError: it cannot be fetched.
        TransientError: it cannot be fetched now.
    """
    if urlsplit(url).scheme in ("http", "https"):
        with _http(url) as chunks:
            yield chunks
    else:
        with _through_fsspec(url) as stream:
            yield iter(lambda: stream.read(CHUNK), b"")


@contextmanager
def _http(url: str) -> Iterator[Iterator[bytes]]:
    import requests
    import urllib3.exceptions

    logging.getLogger("urllib3.connectionpool").addFilter(_mask_record)
    # Errors have the URL in their text, and so would a traceback of their causes.
    try:
        with requests.Session() as session, closing(_answer_to(session, url)) as answer:
            if answer.status_code in _TRANSIENT:
                raise TransientError(f"{answer.status_code} {answer.reason}")
            if answer.status_code != 200:
                # All others come without the file, or with a part or another version of it.
                raise StagingError(f"{masked_url(url)} cannot be fetched: {answer.status_code} {answer.reason}")
            # A connection that breaks early must not pass for the end of the file.
            answer.raw.enforce_content_length = True
            # Not decoded: a compressed file stays compressed. read1 returns what has arrived.
            read = getattr(answer.raw, "read1", answer.raw.read)
            yield iter(lambda: read(CHUNK, decode_content=False), b"")
    except (requests.ConnectionError, requests.Timeout, urllib3.exceptions.HTTPError) as error:
        raise TransientError(masked(str(error))) from None
    except (requests.RequestException, UnicodeError) as error:
        raise StagingError(f"{masked_url(url)} cannot be fetched: {masked(str(error))}") from None


def _answer_to(session: requests.Session, url: str) -> requests.Response:
    # requests would follow from https to http, and read whatever comes with a redirection into memory.
    place = url
    for _ in range(_REDIRECTS + 1):
        answer = session.get(
            place,
            stream=True,
            timeout=(_CONNECT, _READ),
            allow_redirects=False,
            headers={"Accept-Encoding": "identity"},
        )
        if not answer.is_redirect:
            return answer
        answer.close()
        place = _redirected(url, place, session.get_redirect_target(answer) or "")
    raise StagingError(f"{masked_url(url)} cannot be fetched: more than {_REDIRECTS} redirections")


def _redirected(url: str, place: str, target: str) -> str:
    try:
        old, new = urlsplit(place), urlsplit(urljoin(place, target))
    except ValueError:
        raise StagingError(f"{masked_url(url)} cannot be fetched: it is redirected to an invalid URL") from None
    if new.scheme != old.scheme and (old.scheme, new.scheme) != ("http", "https"):
        raise StagingError(
            f"{masked_url(url)} cannot be fetched: it is redirected from {old.scheme} to {masked_url(new.geturl())},"
            " which is refused"
        )
    userinfo, at, host = old.netloc.rpartition("@")
    if (new.scheme, new.netloc) == (old.scheme, host):
        # It is for this server alone.
        new = new._replace(netloc=f"{userinfo}{at}{host}")
    return new.geturl()


def _mask_record(record: logging.LogRecord) -> bool:
    """Mask the URLs that urllib3 logs at DEBUG; those of other threads are none of our business."""
    if threading.current_thread().name == THREAD:
        record.msg, record.args = masked(record.getMessage()), ()
    return True


@contextmanager
def _through_fsspec(url: str) -> Iterator[Any]:
    place, scheme = masked_url(url), urlsplit(url).scheme
    try:
        import fsspec
    except ImportError:
        raise StagingError(
            f"{place} cannot be fetched: '{scheme}' needs fsspec; `pip install 'asyncflow-hpc[remote]'`"
        ) from None
    try:
        with fsspec.open(url, "rb") as stream:
            yield stream
    except StagingError:
        raise
    except (ImportError, ValueError) as error:
        # It names the package that a scheme needs, or does not know the scheme.
        raise StagingError(f"{place} cannot be fetched: {masked(str(error))}") from None
    except FileNotFoundError:
        raise StagingError(f"{place} is not there") from None
    except Exception as error:
        raise TransientError(masked(str(error))) from None
