"""A report such as the gate writes, small, and with a string that must not leave its place on a page."""

from __future__ import annotations

from typing import Any

EVIL = '<script>alert("x")</script>'


def figures() -> dict[str, Any]:
    timing = {"batch": 1, "p50_seconds": 0.002, "p90_seconds": 0.003, "p99_seconds": 0.004, "rows_per_second": 480.0}
    errors = {"mean_error": 0.1, "mean_absolute_error": 0.2, "p50": 0.1, "p90": 0.2, "p99": 0.3, "max": 0.4}
    fast = timing | {"p50_seconds": 0.001, "p99_seconds": 0.002, "rows_per_second": 960.0}
    metric = {"reference": 0.99, "engine": 0.98, "loss": 0.0101, "interval": [0.0, 0.02]}
    return {
        "variant": "int8-onnxruntime", "verdict": "rejected", "warnings": [f"beware {EVIL}"],
        "unproven": "", "build": {},
        "host": {"device": EVIL, "libraries": {"onnxruntime": "1"}, "flags": [], "driver": "none"},
        "headline": {"metric": "top1", "loss": 0.0101, "max_loss": 0.01, "speedup": 2.0, "min_speedup": None,
                     "batch": 1, "times_smaller": 1.875},
        "speed": {"faster": True},
        "tails": {"row_error_p99": 0.5, "row_error_max": 0.75, "row_cosine_min": 0.625, "flip_rate": 0.125,
                  "rows_lost": 9, "rows_won": 4, "worst_class": {"label": 3, "rows": 7, "reference_top1": 1.0,
                                                                 "engine_top1": 0.5}},
        "consistency": [{"name": "row_order", "held": False, "detail": f"answers {EVIL} differ"},
                        {"name": "zero_rows", "held": None, "detail": "it does not apply"}],
        "loss_split": {"rows": 64, "metric": "top1", "note": None, "legs": [
            {"leg": "float_graph", "value": 0.99, "loss": 0.0, "sqnr_db": None, "exact": True},
            {"leg": "plan", "value": 0.97, "loss": 0.02, "sqnr_db": 21.5, "exact": False},
            {"leg": "engine", "value": 0.98, "loss": -0.01, "sqnr_db": 33.25, "exact": False}]},
        "waterfall": {"rows": 12, "note": None, "top": [EVIL], "operators": [
            {"name": EVIL, "operator": "Conv", "share": 0.75, "cause": "weight_rounding", "evidence": "29 dB behind",
             "local_sqnr_db": 29.0, "accumulated_sqnr_db": 12.5, "unfused": True}]},
        "lint": [{"name": EVIL, "operator": "Conv", "predicted": True, "executed": False, "rule": "b2.1"},
                 {"name": "relu", "operator": "Relu", "predicted": True, "executed": None, "rule": "b2.3"}],
        "tuning": [{"step": "bias_correction", "enabled": True, "kept": True, "sqnr_db_before": 13.0,
                    "sqnr_db_after": 17.5, "seconds": 1.5, "note": EVIL},
                   {"step": "equalization", "enabled": False, "kept": False}],
        "certificate": {"reason": "top1 went from 0.99 to 0.98", "created_at": "2026-01-01T00:00:00Z"},
        "reference": {"latency": [timing], "disk_bytes": 2097152, "resident_bytes": None, "accuracy": {}},
        "engine": {"latency": [fast], "disk_bytes": 1048576, "resident_bytes": 4096, "accuracy": {}},
        "metrics": {"top1": metric, "top5": metric | {"loss": None, "interval": None}},
        "outputs": [{"name": EVIL, "histogram": {"low": -1.0, "high": 1.0, "counts": [1, 0, 9, 4]},
                     "sqnr_db": None, "cosine": 0.9, **errors}],
        "classes": [{"label": 3, "rows": 7, "reference_top1": 1.0, "engine_top1": 0.5, **errors}],
        "operators": [
            {"name": EVIL, "operator": "Conv", "precision": "INT8", "reason": "r1", "runs_as": "QLinearConv"},
            {"name": "relu", "operator": "Relu", "precision": "INT8", "reason": "r2", "runs_as": None},
        ],
        "int8_operators": 1, "int8_mac_share": 0.875,
        "candidates": [{"runtime": "onnxruntime", "verdict": "rejected", "reason": "too much"}],
    }  # fmt: skip
