"""Bad input to the management endpoints of a real server: the right status, a message that helps, nothing left."""

from __future__ import annotations

import io
import resource
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.installation import DIGITS, finished_job, quantize_body, running, served, upload_digits
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


def packed(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
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


def test_two_writers_of_the_same_upload_at_once(server: Installation) -> None:
    with server.unchanged() as client, ThreadPoolExecutor(6) as pool:
        models = list(pool.map(lambda _: post_model(client, digits_model("w"), name="writers"), range(6)))
        datasets = list(pool.map(lambda _: post_dataset(client, name="writers"), range(6)))
        assert sorted(answer.status_code for answer in models) == [200] * 5 + [201]
        assert sorted(answer.status_code for answer in datasets) == [200] * 5 + [201]
        assert {answer.json()["version"] for answer in models} == {1}
        assert client.delete("/models/writers/deployment").status_code == 204
        assert client.delete("/models/writers/versions/1").status_code == 204
        assert client.delete("/datasets/writers").status_code == 204


def test_two_writers_of_one_name_at_once(server: Installation) -> None:
    with server.unchanged() as client, ThreadPoolExecutor(4) as pool:
        contents = [npz(input=digits_rows(seed=seed)) for seed in range(4)]
        answers = list(pool.map(lambda data: post_dataset(client, data, name="contested"), contents))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
        for answer in answers:
            if answer.status_code == 409:
                refusal(answer, 409, "'contested'", "another name")
        assert client.delete("/datasets/contested").status_code == 204


def test_a_full_queue(tmp_path: Path) -> None:
    with served(tmp_path, OCTAVO_MAX_QUEUED_JOBS="1") as client:
        upload_digits(client)
        job_id = client.post("/quantize", json=quantize_body()).json()["id"]
        with Installation(client, tmp_path).unchanged():
            answer = client.post("/quantize", json=quantize_body(precision="fp16"))
            refusal(answer, 429, "limit is 1", "OCTAVO_MAX_QUEUED_JOBS")
            assert answer.headers["retry-after"]
        assert client.delete(f"/jobs/{job_id}").status_code == 202
        assert client.post("/quantize", json=quantize_body(precision="fp16")).status_code == 202


def test_labels_beyond_the_models_classes_fail_the_job_with_a_reason(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        upload_digits(client)
        labels = np.full(64, 99)
        assert post_dataset(client, npz(input=digits_rows(64), labels=labels), name="beyond").status_code == 201
        job_id = client.post("/quantize", json=quantize_body(validation="beyond")).json()["id"]
        with running("work", tmp_path):
            job = finished_job(client, job_id)
        assert job["state"] == "failed"
        error = job["error"]
        assert isinstance(error, dict)
        assert error["code"] == "invalid_dataset"
        assert "99" in error["error"]
        assert "0 to 9" in error["error"]


@contextmanager
def small_disk(largest_file_bytes: int) -> Iterator[None]:
    """Processes started within may write no file larger than this, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk(tmp_path: Path) -> None:
    limit = 8 * 1024 * 1024
    with ExitStack() as stack:
        with small_disk(limit):
            client = stack.enter_context(served(tmp_path))
        with Installation(client, tmp_path).unchanged():
            body = refusal(post_model(client, bytes(limit + 1)), 507, "free space")
            assert body["code"] == "storage_full"
            # Small as it arrives, too large as it is stored.
            unpacked = np.random.default_rng(0).integers(0, 4, (40_000, 1, 8, 8)).astype(np.float32)
            refusal(post_dataset(client, packed(input=unpacked)), 507, "free")
        assert post_model(client).status_code == 201


def test_a_store_that_fails(tmp_path: Path) -> None:
    with served(tmp_path) as client:
        installation = Installation(client, tmp_path)
        # A file where the store keeps its folder: every put fails, as on a broken mount.
        (tmp_path / "store" / "content").write_bytes(b"")
        with installation.unchanged():
            for send in (post_model, post_dataset):
                assert refusal(send(client), 503, "the store failed", "try again")["code"] == "store_unavailable"
        (tmp_path / "store" / "content").unlink()
        assert post_model(client).status_code == 201
