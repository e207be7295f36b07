"""A certificate holds where the same kernels of the same runtime run, and nowhere else."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from service.domain.engine import Certificate, EngineArtifact, Fingerprint, may_answer, on_host, proof_gaps
from tests.samples import artifact, certificate

HERE = Fingerprint("cpu", ("avx2",), "none", {"onnxruntime": "1", "openvino": "7"})


@pytest.mark.parametrize(
    ("here", "gaps"),
    [
        (HERE, ()),
        (replace(HERE, device="another name for it"), ()),
        (replace(HERE, libraries={"onnxruntime": "1", "openvino": "8"}), ()),
        (replace(HERE, flags=("avx2", "avx_vnni")), ("flags was avx2, is avx2 avx_vnni",)),
        (replace(HERE, libraries={}), ("onnxruntime was 1, is none",)),
    ],
)
def test_flags_and_the_engines_own_runtime_decide(here: Fingerprint, gaps: tuple[str, ...]) -> None:
    assert proof_gaps(artifact(), here) == gaps


def test_on_a_gpu_its_name_and_driver_decide_too() -> None:
    there = replace(HERE, device="GPU A", driver="600")
    engine = replace(artifact(), certificate=replace(certificate(), fingerprint=there))
    assert proof_gaps(engine, there) == ()
    assert proof_gaps(engine, replace(there, device="GPU B", driver="601")) == (
        "driver was 600, is 601",
        "device was GPU A, is GPU B",
    )


def test_what_was_passed_elsewhere_is_unproven_here_and_says_the_next_step() -> None:
    here = replace(HERE, flags=())
    seen = on_host(artifact(), here)
    assert seen.certificate is not None
    assert seen.certificate.verdict == "unproven"
    assert seen.certificate.reason == (
        "proven on another host (flags was avx2, is ); quantize again with the same recipe to prove it here"
    )
    assert not may_answer(seen)
    assert may_answer(on_host(artifact(), HERE))
    assert may_answer(on_host(artifact(), None))


def test_a_rejection_stays_one_on_every_host() -> None:
    rejected = artifact(verdict="rejected")
    assert on_host(rejected, replace(HERE, flags=())) is rejected


def test_the_reference_needs_no_proof() -> None:
    reference: EngineArtifact = replace(artifact("fp32-onnxruntime"), certificate=None, fingerprint=None)
    assert on_host(reference, replace(HERE, flags=())) is reference
    assert may_answer(reference)


def test_a_certificate_survives_the_way_through_json_and_an_older_one_is_still_read() -> None:
    bound = replace(certificate(), model_sha256="a" * 64, plan_sha256="b" * 64)
    assert Certificate.from_json(json.loads(json.dumps(bound.to_json()))) == bound
    older = {key: value for key, value in bound.to_json().items() if not key.endswith("_sha256")}
    assert Certificate.from_json(older) == certificate()
