"""The smallest run: one pod, no operator, installed by Helm alone."""

import json
import re

import pytest

from k8s.render import CHART
from tests.kind.stories import IMAGE, Stories
from tests.support import runs

pytestmark = [pytest.mark.kind, pytest.mark.timeout(900)]


def test_helm_install_trains_the_box_and_tells_the_steps(stories: Stories) -> None:
    repository, _, tag = IMAGE.rpartition(":")
    fitting = ["image.repository=" + repository, "image.tag=" + tag, "resources.requests.cpu=100m"]
    fitting += [
        "resources.requests.memory=1Gi",
        "resources.limits.memory=3Gi",
        "trainer.pretrain.steps=30",
        "trainer.pretrain.schedule.warmup_steps=5",
    ]
    run = stories.helm_install("laptop", CHART / "ci" / "laptop-values.yaml", *fitting, "trainer.tracking.log_every_steps=5")

    run.wait_for_phase("Running", "Succeeded", deadline_s=120)
    run.wait_for_steps(5, deadline_s=400)
    assert re.search(r"step \d+ ", stories.kubectl("logs", "--selector", f"pretrain-run/run={run.name}", "--tail=-1"))
    status = run.wait_for_phase("Succeeded", deadline_s=600)
    assert status["step"] == 30
    assert json.loads(stories.launcher("status", run.name, "--json").stdout) == status

    folder = run.copy()
    assert (folder / "DONE").exists()
    assert (folder / "report.html").exists()
    assert runs.last_step(folder) == 30
    assert any(
        "rank 0]" in line and "step" in line for line in stories.launcher("logs", run.name, "--rank", "0").stdout.splitlines()
    )

    stories.kubectl("delete", "pods", "--selector", f"pretrain-run/run={run.name}")
    from_volume = stories.launcher("logs", run.name, "--volume").stdout
    assert re.search(r"step \d+", from_volume)
