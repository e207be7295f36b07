"""The report's sections that explain: where the loss comes from, which operators, what holds, what was tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.quantization.report.plots import falling_bars, ranked_bars
from service.quantization.report.tables import card, decibels, details, number, soft, table

_LEGS = {"float_graph": "float graph", "plan": "plan", "engine": "kernels"}
_HELD = {True: "holds", False: "BROKEN", None: "not judged"}
_PROMISES = {
    "batch_size": "same answers at every batch size",
    "row_order": "same answers in another order",
    "identical_rows": "identical rows, identical answers",
    "nan_neighbour": "NaN and infinity stay in their row",
    "zero_rows": "no rows, no answers",
}


def loss_split(split: dict[str, Any] | None) -> str:
    """The legs' losses as a waterfall, with the SQNR of each."""
    if split is None or not split["legs"]:
        return ""
    legs = [(_LEGS[leg["leg"]], leg["loss"]) for leg in split["legs"] if leg["loss"] is not None]
    rows = [
        (_LEGS[leg["leg"]], number(leg["value"], 4), number(leg["loss"], 3), _leg_decibels(leg))
        for leg in split["legs"]
    ]
    plot = falling_bars(legs, "Loss") if legs else ""
    body = plot + table(("leg", split["metric"], "loss", "SQNR dB to the leg before"), rows)
    about = f"On {split['rows']} rows. Float graph: as prepared; plan: simulated in float; kernels: the engine."
    return card("Where the loss comes from", body + soft(about))


def _leg_decibels(leg: dict[str, Any]) -> str:
    """Nothing but noise has no decibels either, and is the opposite of exact."""
    return "noise alone" if leg["sqnr_db"] is None and not leg["exact"] else decibels(leg["sqnr_db"])


def top_contributors(waterfall: dict[str, Any] | None) -> str:
    """The operators that add most, each with its cause."""
    if waterfall is None or not waterfall["top"]:
        return ""
    by_name = {entry["name"]: entry for entry in waterfall["operators"]}
    top = [by_name[name] for name in waterfall["top"]]
    bars = [(entry["name"], entry["share"], entry["cause"].replace("_", " ")) for entry in top]
    about = f"Share of the noise that all operators add by themselves, fed with float inputs; {waterfall['rows']} rows."
    return card("Operators that add most error", ranked_bars(bars, "Share of the noise") + soft(about))


def waterfall_table(waterfall: dict[str, Any] | None) -> str:
    """Every quantized operator in the graph's order."""
    if waterfall is None or not waterfall["operators"]:
        return ""
    rows = [
        (
            entry["name"],
            entry["operator"],
            decibels(entry["local_sqnr_db"]),
            decibels(entry["accumulated_sqnr_db"]),
            entry["cause"].replace("_", " ") + (", unfused" if entry.get("unfused") else ""),
            entry["evidence"],
        )
        for entry in waterfall["operators"]
    ]
    head = ("operator", "type", "own SQNR dB", "gathered SQNR dB", "cause", "measured")
    return details(f"Error of {len(rows)} quantized operators, one by one", table(head, rows))


def consistency(checks: Sequence[dict[str, Any]]) -> str:
    if not checks:
        return ""
    rows = [(_PROMISES.get(check["name"], check["name"]), _HELD[check["held"]]) for check in checks]
    notes = [check["detail"] for check in checks if not check["held"]]
    return card("The engine agrees with itself", table(("", ""), rows) + "".join(map(soft, notes)))


def tails(report: dict[str, Any]) -> str:
    """What a mean hides: flipped decisions, the worst class, the worst row."""
    found = report["tails"]
    rows = [("99 % of rows err by at most (mean of |e|)", number(found.get("row_error_p99"), 4))]
    rows.append(("worst row errs by", number(found.get("row_error_max"), 4)))
    rows.append(("worst row's cosine", number(found.get("row_cosine_min"), 4)))
    if "flip_rate" in found:
        rows.append(("rows whose best class changed", f"{found['flip_rate']:.2%}"))
    if "rows_lost" in found:
        rows.append(("right before, wrong now", str(found["rows_lost"])))
        rows.append(("wrong before, right now", str(found["rows_won"])))
        worst = found["worst_class"]
        change = f"{worst['reference_top1']:.4f} to {worst['engine_top1']:.4f}, {worst['rows']} rows"
        rows.append((f"class that lost most: {worst['label']}", change))
    return card("Tails", table(("", ""), rows))


def lint_table(lint: Sequence[dict[str, Any]]) -> str:
    if not lint:
        return ""
    wrong = [entry for entry in lint if entry["executed"] not in (None, entry["predicted"])]
    rows = [
        (entry["name"], entry["operator"], _kind(entry["predicted"]), _kind(entry["executed"]), entry["rule"])
        for entry in (*wrong, *(entry for entry in lint if entry not in wrong))
    ]
    title = f"Fusion lint: {len(lint)} operators predicted, {len(wrong)} run otherwise"
    return details(title, table(("operator", "type", "predicted", "runs", "rule"), rows))


def tuning_table(ledger: Sequence[dict[str, Any]]) -> str:
    """What each step of tuning bought; a step that was switched off is shown as such."""
    if not ledger:
        return ""
    rows = [
        (
            str(entry["step"]).replace("_", " "),
            "off" if not entry["enabled"] else "kept" if entry["kept"] else "not kept",
            *(_told(entry.get(key)) for key in ("sqnr_db_before", "sqnr_db_after", "seconds")),
            str(entry.get("note") or ""),
        )
        for entry in ledger
    ]
    return card("Tuning", table(("step", "", "dB before", "dB after", "seconds", "note"), rows))


def _told(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _kind(int8: bool | None) -> str:
    return "fused" if int8 is None else "INT8" if int8 else "float"
