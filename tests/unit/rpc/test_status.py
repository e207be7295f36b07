"""One form for every error over gRPC: no class without a status, and nothing that a trailer cannot carry."""

from __future__ import annotations

import logging
import string
from urllib.parse import quote

import pytest
from grpc import StatusCode

from service.api import error_responses
from service.errors import DeadlineExceeded, InvalidTensor, OctavoError, QueueFull
from service.rpc.status import refusal_of, status_of


def all_errors(root: type[OctavoError] = OctavoError) -> list[type[OctavoError]]:
    return [root, *(error for child in root.__subclasses__() for error in all_errors(child))]


@pytest.mark.parametrize("error", all_errors())
def test_every_error_has_a_status_of_its_own_side(error: type[OctavoError]) -> None:
    """A caller's mistake over HTTP is one here, and a failure of the server too."""
    ours = {StatusCode.INTERNAL}
    assert (status_of(error("message")) in ours) == (error_responses.status_of(error("message")) == 500)


def test_an_error_without_a_status_is_found_out() -> None:
    class Unheard(OctavoError):
        pass

    with pytest.raises(KeyError):
        status_of(Unheard("message"))


def test_a_refusal_carries_the_public_code_and_when_to_come_back() -> None:
    refusal = refusal_of(QueueFull("full"), "ModelInfer")
    assert (refusal.status, refusal.message, refusal.code) == (StatusCode.UNAVAILABLE, "full", "queue_full")
    assert refusal.metadata == (("error-code", "queue_full"), ("grpc-retry-pushback-ms", "1000"))
    assert refusal_of(InvalidTensor("no"), "ModelInfer").metadata == (("error-code", "invalid_tensor"),)
    assert refusal_of(DeadlineExceeded("late"), "ModelInfer").status is StatusCode.DEADLINE_EXCEEDED


def test_a_message_is_cut_to_what_a_trailer_holds_and_has_bytes() -> None:
    assert len(refusal_of(InvalidTensor("x" * 100_000), "ModelInfer").message) == 2000
    assert refusal_of(InvalidTensor("\ud800"), "ModelInfer").message == "\\ud800"
    # On the wire each byte outside of ASCII is three.
    for text in ("\U0001f600" * 2000, "x" + "\U0001f600" * 2000, "ü" * 2000, "%" * 2000):
        message = refusal_of(InvalidTensor(text), "ModelInfer").message
        assert text.startswith(message)
        assert 5900 <= len(quote(message, safe=string.printable.replace("%", ""))) <= 6000


def test_a_crash_is_logged_whole_and_tells_the_caller_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        refusal = refusal_of(ZeroDivisionError("secret"), "ModelInfer")
    assert (refusal.status, refusal.code) == (StatusCode.INTERNAL, "internal")
    assert "secret" not in refusal.message
    (record,) = caplog.records
    assert record.exc_info is not None
