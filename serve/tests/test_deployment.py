"""The files that an operator starts from name what there is: settings, routes and counters."""

from __future__ import annotations

import asyncio
import json
import re
import runpy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
import yaml
from anechoic_serve import Settings, create_app
from anechoic_serve.cli import SPARE_S
from anechoic_serve.metrics import Metrics
from anechoic_serve.settings import PREFIX
from support.endpoint import make_service, with_client
from support.pipelines import CAPTIONS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "serve/deploy"


def read(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def counters() -> set[str]:
    """The names that /metrics has, with the ends that Prometheus adds."""
    ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
    return {
        family.name + end for family in Metrics().registry.collect() for end in ends[family.type]
    }


def expressions() -> Iterator[str]:
    for panel in json.loads((DEPLOY / "grafana.json").read_text())["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in read("alerts.yaml")[0]["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


def test_dashboard_and_alerts_watch_counters_that_there_are() -> None:
    named = {
        name for one in expressions() for name in re.findall(r"\b(?:anechoic|process)_\w+", one)
    }
    assert "anechoic_similarity_sum" in named
    assert named <= counters()
    verdicts = {one for text in expressions() for one in re.findall(r'verdict="([\w ]+)"', text)}
    assert verdicts == {"refused", "regenerated", "not judged"}


def test_the_file_of_settings_is_understood(tmp_path: Path) -> None:
    told = tomllib.loads((DEPLOY / "serve.toml").read_text())
    found = Settings(**told)
    assert found.model_dump(include=told.keys(), mode="json").keys() == told.keys()
    page = (ROOT / "docs/reference/settings.md").read_text()
    assert [name for name in Settings.model_fields if f"| `{name}` |" not in page] == []


def test_containers_listen_probe_and_end_as_the_service_does() -> None:
    port = tomllib.loads((DEPLOY / "serve.toml").read_text())["port"]
    routes = {route.path for route in create_app(Settings()).routes[-1].original_router.routes}
    ends_s = Settings().deadline_s + SPARE_S
    deployment, service = read("kubernetes.yaml")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert container["ports"][0]["containerPort"] == port
    probes = [container[f"{name}Probe"]["httpGet"]["path"]
              for name in ("startup", "readiness", "liveness")]  # fmt: skip
    assert probes == ["/readyz", "/readyz", "/healthz"]
    assert set(probes) <= routes
    variables = [one["name"] for one in container["env"] if one["name"].startswith(PREFIX)]
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= Settings.model_fields.keys()
    assert pod["spec"]["terminationGracePeriodSeconds"] > ends_s
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    mounted = {one["name"] for one in container["volumeMounts"]}
    assert mounted == {one["name"] for one in pod["spec"]["volumes"]}
    (compose,) = read("compose.yaml")
    made = compose["services"]["anechoic"]
    assert made["ports"] == [f"127.0.0.1:8000:{port}"]
    assert int(made["stop_grace_period"].removesuffix("s")) > ends_s
    for line in (*made["volumes"], *compose["services"]["prometheus"]["volumes"]):
        source = line.split(":")[0]
        assert source in ("log", "./data") or (DEPLOY / source).is_file()
    file = (DEPLOY / "Containerfile").read_text()
    assert f"EXPOSE {port}" in file
    assert f"http://127.0.0.1:{port}/healthz" in file
    assert (ROOT / made["build"]["dockerfile"]).is_file()


def test_the_client_of_the_docs_gets_verified_sound(tiny: Any, folder: Path) -> None:
    path = ROOT / "examples/service_client.py"
    assert len([line for line in path.read_text().splitlines() if line.strip()]) <= 60
    example = SimpleNamespace(**runpy.run_path(str(path)))

    def use(address: str) -> None:
        client = example.Client(address)
        made = client.generate(CAPTIONS[2], seed=1)
        assert (made.verdict, made.certificate["verdict"]) == ("released", "no copy")
        assert client.check(made.content)["verdict"] == "no copy"
        names = [name for name, _ in client.follow(CAPTIONS[2], seed=1)]
        assert names == ["queued", *["step"] * 6, "sound", "done"]
        with pytest.raises(example.Refused, match=r"422: prompt: is empty"):
            client.generate(" ")

    service = make_service(folder, tiny)

    async def run(_: Any) -> None:
        server = uvicorn.Server(
            uvicorn.Config(create_app(service=service), port=0, log_level="error", lifespan="off")
        )
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        await asyncio.to_thread(use, f"http://127.0.0.1:{port}")
        server.should_exit = True
        await serving

    with_client(service, run)
