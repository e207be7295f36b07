"""From an artifact's file to an engine, and what is said of one that another host proved."""

from __future__ import annotations

import hashlib
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.domain.engine import GPU_RUNTIMES, Fingerprint
from service.engines import gpu_requirements, loader
from service.engines.fingerprint import engine_fingerprint, host_fingerprint
from service.engines.loader import check_bytes, foreign_parts, load_engine
from service.errors import EngineFailed, Unsupported
from tests.served_models import artifact, write_linear

HERE = Fingerprint("cpu a", ("avx2",), "none", {"onnxruntime": "1.32.0", "openvino": "2026.4"})


def proven_on(there: Fingerprint | None) -> list[str]:
    return foreign_parts(replace(artifact(), fingerprint=there), HERE)


def test_an_artifact_of_this_host_differs_in_nothing() -> None:
    assert proven_on(HERE) == []
    assert proven_on(None) == []


def test_device_flags_driver_and_the_artifacts_own_runtime_count() -> None:
    other = Fingerprint("cpu b", ("avx2", "avx512f"), "580", {"onnxruntime": "1.31.0"})
    assert proven_on(other) == [
        "device: cpu b -> cpu a",
        "flags: avx2 avx512f -> avx2",
        "driver: 580 -> none",
        "onnxruntime: 1.31.0 -> 1.32.0",
    ]
    assert proven_on(replace(HERE, libraries={"onnxruntime": "1.32.0", "openvino": "2020"})) == []


def test_bytes_that_are_not_those_of_the_certificate_are_not_trusted(tmp_path: Path) -> None:
    path = write_linear(tmp_path / "m.onnx")
    whole = replace(artifact(), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    check_bytes(path, whole)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EngineFailed, match=r"is not what was registered: its SHA-256 is .*; restore blob 'content/x'"):
        check_bytes(path, whole)


def test_a_foreign_cpu_engine_is_loaded_and_said_to_be_foreign(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = replace(artifact(), fingerprint=replace(host_fingerprint(), device="another"))
    with caplog.at_level(logging.WARNING):
        engine = load_engine(write_linear(tmp_path / "m.onnx"), foreign, threads=1)
    engine.close()
    (record,) = caplog.records
    assert "proven on another host" in record.message
    assert record.__dict__["differences"][0].startswith("device: another -> ")


def test_an_unknown_runtime_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="needs runtime 'coreml'; this process runs onnxruntime, openvino, tensorrt"):
        load_engine(tmp_path / "m", replace(artifact(), runtime="coreml"), threads=1)


@pytest.mark.parametrize("runtime", GPU_RUNTIMES)
def test_without_a_gpu_its_runtimes_are_refused_with_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.setattr(gpu_requirements, "find_device", lambda: None)
    monkeypatch.setattr(gpu_requirements, "why_no_device", lambda: "the driver shows no GPU; check nvidia-smi")
    with pytest.raises(
        Unsupported, match=f"runtime '{runtime}', which cannot run here: the driver shows no GPU; check nvidia-smi"
    ):
        load_engine(tmp_path / "m", replace(artifact(), runtime=runtime), threads=1)


def test_a_foreign_tensorrt_engine_is_refused_before_its_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "missing_for", lambda runtime: "")
    monkeypatch.setattr(loader, "host_fingerprint", lambda: replace(HERE, libraries={"tensorrt": "tensorrt 11.4"}))
    built = Fingerprint("gpu", (), "13.0", {"tensorrt": "tensorrt_rtx 1.7"}, built_for=("8.6",))
    with pytest.raises(Unsupported, match=r"cannot be loaded here: it was built by tensorrt_rtx 1\.7 for .* 8\.6, and"):
        load_engine(tmp_path / "none", replace(artifact(), runtime="tensorrt", fingerprint=built), threads=1)


def test_a_runtime_that_is_not_installed_is_refused_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "find_spec", lambda name: None)
    with pytest.raises(
        Unsupported, match=r"'openvino', which is not installed here; .*pip install 'octavo\[openvino\]'"
    ):
        load_engine(tmp_path / "m", replace(artifact(), runtime="openvino"), threads=1)


@pytest.mark.parametrize("runtime", [runtime for runtime in loader.RUNTIMES if runtime not in GPU_RUNTIMES])
def test_an_engine_of_each_runtime_answers(tmp_path: Path, runtime: str) -> None:
    engine = load_engine(write_linear(tmp_path / "m"), replace(artifact(), runtime=runtime), threads=1)
    assert engine.infer({"x": np.ones((2, 1, 2, 2), np.float32)})["y"].tolist() == [[6, 12, 18]] * 2
    engine.close()


def test_no_runtime_is_imported_before_the_first_engine_of_it_is_loaded(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace; import service.serve;"
        "from service.engines.loader import load_engine; from tests.served_models import artifact, write_linear;"
        "load_engine(write_linear(Path(sys.argv[1])), artifact(), 1); print('openvino' in sys.modules);"
        "load_engine(Path(sys.argv[1]), replace(artifact(), runtime='openvino'), 1); print('openvino' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["False", "True"]


def test_a_fingerprint_of_one_runtime_names_no_other() -> None:
    assert engine_fingerprint("openvino").libraries.keys() == {"openvino"}
    assert replace(engine_fingerprint("onnxruntime"), libraries={}) == replace(host_fingerprint(), libraries={})


def test_a_file_that_is_no_model_is_refused_in_the_runtimes_words(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineFailed, match=r"ONNX Runtime cannot load m\.onnx"):
        load_engine(tmp_path / "m.onnx", artifact(), threads=1)
