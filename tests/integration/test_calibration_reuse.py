"""A second job on the same model and rows does not run the model over them again. Real processes."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.installation import finished_job, quantize_body, running, served, upload_digits


def _run(client: httpx.Client, method: str) -> None:
    answer = client.post("/quantize", json=quantize_body(recipe={"calibration": {"method": method, "rows": 64}}))
    assert answer.status_code == 202, answer.text
    job = finished_job(client, answer.json()["id"])
    assert job["state"] in ("succeeded", "rejected"), job


def _stored(data_dir: Path) -> list[Path]:
    return sorted((data_dir / "store" / "calibrations").rglob("*.npz"))


def test_a_calibration_serves_every_method_until_its_rows_are_deleted(tmp_path: Path) -> None:
    with served(tmp_path) as client, running("work", tmp_path):
        upload_digits(client)
        _run(client, "entropy")
        (file,) = _stored(tmp_path)
        made = file.stat().st_mtime_ns
        _run(client, "mse")
        assert _stored(tmp_path) == [file]
        assert file.stat().st_mtime_ns == made
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        _run(client, "percentile")
        assert _stored(tmp_path) == [file]
        assert len(file.read_bytes()) > len(content) // 2
        for dataset in client.get("/datasets").json()["datasets"]:
            assert client.delete(f"/datasets/{dataset['name']}").status_code == 204
        assert _stored(tmp_path) == []
