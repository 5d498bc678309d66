"""The schemas that `make test` validates renders with are those of the API server and the operators in use."""

import os

import pytest

from k8s.cluster import Cluster
from tests.operators.control_plane import ControlPlane
from tests.support import schemas

pytestmark = pytest.mark.operators


def test_kept_schemas_are_the_servers(control_plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make schemas` renews them."""
    monkeypatch.setenv("NO_PROXY", "*")
    cluster = Cluster.connect("default", kubeconfig=control_plane.kubeconfig())
    text = schemas.collect(lambda path: cluster.request("GET", path, path))
    if os.environ.get("RENEW_SCHEMAS"):
        schemas.write(text)
    assert schemas.read() == text
