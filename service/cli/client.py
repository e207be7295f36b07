"""One HTTP connection to an Octavo server. Any answer but success becomes CommandFailed with the server's own words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from service.cli.exit_codes import CommandFailed, ExitCode

if TYPE_CHECKING:
    import httpx

Document = dict[str, Any]

CONNECT_SECONDS = 5.0
# An upload is answered only after the server has checked the model, so the wait for an answer is long.
ANSWER_SECONDS = 600.0
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


def url_path(*segments: str | int) -> str:
    """`/models/digits` of `models`, `digits`; what a user typed is quoted, so it stays one segment."""
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

    def fetch(self, method: str, path: str, **options: Any) -> Any:
        """The answer's JSON; None for an empty body. Raises CommandFailed where the body is something else."""
        response = self.send(method, path, **options)
        try:
            return response.json() if response.content else None
        except ValueError:
            raise _foreign(response) from None

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
        except httpx.TransportError as error:
            raise CommandFailed(
                f"the connection to {self.base_url} broke off ({_reason(error)}); see the server's log, then try again",
                "connection_lost",
                ExitCode.UNREACHABLE,
            ) from error


def refusal(response: httpx.Response) -> CommandFailed:
    """The server's error as it said it, 404 with the exit code of its own. The body must have been read."""
    try:
        body = response.json()
    except ValueError:
        return _foreign(response)
    if not isinstance(body, dict) or not isinstance(body.get("error"), str):
        return _foreign(response)
    missing = response.status_code == HTTPStatus.NOT_FOUND
    code = str(body.get("code") or f"http_{response.status_code}")
    return CommandFailed(body["error"], code, ExitCode.NOT_FOUND if missing else ExitCode.FAILED)


def _foreign(response: httpx.Response) -> CommandFailed:
    return CommandFailed(
        f"{response.request.url} answered {response.status_code} {response.reason_phrase} in a form that is not "
        "Octavo's; check that --url names an Octavo server and no proxy in between",
        "foreign_answer",
        ExitCode.FAILED,
    )


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


def _checked_url(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port beyond 65535, or half an IPv6 address
        usable = False
    if not usable:
        raise CommandFailed(
            f"the server's address is {base_url!r}; give it as http://HOST:PORT or https://HOST:PORT",
            "invalid_url",
            ExitCode.USAGE,
        )
    return base_url.rstrip("/")
