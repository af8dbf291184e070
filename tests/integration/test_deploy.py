"""What is deployed: each file is read by the tool that will read it, or by its schema, and says what the code needs."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from harness import Daemon, unavailable
from topowatch_monitor import config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "topowatch"
TOOLS = ROOT / ".venv-deploy" / "bin"
EVERYTHING = {
    "tls.secretName": "topowatch-tls",
    "tls.clientCaSecretName": "topowatch-clients",
    "serviceMonitor.enabled": "true",
    "serviceMonitor.tokenSecretName": "topowatch-token",
    "serviceMonitor.clientCertSecretName": "prometheus-tls",
    "prometheusRule.enabled": "true",
    "dashboards.enabled": "true",
    "ray.enabled": "true",
    "ray.mostShards": "16",
    "persistence.retentionDays": "90",
    "config.tenant_max_runs": "7",
}


def tool(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    if not (TOOLS / name).exists():
        unavailable(f"{name} checks what is deployed: make install")
    command = [str(TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def render(**values: str) -> list[dict[str, Any]]:
    """The objects that the chart makes of these values; __ stands for a dot."""
    sets = [f"--set={name.replace('__', '.')}={value}" for name, value in values.items()]
    done = tool("helm", "template", "watch", CHART, "--namespace", "ml", "--kube-version", "1.30.0", *sets)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def pods_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The daemon's pod, the head's and the workers'."""
    ray = the(objects, "RayCluster", "watch-ray")["spec"]
    groups = [ray["headGroupSpec"], *ray["workerGroupSpecs"]]
    return [each["template"]["spec"] for each in (the(objects, "StatefulSet")["spec"], *groups)]


def the(objects: list[dict[str, Any]], kind: str, name: str = "watch") -> dict[str, Any]:
    [found] = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def settings_of(objects: list[dict[str, Any]], directory: Path) -> config.Settings:
    file = directory / "topowatch.toml"
    file.write_text(the(objects, "ConfigMap")["data"]["topowatch.toml"])
    return config.load(file=file).settings


def test_the_chart_passes_helms_linter() -> None:
    done = tool("helm", "lint", "--strict", CHART, "--set=insecure=true")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", ["1.27.0", "1.37.0"])
@pytest.mark.parametrize("values", [{"insecure": "true"}, EVERYTHING], ids=["least", "everything"])
def test_what_the_chart_makes_is_what_kubernetes_knows(version: str, values: dict[str, str], tmp_path: Path) -> None:
    objects = render(**values)
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(objects))
    done = tool("kubernetes-validate", "--strict", "-k", version, tmp_path / "all.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    unknown = {
        line.partition("for kind ")[2].split()[0]
        for line in (done.stdout + done.stderr).splitlines()
        if "Couldn't" in line
    }
    assert unknown == ({"ServiceMonitor", "PrometheusRule", "RayCluster"} if values is EVERYTHING else set())


def test_the_chart_does_not_open_a_daemon_to_strangers() -> None:
    for values, said in (
        ({}, "tls.secretName"),
        ({"tls.clientCaSecretName": "x", "insecure": "true"}, "needs tls.secretName"),
        ({"tls.secretName": "x", "serviceMonitor.enabled": "true"}, "tokenSecretName"),
        ({"insecure": "true", "config.grpc": "x"}, "config.grpc is made by this chart"),
        ({"insecure": "true", "ray.enabled": "true", "networkPolicy.enabled": "false"}, "ray.insecure"),
        ({"insecure": "perhaps"}, "insecure"),
        ({"insecure": "true", "tsl.secretName": "x"}, "tsl"),
    ):
        done = tool("helm", "template", "watch", CHART, *(f"--set={name}={value}" for name, value in values.items()))
        assert done.returncode != 0
        assert said in done.stderr


def test_the_settings_that_the_chart_makes_are_settings_of_the_daemon(tmp_path: Path) -> None:
    settings = settings_of(render(**EVERYTHING), tmp_path)
    assert str(settings.tls_cert) == "/etc/topowatch-tls/tls.crt"
    assert str(settings.tls_client_ca) == "/etc/topowatch-client-ca/ca.crt"
    assert (settings.tenant_max_runs, settings.insecure) == (7, False)
    assert (settings.ray_address, settings.shards, settings.most_shards) == ("auto", 4, 16)
    assert settings.retention_days == 90
    assert settings_of(render(insecure="true"), tmp_path).insecure
    assert settings_of(render(insecure="true"), tmp_path).retention_days is None
    assert settings_of(render(insecure="true", ray__enabled="true"), tmp_path).most_shards is None


def test_the_workers_of_the_chart_hold_its_shards() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["ray"]
    assert values["workers"] * int(values["workerResources"]["requests"]["cpu"]) >= values["shards"]


def test_every_container_of_the_chart_may_do_next_to_nothing() -> None:
    objects = render(**EVERYTHING)
    for pod in pods_of(objects):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert (security["readOnlyRootFilesystem"], security["allowPrivilegeEscalation"]) == (True, False)
            assert "memory" in container["resources"]["limits"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            made = {claim["metadata"]["name"] for claim in the(objects, "StatefulSet")["spec"]["volumeClaimTemplates"]}
            assert mounted <= {volume["name"] for volume in pod["volumes"]} | made


def test_nobody_but_the_daemon_reaches_the_ports_of_ray() -> None:
    policy = the(render(**EVERYTHING), "NetworkPolicy", "watch-ray")["spec"]
    assert policy["podSelector"] == {"matchLabels": {"ray.io/cluster": "watch-ray"}}
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    for rule in policy["ingress"]:
        for peer in rule["from"]:
            assert peer["podSelector"]["matchLabels"]
    trainers = render(**EVERYTHING, **{"networkPolicy.trainers[0].namespaceSelector.matchLabels.team": "vision"})
    [grpc, *_] = the(trainers, "NetworkPolicy")["spec"]["ingress"]
    assert grpc["from"] == [{"namespaceSelector": {"matchLabels": {"team": "vision"}}}]


@pytest.mark.parametrize("own", [False, True])
def test_all_that_belongs_to_the_ray_cluster_asks_for_one_token(own: bool) -> None:
    """Ray lets everybody in else; a secret of one's own takes the place of the one that is made."""
    name = "mine" if own else "watch-ray"
    objects = render(**EVERYTHING, **({"ray.tokenSecretName": name} if own else {}))
    for container in (container for pod in pods_of(objects) for container in pod["containers"]):
        settings = {each["name"]: each for each in container["env"]}
        assert settings["RAY_AUTH_MODE"]["value"] == "token"
        assert settings["RAY_AUTH_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": name, "key": "auth_token"}}
    made = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "Secret"}
    assert made.keys() == (set() if own else {name})
    assert all(len(base64.b64decode(data["auth_token"])) == 64 for data in made.values())


class Api(BaseHTTPRequestHandler):
    """As much of Kubernetes as helm asks for: which kinds there are, and the one secret of the Ray cluster."""

    token = base64.b64encode(b"made at the installation").decode()
    kinds: ClassVar = {
        "v1": ["ConfigMap", "Secret", "Service"],
        "apps/v1": ["StatefulSet"],
        "networking.k8s.io/v1": ["NetworkPolicy"],
        "ray.io/v1": ["RayCluster"],
    }

    def do_GET(self) -> None:  # the name that http.server asks for
        groups = [
            {"name": group.partition("/")[0], "versions": [{"groupVersion": group, "version": "v1"}]}
            for group in self.kinds
            if "/" in group
        ]
        known: dict[str, dict[str, Any]] = {
            "/version": {"major": "1", "minor": "30", "gitVersion": "v1.30.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups},
            "/api/v1/namespaces/ml/secrets/watch-ray": {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "watch-ray", "namespace": "ml"},
                "data": {"auth_token": self.token},
            },
        }
        for group, kinds in self.kinds.items():
            known[f"/apis/{group}" if "/" in group else f"/api/{group}"] = {
                "kind": "APIResourceList",
                "groupVersion": group,
                "resources": [
                    {"name": f"{kind.lower()}s", "kind": kind, "namespaced": True, "verbs": ["get"]} for kind in kinds
                ],
            }
        found = known.get(self.path.partition("?")[0])
        self.send_response(404 if found is None else 200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(found or {}).encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name that http.server gives it)
        """Say nothing."""


def test_an_upgrade_of_the_chart_keeps_the_token_of_its_ray_cluster() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as api:
        threading.Thread(target=api.serve_forever).start()
        try:
            where = (
                "--dry-run=server",
                "--disable-openapi-validation",
                f"--kube-apiserver=http://127.0.0.1:{api.server_port}",
            )
            values = ("--is-upgrade", "--set=insecure=true", "--set=ray.enabled=true")
            done = tool("helm", "template", "watch", CHART, "--namespace", "ml", *where, *values)
        finally:
            api.shutdown()
    assert done.returncode == 0, done.stderr
    objects = [each for each in yaml.safe_load_all(done.stdout) if each]
    assert the(objects, "Secret", "watch-ray")["data"]["auth_token"] == Api.token


def test_the_chart_goes_on_without_its_network_policy_where_it_is_told_that_something_else_stands_there() -> None:
    objects = render(**EVERYTHING, **{"networkPolicy.enabled": "false", "ray.insecure": "true"})
    assert not [each for each in objects if each["kind"] == "NetworkPolicy"]


def test_the_versions_of_the_chart_are_those_that_are_installed() -> None:
    chart, values = (yaml.safe_load((CHART / name).read_text()) for name in ("Chart.yaml", "values.yaml"))
    [ours] = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    [ray] = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert (chart["version"], chart["appVersion"], values["ray"]["version"]) == (ours, ours, ray)


def test_the_alerts_of_the_chart_link_to_where_a_team_reads_its_runbooks() -> None:
    base = "https://wiki.example.org/runbooks"
    groups = the(render(**EVERYTHING, **{"prometheusRule.runbookBase": base}), "PrometheusRule")["spec"]["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert alert["annotations"]["runbook_url"] == f"{base}#{alert['alert'].lower()}"


def test_the_chart_brings_the_rules_and_dashboards_that_are_tested() -> None:
    objects = render(**EVERYTHING)
    rules = yaml.safe_load((DEPLOY / "prometheus" / "topowatch.rules.yml").read_text())
    assert the(objects, "PrometheusRule")["spec"] == rules
    shown = {file.name: json.loads(file.read_text()) for file in (DEPLOY / "grafana").glob("*.json")}
    brought = {
        name: json.loads(text)
        for each in objects
        if each["kind"] == "ConfigMap"
        for name, text in each["data"].items()
        if name.endswith(".json")
    }
    assert brought == shown
    monitor = the(objects, "ServiceMonitor")["spec"]
    service = the(objects, "Service")["metadata"]["labels"]
    assert service[monitor["jobLabel"]] == "topowatch", "the alerts look for this job"
    assert monitor["selector"]["matchLabels"].items() <= service.items()


def test_the_dockerfile_passes_hadolint() -> None:
    done = tool("hadolint", DEPLOY / "docker" / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_the_compose_file_is_one_and_mounts_what_is_there() -> None:
    file = DEPLOY / "docker" / "compose.yaml"
    done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", file)
    assert done.returncode == 0, done.stdout + done.stderr
    services = yaml.safe_load(file.read_text())["services"]
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for source in (volume.partition(":")[0] for volume in service.get("volumes", [])):
            assert not source.startswith(".") or (file.parent / source).exists(), source
    if (promtool := shutil.which("promtool")) is None:
        unavailable("promtool comes with the Debian package prometheus")
    checked = subprocess.run(
        [promtool, "check", "config", "--syntax-only", file.parent / "prometheus" / "prometheus.yml"], check=False
    )
    assert checked.returncode == 0


def test_the_ray_cluster_is_one_that_ray_knows() -> None:
    code = (
        "import sys, yaml; from ray.autoscaler._private.util import prepare_config, validate_config; "
        "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, DEPLOY / "ray" / "cluster.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    cluster = yaml.safe_load((DEPLOY / "ray" / "cluster.yaml").read_text())
    started = [*cluster["head_start_ray_commands"], *cluster["worker_start_ray_commands"]]
    for command in (one for one in started if "ray start" in one):
        assert command.startswith("RAY_AUTH_MODE=token "), "Ray lets everybody in else"


@pytest.mark.parametrize("unit", ["topowatch.service", "topowatch-forward.service"])
def test_the_units_are_units_of_systemd(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze comes with the Debian package systemd")
    text = (DEPLOY / "systemd" / unit).read_text().replace("/opt/topowatch/bin/topowatch", sys.executable)
    (tmp_path / unit).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit], capture_output=True, text=True, check=False
    )
    assert (done.returncode, [line for line in done.stderr.splitlines() if unit in line]) == (0, [])


def test_a_service_manager_is_told_when_the_daemon_is_ready_and_when_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30.0)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon = Daemon(tmp_path, "--engine", "inline").start()
        assert manager.recv(100) == b"READY=1"
        assert daemon.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"
