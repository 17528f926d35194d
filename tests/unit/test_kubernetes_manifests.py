"""The manifests in docs are what Kubernetes takes, and fit each other and the command that they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click.testing import CliRunner

from clustercore import Founding
from clustercore.cli import serve as serve_module
from clustercore.cli.commands import root
from clustercore.cli.config import NodeOverrides, read_node_plan
from clustercore.interfaces import NodeId
from clustercore_dns import DnsDiscovery
from tests.unit.repository import ROOT, reads_repository

pytestmark = reads_repository

MANIFESTS = sorted((ROOT / "docs" / "how-to" / "kubernetes").glob("*.yaml"))
# The oldest minor version that still gets fixes when this was written, and the newest whose schema is installed.
VERSIONS = ["1.32", kubernetes_validate.latest_version()]


def documents(path: Path) -> dict[str, dict[str, Any]]:
    """Return the objects of a manifest, by kind; each kind is there once."""
    found: dict[str, dict[str, Any]] = {}
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert document["kind"] not in found
        found[document["kind"]] = document
    return found


@pytest.fixture
def kv() -> dict[str, dict[str, Any]]:
    """The manifest of the guide."""
    return documents(ROOT / "docs" / "how-to" / "kubernetes" / "kv.yaml")


def container_of(kv: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The only container of a pod."""
    (container,) = kv["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifest_keeps_the_schema(path: Path, version: str) -> None:
    """Every object is one of that version of Kubernetes, without a field that it does not know."""
    assert documents(path)
    for document in documents(path).values():
        kubernetes_validate.validate(document, version, strict=True)


def test_schema_finds_a_field_that_is_none(kv: dict[str, dict[str, Any]]) -> None:
    """The check above can fail."""
    kv["StatefulSet"]["spec"]["podManagmentPolicy"] = "Parallel"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(kv["StatefulSet"], VERSIONS[-1], strict=True)


def test_names_of_the_manifest_fit_each_other(kv: dict[str, dict[str, Any]]) -> None:
    """Service, set, selector and port are called as the records that the nodes ask for."""
    service, pods, container = kv["Service"], kv["StatefulSet"]["spec"], container_of(kv)
    name, labels = service["metadata"]["name"], pods["template"]["metadata"]["labels"]
    (port,) = service["spec"]["ports"]

    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    assert pods["serviceName"] == name
    assert service["spec"]["selector"] == pods["selector"]["matchLabels"] == labels
    assert kv["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    assert (port["name"], port["port"]) == (container["ports"][0]["name"], container["ports"][0]["containerPort"])
    records = f"_{port['name']}._tcp.{name}.default.svc.cluster.local"
    assert f'service = "{records}"' in kv["ConfigMap"]["data"]["node.toml"]
    assert f"--advertise=$(POD_NAME).{name}.$(POD_NAMESPACE).svc.cluster.local:{port['port']}" in container["args"]
    assert pods["podManagementPolicy"] == "Parallel"
    assert pods["template"]["spec"]["terminationGracePeriodSeconds"] > serve_module._STOP_LIMIT_S
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted["config"] == "/etc/clustercore"
    assert f'path = "{mounted["data"]}/' in kv["ConfigMap"]["data"]["node.toml"]


def test_pods_of_the_manifest_are_nodes(
    kv: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command takes the arguments, and the configuration makes a node of them; all pods have one founder."""
    given: dict[str, Any] = {}
    monkeypatch.setattr(serve_module.serve, "callback", lambda **options: given.update(options))
    container = container_of(kv)
    labels = set()
    for number in range(kv["StatefulSet"]["spec"]["replicas"]):
        environment = {"POD_NAME": f"kv-{number}", "POD_NAMESPACE": "default"}
        args = [re.sub(r"\$\((\w+)\)", lambda match: environment[match[1]], arg) for arg in container["args"]]  # noqa: B023
        result = CliRunner().invoke(root, args)
        assert result.exit_code == 0, result.output
        names = ("node_id", "advertise", "discovery", "expect", "founder")
        overrides = NodeOverrides(**{name: given[name] for name in names})
        path = tmp_path / "node.toml"
        text = kv["ConfigMap"]["data"]["node.toml"].replace("/var/lib/clustercore", str(tmp_path))
        path.write_text(text, encoding="utf-8")

        plan = read_node_plan(path, overrides)

        plan.make_node()
        assert isinstance(plan.discovery, DnsDiscovery)
        assert plan.founding == Founding(kv["StatefulSet"]["spec"]["replicas"])
        labels.add(plan.founding.founder_for(NodeId(plan.node_id)))
    assert labels == {"kv-1"}
