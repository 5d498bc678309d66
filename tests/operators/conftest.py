"""One control plane for each process of pytest, and a namespace for each test."""

import secrets
from collections.abc import Generator, Iterator
from contextlib import suppress

import pytest
from kubernetes.dynamic.exceptions import NotFoundError

from k8s.kind.toolbox import Toolbox
from tests.operators.components import COMPONENTS
from tests.operators.control_plane import ControlPlane

_running: list[ControlPlane] = []


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs before the first test, whose time limit is shorter than a first build."""
    wanted = any("control_plane" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        toolbox = Toolbox()
        for name in COMPONENTS:
            toolbox.path(name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the components said when a test fails."""
    report = yield
    if report.failed:
        for control_plane in _running:
            report.sections.extend((f"log of {name}", text) for name, text in control_plane.logs().items())
    return report


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """Everything running. A test may stop components; the next one finds them started again."""
    control_plane = ControlPlane(tmp_path_factory.mktemp("control-plane"), Toolbox())
    _running.append(control_plane)
    try:
        control_plane.start_all()
        yield control_plane
    finally:
        control_plane.close()
        _running.remove(control_plane)


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A new namespace that enforces Pod Security `restricted`; its end is asked for after the test and not waited for."""
    control_plane.start_missing()
    name = f"test-{secrets.token_hex(4)}"
    control_plane.make_namespace(name)
    yield name
    control_plane.start_missing()
    with suppress(NotFoundError):  # the test may have deleted it
        control_plane.api().delete("v1", "Namespace", name)
