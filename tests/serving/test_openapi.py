"""The served OpenAPI document: true to what is served, and a source of requests that must never break the server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.serving import Server, make_run, serving


@pytest.fixture(scope="module")
def server(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"serve__max_output_tokens": 8, "serve__context_tokens": 128}
    config = make_run(tmp_path_factory.mktemp("openapi"), small_data, **limits)
    with serving(config) as server:
        yield server


@pytest.mark.tools
@pytest.mark.timeout(900)
def test_no_request_made_from_the_document_breaks_the_server(server: Server, tmp_path: Path) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    # the phases of examples and of coverage make a request for each rule of each field, in all some hundreds
    options = ["--checks", checks, "--max-examples", "25", "--seed", "1", "--phases", "examples,coverage,fuzzing"]
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{server.url}/openapi.json", *options]
    result = subprocess.run(
        [*command, "--no-color", "--request-timeout", "60"],
        capture_output=True, text=True, timeout=600, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    answered = server.metrics()
    assert not [name for name in answered if 'status="5' in name]
    for route in ("chat/completions", "completions"):
        assert sum(value for name, value in answered.items() if f'/v1/{route}",status="200"' in name) >= 5


def test_the_document_names_every_route_and_holds_no_dangling_reference(server: Server) -> None:
    with server.http() as http:
        document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/healthz", "/metrics", "/v1/models", "/v1/models/{model}", "/v1/completions", "/v1/chat/completions",
    }  # fmt: skip
    text = json.dumps(document)
    names = {part.partition('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(document["components"]["schemas"])
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert all("description" in fields[name] for name in fields)
