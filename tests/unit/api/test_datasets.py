"""What the dataset endpoints promise."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest

from service.api.dependencies import Services
from tests.samples import quantize_request
from tests.unit.api.test_models import PREPROCESSING
from tests.uploading import digits_rows, npz, post_dataset, post_model, refusal


def pictures(side: int = 12) -> bytes:
    """A .zip of two classes of two pictures each."""
    rng, buffer = np.random.default_rng(1), io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
            _, png = cv2.imencode(".png", rng.integers(0, 255, (side, side, 3), dtype=np.uint8))
            archive.writestr(zipfile.ZipInfo(member), png.tobytes())
    return buffer.getvalue()


def test_an_npz_answers_201_with_every_field_of_the_contract(client: httpx.Client) -> None:
    answer = post_dataset(client)
    assert (answer.status_code, answer.headers["location"]) == (201, "/datasets/rows")
    body = answer.json()
    assert {key: body[key] for key in ("name", "rows", "arrays", "labels", "warnings")} == {
        "name": "rows",
        "rows": 4,
        "arrays": {"input": {"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}},
        "labels": True,
        "warnings": [],
    }
    assert client.get("/datasets/rows").json() == body
    assert client.get("/datasets").json() == {"datasets": [body]}


def test_the_stored_rows_are_the_uploaded_ones(client: httpx.Client, services: Services) -> None:
    post_dataset(client)
    with np.load(services.blobs.fetch(services.datasets.find("rows").blob_key), allow_pickle=False) as stored:
        assert (stored["input"] == digits_rows()).all()
        assert stored["labels"].tolist() == [0, 1, 2, 3]
    assert list(services.spool.iterdir()) == []


def test_pictures_borrow_the_preprocessing_and_the_input_of_a_model(client: httpx.Client) -> None:
    post_model(client, preprocessing=json.dumps(PREPROCESSING))
    answer = post_dataset(client, pictures(), filename="photos.zip", model="digits")
    assert answer.status_code == 201, answer.text
    assert (answer.json()["rows"], answer.json()["labels"]) == (4, True)
    assert "'cat' is 0, 'dog' is 1" in answer.json()["warnings"][-1]
    assert answer.json()["arrays"]["input"]["shape"] == [-1, 1, 8, 8]


def test_pictures_take_a_preprocessing_of_their_own(client: httpx.Client) -> None:
    wide = json.dumps(PREPROCESSING | {"width": 16})
    answer = post_dataset(client, pictures(), filename="photos.zip", preprocessing=wide)
    assert answer.json()["arrays"]["input"]["shape"] == [-1, 1, 8, 16]


def test_the_same_bytes_answer_200_and_others_409(client: httpx.Client, services: Services) -> None:
    first, again = post_dataset(client), post_dataset(client)
    assert (first.status_code, again.status_code, again.json()) == (201, 200, first.json())
    body = refusal(post_dataset(client, npz(input=digits_rows(5))), 409, "'rows'", "another name")
    assert body["code"] == "already_exists"


def test_the_same_pictures_prepared_otherwise_are_another_dataset(client: httpx.Client, services: Services) -> None:
    preprocessing = json.dumps(PREPROCESSING)
    post_dataset(client, pictures(), filename="p.zip", preprocessing=preprocessing)
    assert post_dataset(client, pictures(), filename="p.zip", preprocessing=preprocessing).status_code == 200
    other = json.dumps(PREPROCESSING | {"scale": 1.0})
    refusal(post_dataset(client, pictures(), filename="p.zip", preprocessing=other), 409, "another preprocessing")


def test_two_writers_of_one_name_make_one_dataset(client: httpx.Client, services: Services, tmp_path: Path) -> None:
    contents = [npz(input=digits_rows(4, seed)) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda data: post_dataset(client, data), contents))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    blobs = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert blobs == [services.blobs.fetch(services.datasets.find("rows").blob_key)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz(input=np.array([{"a": 1}, None], dtype=object)), "pickled"),
        (npz(input=np.full((2, 1, 8, 8), np.nan, np.float32)), "nan in row 0"),
        (npz(input=np.zeros((0, 1, 8, 8), np.float32)), "no rows"),
        (npz(input=digits_rows(), labels=np.array([0, 1, 2, -3])), "-3"),
        (npz(input=digits_rows(), labels=np.arange(3)), "rows differ"),
        (npz(labels=np.arange(3)), "labels only"),
        (npz(), "no files"),
        (npz(input=digits_rows())[:-40], "cut off"),
        (b"not an archive", "no readable archive"),
        (pictures(), "preprocessing"),
    ],
)
def test_a_dataset_that_is_not_sound_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None], data: bytes, words: str
) -> None:
    assert refusal(post_dataset(client, data), 422, words)["code"] == "invalid_dataset"
    nothing_left()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npz(picture=digits_rows()), "no array 'input', only picture"),
        (npz(input=digits_rows().astype(np.float64)), "FP64 but the model's input is FP32"),
        (npz(input=np.zeros((3, 8, 8), np.float32)), "[8, 8]"),
    ],
)
def test_rows_that_do_not_fit_the_named_model_are_refused(client: httpx.Client, data: bytes, words: str) -> None:
    post_model(client)
    refusal(post_dataset(client, data, model="digits"), 422, words)
    assert client.get("/datasets").json() == {"datasets": []}


def test_a_dataset_for_a_model_that_is_not_there_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None]
) -> None:
    refusal(post_dataset(client, model="nope"), 404, "'nope'")
    refusal(post_dataset(client, model="../x"), 422, "'../x'")
    nothing_left()


@pytest.mark.parametrize("name", ["", "a/b", "..", "ä", "n" * 300])
def test_a_name_that_is_not_allowed_is_refused(
    client: httpx.Client, nothing_left: Callable[[], None], name: str
) -> None:
    refusal(post_dataset(client, name=name), 422, "dataset name", "a-z")
    nothing_left()


def test_the_extension_must_be_npz_or_zip(client: httpx.Client, nothing_left: Callable[[], None]) -> None:
    refusal(post_dataset(client, filename="rows.csv"), 422, "'rows.csv'", ".npz or .zip")
    nothing_left()


def test_deleting_a_dataset_removes_row_and_file(client: httpx.Client, nothing_left: Callable[[], None]) -> None:
    post_dataset(client)
    assert client.delete("/datasets/rows").status_code == 204
    nothing_left()
    refusal(client.delete("/datasets/rows"), 404, "'rows'")
    refusal(client.get("/datasets/rows"), 404, "'rows'")


def test_a_dataset_that_a_job_reads_is_not_deleted(client: httpx.Client, services: Services) -> None:
    post_dataset(client)
    job, _ = services.jobs.submit(quantize_request())
    assert refusal(client.delete("/datasets/rows"), 409, job.id)["code"] == "in_use"
    services.jobs.cancel(job.id)
    assert client.delete("/datasets/rows").status_code == 204


def test_two_datasets_of_the_same_rows_share_their_file_until_both_are_gone(
    client: httpx.Client, services: Services, nothing_left: Callable[[], None]
) -> None:
    post_dataset(client)
    post_dataset(client, name="twin")
    client.delete("/datasets/rows")
    assert services.blobs.exists(services.datasets.find("twin").blob_key)
    client.delete("/datasets/twin")
    nothing_left()
