"""The admission policy's idea of a run's end is the launcher's own; the policy itself is tested on a real API server."""

from typing import Any

import celpy
import pytest
import yaml

from k8s.status import is_finished, is_suspended
from tests.gitops.recorded import GITOPS, Recorded, recorded

POLICY, BINDING = yaml.safe_load_all((GITOPS / "admission" / "guard.yaml").read_text())


def variable(name: str, item: dict[str, Any]) -> bool:
    """A variable of the policy for an object that is to be deleted."""
    (expression,) = [each["expression"] for each in POLICY["spec"]["variables"] if each["name"] == name]
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return bool(program.evaluate({"variables": celpy.json_to_cel({"old": item})}))


@pytest.mark.parametrize("item", recorded("pytorchjob", "mpijob", "job"), ids=str)
def test_what_the_launcher_takes_for_ended_or_stopped_may_be_deleted_and_nothing_else(item: Recorded) -> None:
    assert variable("ended", item.object) == is_finished(item.object)
    assert variable("suspended", item.object) == is_suspended(item.object)


def test_binding_denies() -> None:
    assert BINDING["spec"] == {"policyName": POLICY["metadata"]["name"], "validationActions": ["Deny"]}
    assert POLICY["spec"]["failurePolicy"] == "Fail"
