"""Octavo beside other model servers on the same models: requests/s and latency in interleaved rounds."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import httpx

from benchmarks.errors import CannotMeasure
from benchmarks.load import Load, Observed, apply_load, require_wrk
from benchmarks.octavo import Place, Server, free_port, served, wait_until
from benchmarks.options import Options
from benchmarks.payloads import Requests, check_answer, make_requests
from benchmarks.peer_list import PEERS, Peer
from benchmarks.peer_venv import install_peer
from benchmarks.process import Program, running
from benchmarks.reference import Bare, bare_session, clean_environment
from benchmarks.report import Goal, Report, Table

_SERVERS = Path(__file__).parent / "peer_servers"
_WARM_UP_SECONDS = 2.0
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Case:
    """A model, the threads of a peer's engine, the processes of Octavo, and the kinds of each peer's requests.

    `goals` are ratios of requests/s by peer and kind; with one of Mosec's comes that no p99 is worse.
    """

    name: str
    model: Path
    threads: int
    connections: int
    processes: int
    kinds: dict[str, tuple[str, ...]]
    goals: dict[tuple[str, str], float]


@dataclass(frozen=True)
class Pair:
    """One round: the peer's figures and ours, one right after the other, the other server idle."""

    peer: Observed
    octavo: Observed


@dataclass(frozen=True)
class Bench:
    """What every peer is measured with."""

    case: Case
    octavo: Server
    requests: Requests
    options: Options
    environment: dict[str, str]
    folder: Path


def measure_peers(options: Options, say: Callable[[str], None]) -> Report:
    """Raises CannotMeasure for an unknown peer, a failed installation, and a peer that answers wrong or with errors."""
    require_wrk()
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise CannotMeasure(f"there is no peer {unknown[0]!r}; name some of {', '.join(PEERS)}")
    binaries = {name: _install(name, options.venvs, say) for name in options.peers}
    report = Report(
        "peers",
        "Beside other model servers",
        "The same model in FP32 on ONNX Runtime, the same cores. Octavo serves with a process a core, each with an "
        "engine of one thread; of the peers Mosec has one process for HTTP and one for its worker, and all run the "
        "large model on one engine with a thread a core. Each round measures one peer and then Octavo, or the other "
        "way round, while the other server is idle. Ratios are Octavo's requests/s over the peer's within a round; "
        "every figure is the median over the rounds.",
    )
    for case in _cases(options, report, say):
        say(case.name)
        _add(report, case, _measure_case(case, options, binaries, say))
    return report


def _cases(options: Options, report: Report, say: Callable[[str], None]) -> list[Case]:
    kinds = {name: tuple(peer.payloads) for name, peer in PEERS.items()}
    goals = {(name, kind): 1.2 if name == "mosec" else 8.0 for name in kinds for kind in kinds[name]}
    cores = len(os.sched_getaffinity(0))
    cases = [Case("Digits CNN", options.digits, 1, 32, cores, kinds, goals)]
    try:
        model = options.find_efficientnet()
    except CannotMeasure as error:
        report.notes.append(f"EfficientNet-Lite0 was not measured: {error}")
        say(report.notes[-1])
        return cases
    few: dict[str, tuple[str, ...]] = {"mosec": ("binary",), "mlserver": ("json",)}
    wanted = {("mosec", "binary"): 1.2, ("mlserver", "json"): 3.0}
    return [*cases, Case("EfficientNet-Lite0", model, cores, 8, cores, few, wanted)]


def _measure_case(
    case: Case, options: Options, binaries: dict[str, Path], say: Callable[[str], None]
) -> dict[tuple[str, str], list[Pair]]:
    with (
        tempfile.TemporaryDirectory(prefix="octavo-bench-") as name,
        bare_session(case.model, case.threads) as bare,
        served(Place(Path(name) / "data", processes=case.processes)) as octavo,
    ):
        folder = Path(name)
        octavo.upload_model("model", case.model)
        requests = make_requests(bare, folder / "requests")
        bench = Bench(case, octavo, requests, options, _environment(case, bare), folder)
        measured: dict[tuple[str, str], list[Pair]] = {}
        for peer, programs in binaries.items():
            if peer in case.kinds:
                say(f"{peer}, {' and '.join(case.kinds[peer])}")
                measured |= _measure_peer(bench, peer, programs)
    return measured


def _install(name: str, venvs: Path, say: Callable[[str], None]) -> Path:
    say(f"{name}: installed in {venvs / name}, or installing it now")
    return install_peer(venvs.absolute(), name, PEERS[name].packages)


def _environment(case: Case, bare: Bare) -> dict[str, str]:
    """What the peers' code reads: the model, the shape of a row, and the threads."""
    shape = bare.ask(do="describe")["row_shape"]
    return {
        "BENCH_MODEL": str(case.model.absolute()),
        "BENCH_ROW_SHAPE": ",".join(str(extent) for extent in shape),
        "BENCH_THREADS": str(case.threads),
        "BENCH_MAX_BATCH": str(case.connections),
    }


def _measure_peer(bench: Bench, name: str, binaries: Path) -> dict[tuple[str, str], list[Pair]]:
    measured = {}
    with _started(bench, name, binaries) as url:
        for kind in bench.case.kinds[name]:
            measured[name, kind] = list(_pairs(bench, PEERS[name], name, kind, url))
    return measured


@contextmanager
def _started(bench: Bench, name: str, binaries: Path) -> Iterator[str]:
    peer, port = PEERS[name], free_port()
    words = {"bin": str(binaries), "port": str(port), "folder": str(_SERVERS)}
    words |= {"port1": str(free_port()), "port2": str(free_port())}
    settings = {key: value.format(**words) for key, value in peer.settings.items()}
    program = Program(
        [word.format(**words) for word in peer.command],
        bench.folder / f"{name}.log",
        clean_environment(**bench.environment, **settings, BENCH_PORT=str(port)),
        _SERVERS,
    )
    url = f"http://127.0.0.1:{port}"
    with running(program) as process:
        ready = f"{url}{peer.ready_path}"
        wait_until(lambda: process.poll() is not None or _answers(ready), f"{name} to start", _START_SECONDS)
        if process.poll() is not None:
            raise CannotMeasure(f"{name} ended with {process.returncode}: {program.log.read_text()[-3000:]}")
        yield url


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def _pairs(bench: Bench, peer: Peer, name: str, kind: str, url: str) -> Iterator[Pair]:
    theirs = f"{url}{peer.infer_paths[kind]}", getattr(bench.requests, peer.payloads[kind]), name
    ours = bench.octavo.infer_url("model"), getattr(bench.requests, kind), "octavo serve"
    for target, payload, _ in (theirs, ours):
        check_answer(target, payload, bench.requests.expected)
        apply_load(target, payload, Load(bench.case.connections, _WARM_UP_SECONDS))
    load = Load(bench.case.connections, bench.options.seconds)
    for number in range(bench.options.rounds):
        seen = {}
        # The order changes from round to round, so that a drift of the machine favours neither.
        for target, payload, who in (theirs, ours) if number % 2 else (ours, theirs):
            bench.options.quiet.wait()
            seen[who] = apply_load(target, payload, load).checked(who)
        yield Pair(seen[name], seen["octavo serve"])


def _add(report: Report, case: Case, measured: dict[tuple[str, str], list[Pair]]) -> None:
    figures_of = [f"{who} {figure}" for who in ("its", "Octavo's") for figure in ("requests/s", "p50 ms", "p99 ms")]
    title = f"{case.name}, {case.connections} connections"
    table = Table(title, ["peer", "payload", *figures_of, "ratio", "Octavo's p99 over its"])
    for (name, kind), pairs in measured.items():
        ratio = median(pair.octavo.requests_per_second / pair.peer.requests_per_second for pair in pairs)
        tail = median(pair.octavo.p99_ms / pair.peer.p99_ms for pair in pairs)
        figures = [
            f"{median(getattr(getattr(pair, who), key) for pair in pairs):.4g}"
            for who in ("peer", "octavo")
            for key in ("requests_per_second", "p50_ms", "p99_ms")
        ]
        table.rows.append([f"{name} {_version(name)}", kind, *figures, f"{ratio:.2f}", f"{tail:.2f}"])
        if (name, kind) in case.goals:
            what = f"{case.name}, {kind}"
            report.goals.append(Goal(f"{what}: requests/s over {name}'s", ratio, case.goals[name, kind]))
            if name == "mosec":
                report.goals.append(Goal(f"{what}: p99 over {name}'s", tail, 1.0, at_most=True))
    report.tables.append(table)
    report.rounds[case.name] = {
        f"{name} {kind}": [asdict(pair) for pair in pairs] for (name, kind), pairs in measured.items()
    }


def _version(name: str) -> str:
    return PEERS[name].packages[0].partition("==")[2]
