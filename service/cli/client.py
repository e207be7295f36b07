"""One HTTP connection to an Octavo server. Any answer but success becomes CommandFailed with the server's own words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from service.cli.exit_codes import CommandFailed, ExitCode
from service.cli.shapes import Shape, fits

if TYPE_CHECKING:
    import httpx

Document = dict[str, Any]

CONNECT_SECONDS = 5.0
# An upload is answered only after the server has checked the model, so the wait for an answer is long.
ANSWER_SECONDS = 600.0
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
# As httpx writes it for the wire, so of ASCII alone; what it had to quote with a % is no host name.
_HOST = re.compile(r"[\w.-]+|[0-9a-f]*:[0-9a-f.:]*(%\w+)?", re.ASCII | re.IGNORECASE)


def url_path(*segments: str | int) -> str:
    """`/models/digits` of `models`, `digits`; what a user typed is quoted, so it stays one segment.

    Raises CommandFailed (usage) for one that no quoting keeps: it would name another address.
    """
    for segment in segments:
        if segment in ("", ".", ".."):
            raise CommandFailed(
                f"{segment!r} is no name; give that of a model, or a job's id", "invalid_name", ExitCode.USAGE
            )
    return "/" + "/".join(quote(str(segment), safe="") for segment in segments)


class Client:
    """Requests to the server at `base_url`. A context manager; it connects at the first request."""

    def __init__(self, base_url: str) -> None:
        """Raises CommandFailed (usage) where `base_url` is no http or https address."""
        import httpx

        self.base_url = _checked_url(base_url)
        self._http = httpx.Client(
            base_url=self.base_url,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            # A proxy named in the environment cannot reach this machine's own loopback address.
            trust_env=urlsplit(self.base_url).hostname not in _LOOPBACK_HOSTS,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """The open answer, its body not yet read. Raises CommandFailed for every status but 2xx."""
        with self._failures_told(), self._http.stream(method, path, **options) as response:
            if not response.is_success:
                response.read()
                raise refusal(response)
            yield response

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The whole answer, body read. Raises CommandFailed for every status but 2xx."""
        with self.stream(method, path, **options) as response:
            response.read()
        return response

    def fetch(self, method: str, path: str, shape: Shape = dict, **options: Any) -> Any:
        """The answer's JSON. Raises CommandFailed where the body is something else, or does not fit `shape`."""
        return answered(self.send(method, path, **options), shape)

    @contextmanager
    def _failures_told(self) -> Iterator[None]:
        import httpx

        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise CommandFailed(
                f"no server answers at {self.base_url} ({_reason(error)}); start one with `octavo up`, "
                "or give its address with --url or OCTAVO_URL",
                "unreachable",
                ExitCode.UNREACHABLE,
            ) from error
        except httpx.DecodingError as error:
            raise _foreign(f"{error.request.url} sent a body that cannot be decoded ({_reason(error)}),") from error
        except httpx.RequestError as error:
            raise CommandFailed(
                f"the connection to {self.base_url} broke off ({_reason(error)}); see the server's log, then try again",
                "connection_lost",
                ExitCode.UNREACHABLE,
            ) from error


def answered(response: httpx.Response, shape: Shape = dict) -> Any:
    """The JSON of a successful answer, read whole. Raises CommandFailed where it is something else than `shape`."""
    try:
        document = response.json()
    except (ValueError, RecursionError):
        raise _foreign_answer(response) from None
    if not fits(document, shape):
        raise _foreign_answer(response)
    return document


def refusal(response: httpx.Response) -> CommandFailed:
    """The server's error as it said it, 404 with the exit code of its own. The body must have been read."""
    try:
        body = answered(response, {"error": str})
    except CommandFailed as foreign:
        return foreign
    missing = response.status_code == HTTPStatus.NOT_FOUND
    code = str(body.get("code") or f"http_{response.status_code}")
    return CommandFailed(body["error"], code, ExitCode.NOT_FOUND if missing else ExitCode.FAILED)


def _foreign_answer(response: httpx.Response) -> CommandFailed:
    return _foreign(f"{response.request.url} answered {response.status_code} {response.reason_phrase}")


def _foreign(what: str) -> CommandFailed:
    return CommandFailed(
        f"{what} in a form that is not Octavo's; check that --url names an Octavo server and no proxy in between",
        "foreign_answer",
        ExitCode.FAILED,
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _checked_url(base_url: str) -> str:
    import httpx

    try:
        parts, host = urlsplit(base_url), httpx.URL(base_url).raw_host.decode("ascii")
        # The resolver encodes the name so too, and fails on an empty or an overlong part.
        host.encode("idna")
        usable = parts.scheme in ("http", "https") and bool(_HOST.fullmatch(host)) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # a port beyond 65535, half an IPv6 address, a control character
        usable = False
    if not usable:
        raise CommandFailed(
            f"the server's address is {base_url!r}; give it as http://HOST:PORT or https://HOST:PORT",
            "invalid_url",
            ExitCode.USAGE,
        )
    return base_url.rstrip("/")
