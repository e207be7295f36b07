"""Callers of the soak: mixed requests whose every answer is compared with what its variant answers alone."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np

from benchmarks.payloads import HEADER_LENGTH

_TOLERANCE = 1e-3
_HANG_SECONDS = 20.0
_MAX_ROWS = 4
Array = np.ndarray[Any, Any]


@dataclass
class Subject:
    """A model, rows of its input, and each variant's answers to them, found while it answered alone."""

    model: str
    input: str
    rows: Array
    expected: dict[str, Array] = field(default_factory=dict)
    # Whether it may be unloaded at any moment, so that a request may find it gone.
    comes_and_goes: bool = False


@dataclass
class Tally:
    """What the callers saw, counted under one lock; `wrong` and `failed` keep the first few with their words."""

    counts: Counter[str] = field(default_factory=Counter)
    words: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, what: str, words: str = "") -> None:
        with self.lock:
            self.counts[what] += 1
            if words and len(self.words) < 20:
                self.words.append(f"{what}: {words[:300]}")


class Caller(threading.Thread):
    """Sends one request after another until told to stop, each of a kind that its own random numbers choose."""

    def __init__(self, url: str, subjects: list[Subject], tally: Tally, stop: threading.Event, seed: int) -> None:
        super().__init__(name=f"caller-{seed}", daemon=True)
        self._url = url
        self._subjects = subjects
        self._tally = tally
        self._stop_event = stop
        self._random = random.Random(seed)

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=_HANG_SECONDS) as client:
            while not self._stop_event.is_set():
                subject = self._random.choice(self._subjects)
                try:
                    self._one(client, subject)
                except httpx.TimeoutException as error:
                    self._tally.add("hung", f"{subject.model}: {error!r}")
                except httpx.TransportError as error:
                    self._tally.add("failed", f"{subject.model}: {error!r}")

    def _one(self, client: httpx.Client, subject: Subject) -> None:
        first = self._random.randrange(len(subject.rows) - _MAX_ROWS)
        chosen = slice(first, first + self._random.randint(1, _MAX_ROWS))
        parameters: dict[str, Any] = {"priority": self._random.randrange(4)}
        if self._random.random() < 0.1:
            parameters["timeout"] = self._random.choice([1, 2_000, 50_000])
        body, headers = _request(subject, chosen, parameters, binary=self._random.random() < 0.5)
        if self._random.random() < 0.1:
            self._leave(subject, body, headers)
            return
        began = time.monotonic()
        answer = client.post(f"/v2/models/{subject.model}/infer", content=body, headers=headers)
        if answer.status_code == 200:
            self._judge(subject, chosen, answer)
        elif answer.status_code in (429, 503) and "timeout" in parameters:
            self._tally.add("refused for its timeout")
        elif answer.status_code in (404, 503) and subject.comes_and_goes:
            self._tally.add("found its model unloaded")
        else:
            self._tally.add("failed", f"{subject.model} {answer.status_code} {answer.text}")
        if time.monotonic() - began > _HANG_SECONDS:
            self._tally.add("hung", subject.model)

    def _judge(self, subject: Subject, chosen: slice, answer: httpx.Response) -> None:
        variant, values = _answer(answer)
        expected = subject.expected[variant][chosen]
        if values.shape == expected.shape and np.allclose(values, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            self._tally.add("right")
        else:
            self._tally.add("wrong", f"{subject.model} {variant} rows {chosen}: {values.ravel()[:4]}")

    def _leave(self, subject: Subject, body: bytes, headers: dict[str, str]) -> None:
        """Hangs up in the middle of its body or while it waits for the answer."""
        parts = urlsplit(self._url)
        lines = [f"POST /v2/models/{subject.model}/infer HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
        whole = "\r\n".join(lines).encode() + b"\r\n\r\n" + body
        with socket.create_connection((parts.hostname, parts.port), timeout=_HANG_SECONDS) as connection:
            connection.sendall(whole[: self._random.choice([len(whole), len(whole) - 7])])
        self._tally.add("left")


def _request(subject: Subject, chosen: slice, parameters: dict[str, Any], binary: bool) -> tuple[bytes, dict[str, str]]:
    rows = subject.rows[chosen]
    tensor: dict[str, Any] = {"name": subject.input, "shape": list(rows.shape), "datatype": "FP32"}
    if not binary:
        body = json.dumps({"parameters": parameters, "inputs": [tensor | {"data": rows.ravel().tolist()}]}).encode()
        return body, {"Content-Type": "application/json"}
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    head = json.dumps({"parameters": parameters | {"binary_data_output": True}, "inputs": [tensor]}).encode()
    return head + rows.tobytes(), {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}


def _answer(answer: httpx.Response) -> tuple[str, Array]:
    """The variant that answered, and its rows."""
    length = answer.headers.get(HEADER_LENGTH)
    head = json.loads(answer.content[: int(length)] if length else answer.content)
    output = head["outputs"][0]
    data = np.frombuffer(answer.content[int(length) :], "<f4") if length else np.array(output["data"], np.float32)
    return head["parameters"]["variant"], data.reshape(output["shape"])


def ask(client: httpx.Client, subject: Subject) -> tuple[str, Array]:
    """The variant that answers now, and its answers to every row, each asked for alone."""
    answers = []
    variant = ""
    for row in range(len(subject.rows)):
        body, headers = _request(subject, slice(row, row + 1), {}, binary=True)
        variant, values = _answer(client.post(f"/v2/models/{subject.model}/infer", content=body, headers=headers))
        answers.append(values)
    return variant, np.concatenate(answers)
