"""Bad input to the management endpoints of a real server: the right status, a message that helps, nothing left."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from tests.installation import DIGITS, quantize_body, upload_digits
from tests.integration.bad_models import BAD_MODELS, bytes_of, open_axes, scalar_input
from tests.integration.conftest import MAX_UPLOAD_BYTES, Installation
from tests.uploading import digits_model, digits_rows, npz, post_dataset, post_model, refusal

BAD_NAMES = ["", "a/b", "..", "a..b", "../../etc", "modèle", "模型", "UPPER", "a b", "-a", ".a", "n" * 64, "n" * 300]
BAD_FILES = [
    (digits_model()[:60_000], "cut off"),
    (b"", "empty"),
    (b"this is a text file", "no ONNX"),
    (b"PK\x03\x04" + bytes(60), "zip archive"),
    (b"\x80\x04\x95" + bytes(60), "pickle"),
    ((DIGITS / "sample.png").read_bytes(), "no ONNX"),
    ((DIGITS / "validation.npz").read_bytes(), "zip archive"),
]


def bomb(member: str = "input.npy", size: int = 64 * 1024 * 1024) -> bytes:
    """An archive of some kB that unpacks to `size` bytes of zeros."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(member, bytes(size))
    return buffer.getvalue()


@pytest.fixture(scope="session")
def digits(server: Installation) -> httpx.Client:
    """The server with the shipped model and its two datasets."""
    upload_digits(server.client)
    return server.client


@pytest.mark.parametrize(("data", "words"), BAD_FILES)
def test_a_file_that_is_no_onnx_model(server: Installation, data: bytes, words: str) -> None:
    with server.unchanged() as client:
        assert refusal(post_model(client, data), 422, words, "send")["code"] == "invalid_model"


@pytest.mark.parametrize(("make", "words"), [case[1:] for case in BAD_MODELS], ids=[case[0] for case in BAD_MODELS])
def test_an_onnx_model_that_cannot_be_served(server: Installation, make: Any, words: tuple[str, ...]) -> None:
    with server.unchanged() as client:
        assert refusal(post_model(client, bytes_of(make())), 422, *words)["code"] == "invalid_model"


def test_a_scalar_input_and_open_axes_are_no_fault(server: Installation) -> None:
    with server.unchanged() as client:
        for data in (scalar_input(), open_axes()):
            answer = post_model(client, data, name="odd-shapes")
            assert answer.status_code == 201, answer.text
            version = answer.json()["version"]
            assert client.get(f"/v2/models/odd-shapes/versions/{version}/ready").status_code == 200
            assert client.delete("/models/odd-shapes/deployment").status_code == 204
            assert client.delete(f"/models/odd-shapes/versions/{version}").status_code == 204


def test_a_wrong_extension(server: Installation) -> None:
    with server.unchanged() as client:
        refusal(post_model(client, filename="model.txt"), 422, "'model.txt'", ".onnx")
        refusal(post_dataset(client, filename="rows.csv"), 422, "'rows.csv'", ".npz or .zip")


def test_an_upload_over_the_limit(server: Installation) -> None:
    with server.unchanged() as client:
        for send in (post_model, post_dataset):
            answer = send(client, bytes(MAX_UPLOAD_BYTES + 1))
            body = refusal(answer, 413, str(MAX_UPLOAD_BYTES), "OCTAVO_MAX_UPLOAD_BYTES")
            assert body["code"] == "too_large"


def test_an_upload_without_end(server: Installation) -> None:
    def body() -> Iterator[bytes]:
        yield b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n'
        for _ in range(64):
            yield bytes(MAX_UPLOAD_BYTES // 16)

    with server.unchanged() as client:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        refusal(client.post("/models", content=body(), headers=headers), 413, "OCTAVO_MAX_UPLOAD_BYTES")


def test_a_truncated_upload(server: Installation) -> None:
    head = b'--b\r\ncontent-disposition: form-data; name="name"\r\n\r\ndigits\r\n--b\r\n'
    cut = head + b'content-disposition: form-data; name="file"\r\n\r\n' + digits_model()[:9000]
    with server.unchanged() as client:
        headers = {"content-type": "multipart/form-data; boundary=b"}
        for path in ("/models", "/datasets"):
            refusal(client.post(path, content=cut, headers=headers), 422, "closing boundary", "again")


def test_a_digest_of_other_bytes(server: Installation) -> None:
    with server.unchanged() as client:
        refusal(post_model(client, sha256="0" * 64), 422, "0" * 64, "again")
        refusal(post_dataset(client, sha256="0" * 64), 422, "0" * 64, "again")


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_is_not_allowed(server: Installation, name: str) -> None:
    with server.unchanged() as client:
        for send in (post_model, post_dataset):
            assert refusal(send(client, name=name), 422, repr(name)[:40].rstrip("'"), "use")["code"] == "invalid_name"
        for field in ("model", "calibration", "validation"):
            refusal(client.post("/quantize", json={"model": "digits"} | {field: name}), 422, "use")


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..", "n" * 300, "%00", "%E6%A8%A1", "UPPER"])
def test_a_path_with_a_name_that_is_not_allowed(server: Installation, name: str) -> None:
    with server.unchanged() as client:
        for path in (f"/models/{name}", f"/models/{name}/deployment", f"/datasets/{name}", f"/jobs/{name}"):
            for method in ("GET", "DELETE"):
                answer = client.request(method, path)
                assert answer.status_code in (404, 405, 422), answer.text
                assert set(answer.json()) == {"error", "code"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz(input=np.array([{"a": 1}, None], dtype=object)), "pickled"),
        (npz(input=digits_rows(), labels=np.array(["a", "b", "c", "d"])), "labels are"),
        (npz(input=np.where(digits_rows() > 0.5, np.nan, 0).astype(np.float32)), "nan in row 0"),
        (npz(input=np.full((2, 1, 8, 8), np.inf, np.float32)), "inf in row 0"),
        (npz(input=np.zeros((0, 1, 8, 8), np.float32)), "no rows"),
        (npz(input=np.float32(1)), "shape []"),
        (npz(input=digits_rows(), labels=np.array([0, 1, 2, -1])), "-1"),
        (npz(input=digits_rows(), labels=np.array([0, 1, 2, 10**9])), "1000000000"),
        (npz(input=digits_rows(), labels=np.arange(3)), "rows differ"),
        (npz(input=digits_rows().astype(np.complex64)), "complex64"),
        (npz(), "no files"),
        (npz(input=digits_rows())[:-50], "cut off"),
        (b"", "empty"),
        (b"rows, rows, rows", "archive"),
        (bomb(), "64"),
        (bomb("cat/1.png"), "67108864"),
    ],
)
def test_a_dataset_that_is_not_sound(server: Installation, data: bytes, words: str) -> None:
    with server.unchanged() as client:
        assert refusal(post_dataset(client, data), 422, words)["code"] == "invalid_dataset"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz(picture=digits_rows()), "no array 'input', only picture"),
        (npz(input=digits_rows().astype(np.float64)), "FP64 but the model's input is FP32"),
        (npz(input=np.ones((3, 8, 8), np.float32)), "[8, 8]"),
        (npz(input=np.ones((3, 1, 8, 9), np.float32)), "[1, 8, 9]"),
    ],
)
def test_a_dataset_that_does_not_fit_the_model(
    digits: httpx.Client, server: Installation, data: bytes, words: str
) -> None:
    with server.unchanged() as client:
        assert refusal(post_dataset(client, data, model="digits"), 422, words)["code"] == "invalid_dataset"
    assert post_dataset(digits, data, name="misfit").status_code == 201
    with server.unchanged():
        refusal(digits.post("/quantize", json=quantize_body(calibration="misfit")), 422, "'misfit' calibration", words)
        refusal(digits.post("/quantize", json=quantize_body(validation="misfit")), 422, "'misfit' validation", words)
    assert digits.delete("/datasets/misfit").status_code == 204


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"precision": "int8", "speed": "ludicrous"}}, ("recipe.speed", "not a known field")),
        ({"colour": "red"}, ("colour", "not a known field")),
        ({"recipe": {"precision": "int7"}}, ("'int7'", "'int8'")),
        ({"recipe": {"calibration": {"method": "guess"}}}, ("'guess'", "'entropy'")),
        ({"recipe": {"calibration": {"rows": -5}}}, ("-5",)),
        ({"recipe": {"calibration": {"method": "percentile", "percentile": 200}}}, ("200",)),
        ({"recipe": {"runtime": "abacus"}}, ("'abacus'", "'onnxruntime'")),
        ({"recipe": {"keep_float": "op:Softmax"}}, ("recipe.keep_float", "list")),
        ({"recipe": {"batch": {"min": 8, "opt": 4, "max": 2}}}, ("min 8, opt 4, max 2",)),
        ({"budget": {"metric": "top1", "max_loss": -0.5}}, ("-0.5",)),
        ({"budget": {"metric": "joy"}}, ("'joy'", "'top1'")),
        ({"deploy": "yesterday"}, ("'yesterday'", "'none'")),
        ({"calibration": None}, ("int8", "POST /datasets")),
    ],
)
def test_a_recipe_that_is_wrong(
    digits: httpx.Client, server: Installation, change: dict[str, Any], words: tuple[str, ...]
) -> None:
    with server.unchanged() as client:
        refusal(client.post("/quantize", json=quantize_body(**change)), 422, *words)


def test_a_job_over_what_is_not_there(digits: httpx.Client, server: Installation) -> None:
    with server.unchanged() as client:
        for change in ({"model": "nope"}, {"calibration": "nope"}, {"validation": "nope"}, {"version": 99}):
            refusal(client.post("/quantize", json=quantize_body(**change)), 404, "does not exist", "GET /")
        for path in ("/jobs/nope", "/jobs/nope/report", "/jobs/nope/events", "/jobs?before=nope"):
            refusal(client.get(path), 404, "'nope'", "GET /jobs")


def test_a_body_that_is_no_json(digits: httpx.Client, server: Installation) -> None:
    with server.unchanged() as client:
        for body in (b"", b"{", b"[]", b"\xff", b"[" * 200_000, b'{"model": NaN}'):
            answer = client.post("/quantize", content=body, headers={"content-type": "application/json"})
            assert answer.status_code in (400, 422), answer.text
            assert set(answer.json()) == {"error", "code"}
        refusal(client.post("/quantize", content=bytes(1024 * 1024)), 413, "262144")
