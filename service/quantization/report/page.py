"""The report as one self-contained page: no scripts, no fonts, no images from elsewhere; every string is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from service.quantization.report import sections as sections
from service.quantization.report.build_sections import build_card, build_details
from service.quantization.report.plots import grouped_bars, histogram_plot
from service.quantization.report.tables import card, details, mebibytes, number, table

_MOST_WARNINGS = 4
_STYLE = """
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5c6878;--line:#d5dbe3;--back:#fff;--card:#f5f7fa;--bar:#2563c9;
--muted:#9aa7b8;--good:#14733c;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#e7ecf3;--soft:#9daabb;--line:#37414f;--back:#12171e;--card:#1b222c;
--bar:#6ea3ff;--muted:#5d6a7b;--good:#5fd08a;--bad:#ff8a80}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1180px;padding:20px;background:var(--back);color:var(--ink);
font:14px/1.45 system-ui,sans-serif}h1{font-size:20px;margin:0 0 4px}h2{font-size:14px;margin:0 0 6px}
p{margin:4px 0}.verdict{text-transform:uppercase;border:2px solid;border-radius:6px;padding:0 8px;margin-right:6px}
.numbers{display:flex;flex-wrap:wrap;gap:12px;margin:12px 0}.numbers div{background:var(--card);border:1px solid
var(--line);border-radius:8px;padding:8px 16px;min-width:190px}.numbers b{display:block;font-size:26px;line-height:1.2}
.numbers span{color:var(--soft)}.warnings{margin:8px 0;padding-left:20px}
.gain{fill:var(--good)}.unproven{color:var(--soft)}
.soft{color:var(--soft)}.passed{color:var(--good)}.rejected{color:var(--bad)}
.cards{columns:2 500px;column-gap:12px;margin:14px 0 0}.cards td,.cards th{white-space:nowrap}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px;overflow-x:auto;
break-inside:avoid;margin:0 0 12px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:right;padding:3px 8px;
border-bottom:1px solid var(--line)}th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:600}
details.card td,details.card th{text-align:left}
svg{width:100%;height:auto;font-size:11px}svg text{fill:var(--soft)}.bar{fill:var(--bar)}.muted{fill:var(--muted)}
.axis{stroke:var(--line)}summary{cursor:pointer;padding:6px 0}li{margin:2px 0}
"""


def render_page(report: dict[str, Any]) -> str:
    """The whole HTML document for one report of `report.build_report`."""
    cards = (
        sections.loss_split(report["loss_split"]),
        sections.top_contributors(report["waterfall"]),
        card(f"FP32 beside this engine{', simulated' if report['unproven'] else ''}", _comparison(report)),
        card("Latency p50, milliseconds (grey: reference)", _latency_plot(report)),
        *(
            card(f"Error of {output['name']!r}: reference - engine", _error_plot(output))
            for output in report["outputs"]
        ),
        sections.tails(report),
        sections.consistency(report["consistency"]),
        sections.tuning_table(report["tuning"]),
        card("Errors by output", _outputs(report["outputs"])),
        build_card(report["build"]),
    )
    tables = (
        _operators(report),
        sections.waterfall_table(report["waterfall"]),
        sections.lint_table(report["lint"]),
        _classes(report["classes"]),
        _candidates(report["candidates"]),
        *build_details(report["build"]),
    )
    title = f"{report['variant']}: {report['verdict']}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{_heading(report)}"
        f'<div class="cards">{"".join(cards)}</div>{"".join(tables)}</body></html>\n'
    )


def _heading(report: dict[str, Any]) -> str:
    """Verdict, three numbers, the reason in a sentence, and what to beware of."""
    host, verdict = report["host"], report["verdict"]
    libraries = ", ".join(f"{name} {version}" for name, version in host["libraries"].items())
    proven = "Built, and not proven," if report["unproven"] else "Proven"
    return (
        f'<h1><span class="verdict {escape(verdict)}">{escape(verdict)}</span> {escape(report["variant"])}</h1>'
        f"{_numbers(report)}<p>{escape(report['certificate']['reason'])}</p>"
        f'<p class="soft">{proven} on {escape(host["device"])} ({escape(libraries)}), '
        f"{escape(report['certificate']['created_at'])}</p>{_warnings(report['warnings'])}"
    )


def _numbers(report: dict[str, Any]) -> str:
    shown = report["headline"]
    loss = "unknown" if shown["loss"] is None else f"{shown['loss']:.4f}"
    metric = "mean absolute error" if shown["metric"] == "mae" else f"loss of {shown['metric']}"
    # Reports of earlier releases ask nothing.
    speedup, asked = shown["speedup"], shown.get("min_speedup")
    slow = speedup is not None and (speedup <= 1 or speedup < (asked or 0))
    wanted = "" if asked is None else f", at least {asked:g}x"
    faster = "unknown" if speedup is None else f"{speedup:.2f}x"
    figures = (
        (loss, f"{metric}, budget {shown['max_loss']:.4g}", f" {report['verdict']}"),
        (faster, f"the speed of FP32 at batch {shown['batch']}{wanted}", " rejected" if slow else ""),
        (f"{shown['times_smaller']:.2f}x", "smaller on disk", ""),
    )
    return (
        '<div class="numbers">'
        + "".join(
            f'<div><b class="{escape(style.strip())}">{escape(value)}</b><span>{escape(words)}</span></div>'
            for value, words, style in figures
        )
        + "</div>"
    )


def _warnings(warnings: Sequence[str]) -> str:
    items = [f"<li>{escape(warning)}</li>" for warning in warnings]
    first, rest = items[:_MOST_WARNINGS], items[_MOST_WARNINGS:]
    more = f"<details><summary>{len(rest)} more warnings</summary><ul>{''.join(rest)}</ul></details>" if rest else ""
    return f'<ul class="warnings">{"".join(first)}</ul>{more}' if items else ""


def _comparison(report: dict[str, Any]) -> str:
    reference, engine = report["reference"], report["engine"]
    several = len(report["outputs"]) > 1
    rows: list[tuple[str, ...]] = [
        (
            f"{metric} of {figures['output']}" if several else metric,
            number(figures["reference"], 4),
            number(figures["engine"], 4),
            _loss(figures),
        )
        for metric, figures in report["metrics"].items()
    ]
    for key, unit in (("disk_bytes", "on disk"), ("resident_bytes", "resident")):
        ratio = f"{engine[key] / reference[key]:.2f}x" if reference[key] and engine[key] is not None else ""
        rows.append((f"MiB {unit}", mebibytes(reference[key]), mebibytes(engine[key]), ratio))
    for before, after in zip(reference["latency"], engine["latency"], strict=not report["unproven"]):
        size = after["batch"]
        for key in ("p50", "p99"):
            pair = before[f"{key}_seconds"], after[f"{key}_seconds"]
            shown = (f"{seconds * 1000:.3f}" for seconds in pair)
            rows.append((f"ms {key}, batch {size}", *shown, f"{pair[0] / pair[1]:.2f}x the speed"))
        speeds = before["rows_per_second"], after["rows_per_second"]
        rows.append((f"rows/s, batch {size}", f"{speeds[0]:.0f}", f"{speeds[1]:.0f}", f"{speeds[1] / speeds[0]:.2f}x"))
    return table(("", "reference", "engine", "loss or ratio"), rows)


def _loss(figures: dict[str, Any]) -> str:
    if figures["loss"] is None:
        return "unknown"
    low, high = figures["interval"] or (None, None)
    interval = "" if low is None or high is None else f" [{low:.4f}, {high:.4f}]"
    return f"{figures['loss']:.4f}{interval}"


def _latency_plot(report: dict[str, Any]) -> str:
    groups = [f"batch {taken['batch']}" for taken in report["reference"]["latency"]]
    series = [
        (side, [taken["p50_seconds"] * 1000 for taken in report[side]["latency"]])
        for side in ("reference", "engine")
        if report[side]["latency"]
    ]
    return grouped_bars(groups, series, "Milliseconds")


def _error_plot(output: dict[str, Any]) -> str:
    shown = output["histogram"]
    return histogram_plot(shown["low"], shown["high"], shown["counts"]) + '<p class="soft">Square-root scale.</p>'


def _outputs(outputs: Sequence[dict[str, Any]]) -> str:
    keys = ("mean_error", "mean_absolute_error", "p50", "p90", "p99", "max", "sqnr_db", "cosine")
    names = ("E[e]", "E|e|", "p50 |e|", "p90 |e|", "p99 |e|", "max |e|", "SQNR dB", "cosine")
    if not outputs:
        return ""
    rows = [(name, *(number(output[key], 6) for output in outputs)) for key, name in zip(keys, names, strict=True)]
    return table(("", *(output["name"] for output in outputs)), rows)


def _operators(report: dict[str, Any]) -> str:
    rows = [
        (
            entry["name"],
            entry["operator"],
            entry["precision"],
            entry["runs_as"] or "(fused)",
            entry["reason"],
        )
        for entry in report["operators"]
    ]
    planned = sum(entry["precision"] == "INT8" for entry in report["operators"])
    share = report["int8_mac_share"]
    macs = "" if share is None or not planned else f", {share:.1%} of the multiply-accumulates"
    ran = f"{report['int8_operators']} kernels {'compiled' if report['unproven'] else 'run'} in INT8"
    title = f"{len(rows)} operators: {planned} planned in INT8, {ran}{macs}"
    return details(title, table(("operator", "type", "precision", "runs as", "because"), rows))


def _classes(classes: Sequence[dict[str, Any]]) -> str:
    if not classes:
        return ""
    keys = ("label", "rows", "reference_top1", "engine_top1", "mean_error", "mean_absolute_error", "p99", "max")
    rows = [[number(entry[key], 5) for key in keys] for entry in classes]
    return details(f"{len(classes)} classes", table(keys, rows))


def _candidates(candidates: Sequence[dict[str, Any]]) -> str:
    rows = [(entry["runtime"], entry["verdict"], entry["reason"]) for entry in candidates]
    return details(f"{len(candidates)} runtimes tried", table(("runtime", "verdict", "because"), rows))
