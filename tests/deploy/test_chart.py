"""The chart: linted and rendered by Helm's own library, checked against Kubernetes' schemas."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from gateway.config import Config, CredentialConfig, ServerConfig, UpstreamConfig
from gateway.settings import load_config

Values = Mapping[str, Any]
Manifests = dict[str, dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "seedance-gateway"
KUBERNETES = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
NAME = "demo-seedance-gateway"
SUBMIT_S_MAX = UpstreamConfig(
    name="any", base_url="https://upstream.example", credentials=(CredentialConfig(env="KEY"),)
).submit_s_max

FULL: Values = {
    "fullnameOverride": "gateway",
    "image": {"repository": "registry.example:5000/ai/gateway", "digest": f"sha256:{'a' * 64}"},
    "imagePullSecrets": [{"name": "registry"}],
    "config": {
        "server": {"allowed_hosts": ["seedance.example"], "body_bytes_max": 67_108_864},
        "upstreams": [
            {
                "name": "ark",
                "base_url": "https://upstream.example/api/v3",
                "credentials": [
                    {"name": "one", "env": "ARK_API_KEY"},
                    {"name": "two", "file": "/run/secrets/ark/two"},
                ],
                "models": {"fast": "ep-20260101-abcde"},
                "proxy": "http://proxy.example:3128",
                "definite_5xx": True,
                "list_per_s_max": 0.5,
            }
        ],
        "finance": {"timezone": "Asia/Shanghai"},
        "submit": {"default_expiry_s": 172_800},
    },
    "secretEnv": {
        "GATEWAY_AUTH__PEPPER": {"name": "gateway-secrets", "key": "pepper"},
        "GATEWAY_BOOTSTRAP_KEY": {"name": "gateway-secrets", "key": "bootstrap-key"},
        "GATEWAY_STORAGE__URL": {"name": "gateway-database", "key": "url"},
    },
    "extraEnv": {"GATEWAY_TELEMETRY__LOG_LEVEL": "debug", "ARK_BASE_URL": "https://a.example"},
    "extraVolumes": [{"name": "ark", "secret": {"secretName": "ark-keys"}}],
    "extraVolumeMounts": [{"name": "ark", "mountPath": "/run/secrets/ark", "readOnly": True}],
    "persistence": {"storageClass": "fast", "accessMode": "ReadWriteOncePod", "keep": False},
    "service": {"type": "LoadBalancer", "annotations": {"example.com/scheme": "internal"}},
    "metricsService": {"annotations": {"prometheus.io/scrape": "true"}},
    "ingress": {
        "enabled": True,
        "hosts": ["seedance.example", "*.seedance.example"],
        "tls": [{"hosts": ["seedance.example"], "secretName": "seedance-tls"}],
        "annotations": {"example.com/extra": "yes"},
    },
    "networkPolicy": {
        "enabled": True,
        "clientsFrom": [{"podSelector": {}}],
        "metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
        "upstreamPorts": [443, 3128],
    },
    "serviceAccount": {"annotations": {"example.com/role": "gateway"}},
    "podAnnotations": {"example.com/note": "1"},
    "podLabels": {"team": "video"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "video", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}
                ]
            }
        }
    },
}

REFUSED: tuple[tuple[Values, str], ...] = (
    ({"replicaCount": 2}, "additional properties 'replicaCount'"),
    ({"image": {"tags": "1"}}, "/image"),
    ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    ({"config": {"bootstrap_key": "sg_live_x"}}, "/config/bootstrap_key"),
    ({"config": {"auth": {"pepper": "x"}}}, "/config/auth/pepper"),
    ({"config": {"storage": {"url": "postgresql://u:p@db/x"}}}, "/config/storage/url"),
    ({"config": {"server": {"port": 80}}}, "/config/server/port"),
    ({"config": {"data_dir": "/tmp"}}, "/config/data_dir"),
    ({"config": {"upstreams": [{"proxy": "http://u:p@proxy"}]}}, "/config/upstreams/0/proxy"),
    ({"secretEnv": {"ARK_API_KEY": "the key itself"}}, "/secretEnv/ARK_API_KEY"),
    ({"secretEnv": {"ARK_API_KEY": {"value": "x"}}}, "/secretEnv/ARK_API_KEY"),
    ({"secretEnv": {"lower-case": {"name": "a", "key": "b"}}}, "lower-case"),
    ({"extraEnv": {"ARK_API_KEY": "x"}}, "ARK_API_KEY"),
    ({"extraEnv": {"GATEWAY_AUTH__PEPPER": "x"}}, "GATEWAY_AUTH__PEPPER"),
    ({"extraEnv": {"GATEWAY_STORAGE__URL": "x"}}, "GATEWAY_STORAGE__URL"),
    ({"extraEnv": {"GATEWAY_DATA_DIR": "/tmp"}}, "GATEWAY_DATA_DIR"),
    ({"extraEnv": {"GATEWAY_SERVER__PORT": "80"}}, "GATEWAY_SERVER__PORT"),
    ({"extraEnv": {"DATABASE_URL": "x"}}, "DATABASE_URL"),
    ({"extraEnv": {"GATEWAY_CONFIG": "/tmp/x"}}, "GATEWAY_CONFIG"),
    ({"extraEnv": {"PORT": "80"}}, "PORT"),
    ({"extraEnv": {"A": 1}}, "/extraEnv/A"),
    ({"persistence": {"accessMode": "ReadWriteMany"}}, "/persistence/accessMode"),
    ({"persistence": {"size": "ten"}}, "/persistence/size"),
    ({"persistence": {"enabled": False}}, "/persistence"),
    ({"service": {"port": 0}}, "/service/port"),
    ({"ingress": {"enabled": True}}, "/ingress/hosts"),
    ({"ingress": {"enabled": True, "hosts": ["https://a"]}}, "/ingress/hosts/0"),
    ({"networkPolicy": {"upstreamsTo": []}}, "/networkPolicy/upstreamsTo"),
    ({"terminationGracePeriodSeconds": 5}, "/terminationGracePeriodSeconds"),
    ({"podLabels": {"app.kubernetes.io/name": "x"}}, "app.kubernetes.io/name"),
)


def render_texts(values: Values | None = None, *, name: str = "demo") -> dict[str, str]:
    with helm_python.Chart.load(CHART) as chart:
        texts = chart.render(dict(values or {}), name=name, namespace="video")
    return {Path(path).name: text for path, text in texts.items()}


def render(values: Values | None = None, *, name: str = "demo") -> Manifests:
    """Return the manifests by `Kind/name`."""
    texts = render_texts(values, name=name)
    del texts["NOTES.txt"]
    found = [one for text in texts.values() for one in yaml.safe_load_all(text) if one]
    manifests = {f"{one['kind']}/{one['metadata']['name']}": one for one in found}
    assert len(manifests) == len(found)
    return manifests


def pod_of(manifests: Manifests, name: str = NAME) -> dict[str, Any]:
    spec: dict[str, Any] = manifests[f"Deployment/{name}"]["spec"]["template"]["spec"]
    return spec


def config_of(manifests: Manifests, folder: Path, name: str = NAME) -> Config:
    """Read the rendered configuration as the gateway would read the mounted file."""
    file = folder / "config.yaml"
    file.write_text(manifests[f"ConfigMap/{name}"]["data"]["config.yaml"])
    return load_config(file, {})


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "full"])
@pytest.mark.parametrize("version", [KUBERNETES[0], KUBERNETES[-1]])
def test_lint_has_nothing_to_say_but_that_there_is_no_icon(values: Values, version: str) -> None:
    report = helm_python.lint(CHART, dict(values), strict=True, kube_version=f"v{version}.0")
    assert report["errors"] == []
    assert [message["error"] for message in report["messages"]] == ["icon is recommended"]


def test_lint_would_find_a_broken_template(tmp_path: Path) -> None:
    with helm_python.Chart.load(CHART) as chart:
        broken = Path(chart.save_dir(tmp_path))
    (broken / "templates" / "extra.yaml").write_text("a: {{ .Values.nowhere.here }}\n")
    report = helm_python.lint(broken)
    assert any("nil pointer" in error for error in report["errors"])


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "full"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_valid(values: Values, version: str) -> None:
    for manifest in render(values).values():
        assert kubernetes_validate.validate(manifest, version, strict=True) == version


def test_a_misspelt_field_would_be_found() -> None:
    deployment = render()[f"Deployment/{NAME}"]
    deployment["spec"]["template"]["spec"]["containers"][0]["liveProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="liveProbe"):
        kubernetes_validate.validate(deployment, KUBERNETES[-1], strict=True)


@pytest.mark.parametrize(("values", "where"), REFUSED, ids=[json.dumps(v) for v, _ in REFUSED])
def test_refuses_wrong_values(values: Values, where: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(where)):
        render(values)


def test_values_and_schema_name_the_same_things() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert set(schema["properties"]) == {*values, "global"}
    for name, part in schema["properties"].items():
        if part.get("additionalProperties") is False:
            assert set(part["properties"]) == set(values[name]), name


def test_a_parent_chart_may_pass_its_globals() -> None:
    assert render({"global": {"region": "x"}}) == render()


def test_makes_these_objects_and_no_secret() -> None:
    assert set(render()) == {
        f"ConfigMap/{NAME}",
        f"Deployment/{NAME}",
        f"PersistentVolumeClaim/{NAME}",
        f"Service/{NAME}",
        f"Service/{NAME}-metrics",
        f"ServiceAccount/{NAME}",
    }
    assert set(render(FULL)) - {kind.replace(NAME, "gateway") for kind in render()} == {
        "Ingress/gateway",
        "NetworkPolicy/gateway",
    }


def test_the_pod_is_locked_down() -> None:
    pod = pod_of(render())
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert render()[f"ServiceAccount/{NAME}"]["automountServiceAccountToken"] is False


def test_what_is_written_lies_on_volumes() -> None:
    pod = pod_of(render())
    mounts = {one["mountPath"]: one for one in pod["containers"][0]["volumeMounts"]}
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert mounts["/etc/seedance-gateway"]["name"] == "config"
    assert {path for path, one in mounts.items() if not one.get("readOnly")} == {"/data", "/tmp"}
    assert volumes["data"]["persistentVolumeClaim"] == {"claimName": NAME}
    assert "emptyDir" in volumes["tmp"]


def test_never_runs_two_processes_on_one_file() -> None:
    spec = render()[f"Deployment/{NAME}"]["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_the_grace_period_is_longer_than_a_submit(tmp_path: Path) -> None:
    manifests = render()
    pod = pod_of(manifests)
    sleep_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    drain_s = config_of(manifests, tmp_path).server.drain_delay_s
    assert pod["terminationGracePeriodSeconds"] > sleep_s + drain_s + SUBMIT_S_MAX


def test_the_probes_ask_the_documented_paths() -> None:
    (container,) = pod_of(render())["containers"]
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert paths == {
        "startup": {"path": "/livez", "port": "metrics"},
        "liveness": {"path": "/livez", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
    }


def test_the_ports_are_the_gateways_defaults() -> None:
    manifests = render()
    (container,) = pod_of(manifests)["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert ports == {"http": ServerConfig().port, "metrics": ServerConfig().metrics_port}
    for name, port in ((NAME, "http"), (f"{NAME}-metrics", "metrics")):
        (served,) = manifests[f"Service/{name}"]["spec"]["ports"]
        assert served["targetPort"] == port


def test_the_default_configuration_is_valid(tmp_path: Path) -> None:
    config = config_of(render(), tmp_path)
    assert config.upstreams == ()
    assert config.server.head_timeout_s > 60


def test_the_configuration_arrives_as_it_was_given(tmp_path: Path) -> None:
    config = config_of(render(FULL), tmp_path, "gateway")
    server = {"head_timeout_s": 75, **FULL["config"]["server"]}
    assert config == Config.model_validate({**FULL["config"], "server": server})


def test_odd_words_of_a_values_file_arrive_as_text(tmp_path: Path) -> None:
    values = helm_python.values_from_yaml('config: {server: {submit_message: "no: on ~ 016"}}')
    assert config_of(render(values), tmp_path).server.submit_message == "no: on ~ 016"


def test_a_changed_configuration_starts_a_new_pod() -> None:
    def checksum(values: Values) -> str:
        template = render(values)[f"Deployment/{NAME}"]["spec"]["template"]
        found: str = template["metadata"]["annotations"]["checksum/config"]
        return found

    changed = {"config": {"retention": {"request_days": 1}}}
    assert checksum({}) == checksum({"podLabels": {"a": "b"}})
    assert checksum({}) != checksum(changed)


def test_secrets_come_by_reference() -> None:
    environment = {
        one.pop("name"): one for one in pod_of(render(FULL), "gateway")["containers"][0]["env"]
    }
    secrets = {
        **FULL["secretEnv"],
        "ARK_API_KEY": {"name": "seedance-gateway", "key": "ark-api-key"},
    }
    assert environment == {
        "GATEWAY_CONFIG": {"value": "/etc/seedance-gateway/config.yaml"},
        **{name: {"valueFrom": {"secretKeyRef": ref}} for name, ref in secrets.items()},
        **{name: {"value": value} for name, value in FULL["extraEnv"].items()},
    }


def test_a_secret_can_be_left_out() -> None:
    (container,) = pod_of(render({"secretEnv": {"ARK_API_KEY": None}}))["containers"]
    assert [one["name"] for one in container["env"]] == ["GATEWAY_CONFIG"]


def test_a_secret_can_be_a_mounted_file() -> None:
    rendered = render({"extraEnv": {"GATEWAY_AUTH__PEPPER_FILE": "/run/secrets/pepper"}})
    assert pod_of(rendered)["containers"][0]["env"][-1]["value"] == "/run/secrets/pepper"


def test_a_proxys_password_can_be_a_reference() -> None:
    def upstream(proxy: str) -> Values:
        return {"config": {"upstreams": [{"proxy": proxy}]}}

    assert render(upstream("http://${PROXY_USER}:${PROXY_WORD}@proxy.example:3128"))
    with pytest.raises(helm_python.HelmValuesError):
        render(upstream("http://user:word@proxy.example:3128"))


def test_the_ingress_streams_bodies_and_never_retries() -> None:
    ingress = render(FULL)["Ingress/gateway"]
    annotations = ingress["metadata"]["annotations"]
    nginx = {
        key.removeprefix("nginx.ingress.kubernetes.io/"): value
        for key, value in annotations.items()
        if key.startswith("nginx.ingress.kubernetes.io/")
    }
    assert nginx == {
        "proxy-body-size": "64m",
        "proxy-read-timeout": "660",
        "proxy-send-timeout": "660",
        "proxy-request-buffering": "off",
        "proxy-next-upstream": "off",
    }
    assert ServerConfig().body_bytes_max == 64 * 1024 * 1024
    assert (
        int(nginx["proxy-read-timeout"]) > UpstreamConfig.model_fields["answer_timeout_s"].default
    )
    assert annotations["example.com/extra"] == "yes"
    assert {rule["host"] for rule in ingress["spec"]["rules"]} == set(FULL["ingress"]["hosts"])
    for rule in ingress["spec"]["rules"]:
        (path,) = rule["http"]["paths"]
        assert path["backend"]["service"] == {"name": "gateway", "port": {"name": "http"}}


def test_the_network_policy_denies_what_it_does_not_name() -> None:
    spec = render({"networkPolicy": {"enabled": True}})[f"NetworkPolicy/{NAME}"]["spec"]
    labels = render()[f"Deployment/{NAME}"]["spec"]["selector"]["matchLabels"]
    assert spec["podSelector"]["matchLabels"] == labels
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["ingress"] == [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    names, upstreams = spec["egress"]
    assert {(one["port"], one["protocol"]) for one in names["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert upstreams["ports"] == [{"port": 443, "protocol": "TCP"}]
    (block,) = (one["ipBlock"] for one in upstreams["to"])
    assert "169.254.0.0/16" in block["except"]  # the cloud's metadata service
    full = render(FULL)["NetworkPolicy/gateway"]["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in full] == ["http", "metrics"]
    assert all(rule["from"] for rule in full)


def test_the_volume_outlives_the_release_unless_told_otherwise() -> None:
    claim = render()[f"PersistentVolumeClaim/{NAME}"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render(FULL)["PersistentVolumeClaim/gateway"]["metadata"]
    existing = render({"persistence": {"existingClaim": "mine"}})
    assert f"PersistentVolumeClaim/{NAME}" not in existing
    assert pod_of(existing)["volumes"][0]["persistentVolumeClaim"] == {"claimName": "mine"}


@pytest.mark.parametrize("name", ["a", "x" * 53, "seedance-gateway"])
def test_names_fit_whatever_the_release_is_called(name: str) -> None:
    for key in render(name=name):
        assert re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", key.partition("/")[2]), key


def test_the_services_find_the_pod() -> None:
    manifests = render(FULL)
    labels = manifests["Deployment/gateway"]["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "video"
    for name in ("gateway", "gateway-metrics"):
        assert manifests[f"Service/{name}"]["spec"]["selector"].items() <= labels.items()


def test_the_notes_say_when_no_upstream_is_configured() -> None:
    warning = "NO UPSTREAM IS CONFIGURED"
    assert warning in render_texts()["NOTES.txt"]
    assert warning not in render_texts(FULL)["NOTES.txt"]
    by_variable = {"extraEnv": {"ARK_BASE_URL": "https://upstream.example/api/v3"}}
    assert warning not in render_texts(by_variable)["NOTES.txt"]


def test_the_documented_values_render(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    (block,) = re.findall(r"```yaml\n(# values\.yaml\n.*?)```", page, re.DOTALL)
    manifests = render(helm_python.values_from_yaml(block))
    assert config_of(manifests, tmp_path).upstreams[0].credentials[0].env == "ARK_API_KEY"
    assert {f"Ingress/{NAME}", f"NetworkPolicy/{NAME}"} <= set(manifests)
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, KUBERNETES[-1], strict=True)
