"""What nobody may read in a URL."""

from __future__ import annotations

import pytest

from asyncflow_hpc import InputFile
from asyncflow_hpc.masking import masked, masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a/b.dat", "https://host/a/b.dat"),
        ("http://host:80/a@1/b", "http://host:80/a@1/b"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("https://user:SECRET@host/a", "https://***@host/a"),
        ("https://SECRET@host", "https://***@host"),
        ("https://user:SEC@RET@host/a", "https://***@host/a"),
        ("https://user:SEC#RET@host/a", "https://***"),
        ("https://user:SEC/RET@host/a", "https://***"),
        ("https://host/a?token=SECRET&x=SECRET#SECRET", "https://host/a?token=***&x=***#***"),
        ("https://host/a?SECRET", "https://host/a?***"),
        ("https://host?sig=SECRET;key=SECRET=&empty=", "https://host?sig=***;key=***&empty="),
        ("https://host/a;jsessionid=SECRET/b", "https://host/a;jsessionid=***/b"),
        ("https://host/of/http://u:SECRET@host/a", "https://host/of/http://***@host/a"),
        ("s3://SECRET:SECRET@bucket/key?versionId=SECRET", "s3://***@bucket/key?versionId=***"),
    ],
)
def test_urls(url: str, shown: str) -> None:
    assert masked_url(url) == shown
    assert masked(f"'{url}' is not there") == f"'{shown}' is not there"
    assert "SECRET" not in repr(InputFile(url))


def test_texts() -> None:
    refused = "HTTPConnectionPool(host='h', port=80): Max retries exceeded with url: /x?token=SECRET (Caused by ...)"
    assert masked(refused) == refused.replace("SECRET", "***")
    assert masked('http://h:80 "GET /x?a=SECRET HTTP/1.1" 200') == 'http://h:80 "GET /x?a=*** HTTP/1.1" 200'
    assert masked("--from=https://u:SECRET@h/x is it? yes") == "--from=https://***@h/x is it? yes"
    # In linear time.
    long = "a" * 1_000_000
    assert masked(long) == long


@pytest.mark.parametrize("more", [{"action": "eat"}, {"sha256": "x"}, {"task": "x"}])
def test_refusals_are_masked(more: dict[str, str]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        InputFile("https://u:SECRET@host/x?SECRET", **more)  # type: ignore[arg-type]
    assert "SECRET" not in str(caught.value)
    with pytest.raises(ValueError, match="invalid URL") as caught:
        InputFile("https://u:SECRET@[host/x")
    assert "SECRET" not in str(caught.value)
