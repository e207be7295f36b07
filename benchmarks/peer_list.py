"""The other servers: what to install, how to start each, and which request it takes for which kind of payload."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Peer:
    """One server. `payloads` maps "json" and "binary" to the field of Requests that it takes for them.

    In `command` and `settings`, {bin} is its environment's programs, {port} its port, and {folder} peer_servers/.
    """

    packages: tuple[str, ...]
    command: tuple[str, ...]
    ready_path: str
    infer_paths: dict[str, str]
    payloads: dict[str, str]
    settings: dict[str, str] = field(default_factory=dict)


PEERS: dict[str, Peer] = {
    "mosec": Peer(
        packages=("mosec==0.9.8",),
        command=("{bin}/python", "mosec_server.py", "--address", "127.0.0.1", "--port", "{port}"),
        ready_path="/",
        infer_paths={"binary": "/binary", "json": "/json"},
        payloads={"binary": "raw", "json": "json"},
    ),
    "litserve": Peer(
        packages=("litserve==0.2.19", "uvloop", "httptools", "pyzmq"),
        command=("{bin}/python", "litserve_server.py"),
        ready_path="/health",
        infer_paths={"json": "/predict"},
        payloads={"json": "json"},
    ),
    "mlserver": Peer(
        packages=("mlserver==1.7.1",),
        command=("{bin}/mlserver", "start", "{folder}/mlserver_model"),
        ready_path="/v2/models/model/ready",
        infer_paths={"json": "/v2/models/model/infer"},
        payloads={"json": "json"},
        settings={
            "MLSERVER_HOST": "127.0.0.1",
            "MLSERVER_HTTP_PORT": "{port}",
            "MLSERVER_GRPC_PORT": "{port1}",
            "MLSERVER_METRICS_PORT": "{port2}",
            "MLSERVER_PARALLEL_WORKERS": "0",
            "MLSERVER_DEBUG": "false",
        },
    ),
    "kserve": Peer(
        packages=("kserve==0.21.0",),
        command=("{bin}/python", "kserve_server.py"),
        ready_path="/v2/health/ready",
        infer_paths={"binary": "/v2/models/model/infer", "json": "/v2/models/model/infer"},
        payloads={"binary": "binary", "json": "json"},
    ),
    "bentoml": Peer(
        packages=("bentoml==1.4.39",),
        command=("{bin}/bentoml", "serve", "bentoml_server:Service", "--host", "127.0.0.1", "--port", "{port}"),
        ready_path="/readyz",
        infer_paths={"json": "/predict"},
        payloads={"json": "nested"},
        settings={"BENTOML_DO_NOT_TRACK": "true"},
    ),
}
