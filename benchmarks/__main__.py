"""`python -m benchmarks [NAME]`: measures, prints the summary, and writes it with every round to a folder."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.architectures import measure_architectures, measure_published
from benchmarks.errors import CannotMeasure
from benchmarks.footprint import measure_footprint
from benchmarks.gpu import measure_gpu, require_gpu
from benchmarks.host import describe_host
from benchmarks.interference import measure_interference
from benchmarks.options import Options
from benchmarks.overload import measure_overload
from benchmarks.peer_list import PEERS
from benchmarks.peers import measure_peers
from benchmarks.quantization import (
    measure_calibration_alone,
    measure_job_stages,
    measure_other_networks,
    measure_quantization,
)
from benchmarks.quiet import Quiet
from benchmarks.report import Report
from benchmarks.saturation import measure_saturation
from benchmarks.serving import measure_serving
from benchmarks.soak import measure_soak

_RESULTS = Path(__file__).parent / "results"
BENCHMARKS: dict[str, Callable[[Options, Callable[[str], None]], Report]] = {
    "serving": measure_serving,
    "overload": measure_overload,
    "interference": measure_interference,
    "soak": measure_soak,
    "footprint": measure_footprint,
    "quantization": measure_quantization,
    "calibration": measure_calibration_alone,
    "networks": measure_other_networks,
    "stages": measure_job_stages,
    "saturation": measure_saturation,
    "architectures": measure_architectures,
    "published": measure_published,
    "peers": measure_peers,
    "gpu": measure_gpu,
}
# They install five other servers from a package index, need an emulator and many minutes, exported networks and more
# minutes, or a GPU.
_ONLY_BY_NAME = {"peers", "saturation", "architectures", "published", "gpu"}
# Options whose values say something about one machine alone; "" leaves the option out of what is written down.
_PATHS = {
    "--model": "MODEL.onnx", "--data": "FOLDER", "--minilm": "FOLDER", "--architectures": "FOLDER",
    "--published": "FOLDER", "--venvs": "", "--output": "",
}  # fmt: skip


def main() -> int:
    """0: all was measured, whether or not the goals hold; 1: something could not be measured; 2: wrong use."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.gpu:
        arguments.name = "gpu"
        try:
            require_gpu()
        except CannotMeasure as error:
            print(error, file=sys.stderr)
            return 2
    # Told to end, this process still stops the servers that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    names = [arguments.name] if arguments.name else [name for name in BENCHMARKS if name not in _ONLY_BY_NAME]
    output = arguments.output or (Path(tempfile.mkdtemp(prefix="octavo-quick-")) if arguments.quick else _RESULTS)
    failures = [name for name in names if not _run(name, _options(arguments), output)]
    return 1 if failures else 0


def _run(name: str, options: Options, output: Path) -> bool:
    host = describe_host()
    try:
        report = BENCHMARKS[name](options, lambda line: print(f"[{name}] {line}", file=sys.stderr, flush=True))
    except CannotMeasure as error:
        print(f"{name}: {error}", file=sys.stderr)
        return False
    if options.quiet.waits:
        report.notes.append(options.quiet.note())
    print(report.to_markdown(host, _command(name)), flush=True)
    for path in report.write(output, host, _command(name)):
        print(f"[{name}] wrote {path}", file=sys.stderr)
    return True


def _command(name: str) -> str:
    """This run for one benchmark, as someone else would type it: paths of this machine become placeholders."""
    rest = [argument for argument in sys.argv[1:] if argument not in BENCHMARKS]
    for option, placeholder in _PATHS.items():
        if option in rest:
            at = rest.index(option)
            rest[at : at + 2] = [option, placeholder] if placeholder else []
    return shlex.join(["python", "-m", "benchmarks", name, *rest])


def _options(arguments: argparse.Namespace) -> Options:
    return Options(
        rounds=arguments.rounds or (1 if arguments.quick else 5),
        seconds=arguments.seconds or (2 if arguments.quick else 6),
        model=arguments.model,
        data=arguments.data,
        venvs=arguments.venvs,
        peers=tuple(arguments.peers.split(",")),
        quiet=Quiet(arguments.patience),
        minilm=arguments.minilm,
        architectures=arguments.architectures,
        published=arguments.published,
        tuned=not arguments.quick,
        calibration_rows=arguments.calibration_rows or (32 if arguments.quick else 256),
        validation_rows=arguments.validation_rows or (32 if arguments.quick else 512),
        emulated_rows=arguments.emulated_rows or (8 if arguments.quick else 64),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    only = " and ".join(sorted(_ONLY_BY_NAME))
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), help=f"one benchmark; all but {only} by default")
    parser.add_argument("--rounds", type=_count, help="interleaved rounds, of which medians are taken (default 5)")
    parser.add_argument("--seconds", type=_count, help="seconds of one measurement, 1 or more (default 6)")
    parser.add_argument("--quick", action="store_true", help="one round of 2 s, to a temporary folder: no figure")
    parser.add_argument("--model", type=Path, help="EfficientNet-Lite0 as ONNX, if not in its build folder")
    parser.add_argument("--data", type=Path, help="folder of its calibration.npz and validation.npz, likewise")
    parser.add_argument("--minilm", type=Path, help="folder of minilm.onnx and its data, if not its build folder")
    parser.add_argument("--architectures", type=Path, help="folder of known architectures, if not their build folder")
    parser.add_argument("--published", type=Path, help="folder of published models, likewise")
    rows = "rows the quantizers %s, 32 or more (default %d)"
    parser.add_argument("--calibration-rows", type=_row_count, help=rows % ("calibrate on", 256))
    parser.add_argument("--validation-rows", type=_row_count, help=rows % ("are judged on", 512))
    emulated = "rows of EfficientNet-Lite0 under the emulator (default 64)"
    parser.add_argument("--emulated-rows", type=_count, help=emulated)
    parser.add_argument("--output", type=Path, help="folder of the results (default benchmarks/results)")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"some of {','.join(PEERS)} (default all)")
    cache = Path.home() / ".cache" / "octavo-peers"
    parser.add_argument("--venvs", type=Path, default=cache, help="where peers are installed (default %(default)s)")
    parser.add_argument(
        "--patience", type=_count, default=20, help="seconds to wait for idle cores before a measurement (default 20)"
    )
    parser.add_argument("--gpu", action="store_true", help="the benchmark that needs a GPU")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is under 1")
    return value


def _row_count(text: str) -> int:
    value = int(text)
    if value < 32:
        raise argparse.ArgumentTypeError(f"{value} is under 32")
    return value


if __name__ == "__main__":
    sys.exit(main())
