"""The files around the code name things that exist: images, settings, metrics, volumes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service import errors
from service.settings import Settings, read_settings
from tests.metric_families import Family, declared_families

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = sorted(ROOT.glob("docker-compose*.yml"))
YAML_FILES = sorted([*COMPOSE, *DEPLOY.rglob("*.yml"), *DEPLOY.rglob("*.yaml"), ROOT / ".pre-commit-config.yaml"])
SETTINGS = {f"OCTAVO_{name.upper()}" for name in Settings.model_fields}
PROCESSES = {"serve": ["serve"], "work": ["work"]}
# Metrics and labels that Prometheus itself adds.
PROMETHEUS_SERIES = {"up"}
PROMETHEUS_LABELS = {"le", "job", "instance"}


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def compose_services() -> dict[str, Any]:
    services: dict[str, Any] = documents(ROOT / "docker-compose.yml")[0]["services"]
    return services


def stages() -> dict[str, str]:
    """Every stage of the Dockerfile by name, with its instructions."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


@pytest.fixture
def families() -> dict[str, Family]:
    return declared_families()


# ---- images ----


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_each_image_target_starts_octavo_as_a_user_without_rights(target: str) -> None:
    stage = stages()[target]
    users = re.findall(r"^USER (\d+):\d+$", stage, re.MULTILINE)
    assert users
    assert "0" not in users
    assert re.search(r"^USER", stage, re.MULTILINE).start() > stage.rindex("\nRUN")  # type: ignore[union-attr]
    assert 'ENTRYPOINT ["octavo"]' in stage
    assert "/v2/health/live" in stage[stage.index("HEALTHCHECK") :]
    assert "OCTAVO_HOST=0.0.0.0" in stage


def test_a_build_without_a_target_makes_the_cpu_image() -> None:
    assert list(stages())[-1] == "cpu"


def test_the_images_install_only_what_is_pinned_with_a_hash() -> None:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    installs = re.findall(r"pip (?:install|wheel) [^&\n]+", text)
    assert installs
    for install in installs:
        assert "--require-hashes" in install or "--no-deps" in install, install
    for source in re.findall(r"requirements/\S+\.txt", text):
        assert (ROOT / source).is_file(), source


def test_the_images_set_only_settings_that_exist() -> None:
    named = set(re.findall(r"\b(OCTAVO_[A-Z_]+)", (ROOT / "Dockerfile").read_text()))
    assert named <= SETTINGS


def test_the_build_is_sent_nothing_but_what_it_copies() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {rule[1:].split("/")[0] for rule in rules if rule.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {source for line in copies for source in line.split()}
    assert "*" in rules
    assert {source.split("/")[0] for source in copied} == allowed
    assert all((ROOT / source).exists() for source in copied)


# ---- compose and Kubernetes ----


def test_both_protocols_can_be_reached_from_outside_of_every_container() -> None:
    ports = [Settings.model_fields[name].default for name in ("port", "grpc_port")]
    for target in ("cpu", "gpu"):
        assert f"EXPOSE {' '.join(map(str, ports))}\n" in stages()[target]
    assert [int(port.rsplit(":", 1)[1]) for port in compose_services()["serve"]["ports"]] == ports
    deployment, service = documents(DEPLOY / "kubernetes" / "serve.yaml")
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert list(named.values()) == ports
    assert {port["targetPort"]: port["port"] for port in service["spec"]["ports"]} == named


@pytest.mark.parametrize("path", YAML_FILES, ids=name_of)
def test_a_yaml_file_can_be_read(path: Path) -> None:
    assert documents(path)


def test_compose_runs_both_processes_with_settings_that_exist() -> None:
    services = compose_services()
    assert {name: services[name]["command"] for name in PROCESSES} == PROCESSES
    for name in PROCESSES:
        named = {key for key in services[name]["environment"] if key.startswith("OCTAVO_")}
        assert {"OCTAVO_DATABASE_URL", "OCTAVO_STORE_URL"} <= named <= SETTINGS


def test_compose_values_are_accepted_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for process in PROCESSES:
        environment = compose_services()[process]["environment"]
        for key, value in environment.items():
            monkeypatch.setenv(key, re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value))
        settings = read_settings()
        assert settings.resolved_database_url == "postgresql+psycopg://octavo:local-only@postgres:5432/octavo"
        assert settings.resolved_store_url == "s3://octavo"


def test_compose_waits_for_what_it_names_and_mounts_what_exists() -> None:
    services = compose_services()
    for name, service in services.items():
        needed = service.get("depends_on", [])
        assert set(needed) <= set(services), name
        if isinstance(needed, dict):
            assert all("healthcheck" in services[other] for other in needed), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), f"{name}: {source}"
            else:
                assert source in documents(ROOT / "docker-compose.yml")[0]["volumes"], f"{name}: {source}"


def test_every_image_of_compose_has_a_version() -> None:
    for name, service in compose_services().items():
        image, _, tag = service["image"].partition(":")
        assert image, name
        assert tag not in ("", "latest"), name


def test_compose_opens_ports_on_this_host_alone_unless_told_otherwise() -> None:
    ports = [port for service in compose_services().values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in ports)


def test_secrets_of_compose_come_from_the_environment_and_their_defaults_say_that_they_are_local() -> None:
    for name, service in compose_services().items():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "SECRET" in key:
                assert re.fullmatch(r"\$\{\w+:-local-only\}", value), f"{name}: {key}"


def test_the_gpu_file_changes_the_image_of_both_processes_and_reserves_a_gpu() -> None:
    services = documents(ROOT / "docker-compose.gpu.yml")[0]["services"]
    assert set(services) == set(PROCESSES)
    for service in services.values():
        assert service["build"]["target"] == "gpu"
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


def test_kubernetes_runs_both_processes_with_settings_that_exist_and_without_rights() -> None:
    objects = [document for path in (DEPLOY / "kubernetes").glob("*.yaml") for document in documents(path)]
    by_kind = {(document["kind"], document["metadata"]["name"]): document for document in objects}
    pods = {
        "serve": by_kind["Deployment", "octavo-serve"]["spec"]["template"]["spec"],
        "work": by_kind["Deployment", "octavo-work"]["spec"]["template"]["spec"],
    }
    for process, pod in pods.items():
        container = pod["containers"][0]
        assert container["args"] == [process]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["enableServiceLinks"] is False
        assert {entry["name"] for entry in container.get("env", [])} <= SETTINGS
    shared = by_kind["ConfigMap", "octavo"]["data"] | by_kind["Secret", "octavo"]["stringData"]
    assert {key for key in shared if key.startswith("OCTAVO_")} <= SETTINGS
    assert all(isinstance(value, str) for value in shared.values())


def test_kubernetes_measures_engines_with_the_threads_that_serve_them() -> None:
    for process in PROCESSES:
        (pod, *_) = documents(DEPLOY / "kubernetes" / f"{process}.yaml")
        container = pod["spec"]["template"]["spec"]["containers"][0]
        assert "OCTAVO_ENGINE_THREADS" not in {entry["name"] for entry in container.get("env", [])}
        shared = documents(DEPLOY / "kubernetes" / "configmap.yaml")[0]["data"]
        assert container["resources"]["requests"]["cpu"] == shared["OCTAVO_ENGINE_THREADS"]


@pytest.mark.parametrize("process", PROCESSES)
def test_a_stage_or_a_check_of_an_upload_fits_into_its_container(process: str) -> None:
    (pod, *_) = documents(DEPLOY / "kubernetes" / f"{process}.yaml")
    container = pod["spec"]["template"]["spec"]["containers"][0]
    shared = documents(DEPLOY / "kubernetes" / "configmap.yaml")[0]["data"]
    values = shared | {entry["name"]: entry["value"] for entry in container.get("env", [])}
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert int(values["OCTAVO_STAGE_MEMORY_BYTES"]) < limit


# ---- Prometheus and Grafana ----


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "octavo.json").read_text())
    return read


def queries() -> list[tuple[str, str]]:
    """Where and what: every PromQL expression of the dashboard and of the alerts."""
    panels = [(panel["title"], target["expr"]) for panel in dashboard()["panels"] for target in panel["targets"]]
    rules = documents(DEPLOY / "prometheus" / "alerts.yml")[0]["groups"][0]["rules"]
    return panels + [(rule["alert"], rule["expr"]) for rule in rules]


@pytest.mark.parametrize(("where", "query"), queries())
def test_a_query_names_series_and_labels_that_exist(where: str, query: str, families: dict[str, Family]) -> None:
    by_series = {series: family for family in families.values() for series in family.series}
    named = set(re.findall(r"\b(octavo_\w+|up)\b", query))
    assert named, where
    assert named <= set(by_series) | PROMETHEUS_SERIES
    labels = {label for series in named & set(by_series) for label in by_series[series].labels} | PROMETHEUS_LABELS
    grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for label in group.split(",")}
    matched = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", query))
    assert grouped | matched <= labels


def test_the_alerts_know_every_code_of_a_request_that_is_turned_away_or_failed() -> None:
    outcomes = {where: re.findall(r'outcome=~"([^"]*)"', query) for where, query in queries()}
    turned_away: set[type[errors.OctavoError]] = {errors.Unavailable, *errors.Unavailable.__subclasses__()}
    turned_away.add(errors.NoReadyVersion)
    # Only uploads and jobs write to the store.
    turned_away -= {errors.StoreUnavailable, errors.StorageFull}
    failed: set[type[errors.OctavoError]] = {errors.OctavoError, errors.EngineFailed, errors.DeviceFailed}
    for alert, kinds in (("OctavoRejectsRequests", turned_away), ("OctavoEngineFails", failed)):
        assert set(outcomes[alert][0].split("|")) == {kind.code for kind in kinds}


def test_every_metric_has_a_place_on_the_dashboard(families: dict[str, Family]) -> None:
    shown = " ".join(query for _, query in queries())
    assert [name for name in families if name not in shown] == []


def test_the_dashboard_reads_the_source_that_is_provisioned() -> None:
    provisioned = documents(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")[0]["datasources"]
    used = {target["datasource"]["uid"] for panel in dashboard()["panels"] for target in panel["targets"]}
    assert used == {source["uid"] for source in provisioned}


def test_panels_of_the_dashboard_have_their_own_ids_and_do_not_overlap() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_every_alert_is_played_by_its_test() -> None:
    alerts = {rule["alert"] for rule in documents(DEPLOY / "prometheus" / "alerts.yml")[0]["groups"][0]["rules"]}
    raised = {
        check["alertname"]
        for test in documents(DEPLOY / "prometheus" / "alerts_test.yml")[0]["tests"]
        for check in test["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert raised == alerts


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "command",
    [("check", "config", "prometheus.yml"), ("test", "rules", "alerts_test.yml")],
    ids=lambda words: words[-1],
)
def test_prometheus_accepts_its_files_and_raises_each_alert_when_it_should(command: tuple[str, ...]) -> None:
    run = subprocess.run(["promtool", *command], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
