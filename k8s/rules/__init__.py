"""Rules over rendered manifests: each finding has a code, what is wrong, and the way out. Pure.

They look at objects and not at values, so they also judge manifests that another tool or a hand has changed.
The table of all rules is in docs/rules.md.
"""

from collections.abc import Iterator, Sequence

from k8s.render import RUN_KINDS
from k8s.rules.finding import Finding, Manifest, Rule
from k8s.rules.jobs import JOB_RULES
from k8s.rules.mpijobs import MPIJOB_RULES
from k8s.rules.pods import POD_RULES
from k8s.rules.pytorchjobs import PYTORCHJOB_RULES
from k8s.rules.runs import RUN_RULES

ALL_RULES: tuple[Rule, ...] = (*RUN_RULES, *POD_RULES, *JOB_RULES, *PYTORCHJOB_RULES, *MPIJOB_RULES)

__all__ = ["ALL_RULES", "Finding", "Manifest", "Rule", "check"]


def check(objects: Sequence[Manifest]) -> list[Finding]:
    """What is wrong with a run's objects: errors first, then risks."""
    return sorted(_findings(objects), key=lambda finding: (finding.level != "error", finding.code))


def _findings(objects: Sequence[Manifest]) -> Iterator[Finding]:
    for rule in ALL_RULES:
        for item in objects:
            # another Job among a run's objects is not the run
            foreign = item["kind"] in RUN_KINDS and "pretrain-run/hash" not in item["metadata"].get("labels", {})
            if not foreign and (not rule.kinds or item["kind"] in rule.kinds):
                for message in rule.find(item, objects):
                    yield Finding(
                        rule.code, rule.level, f"{item['kind']}/{item['metadata'].get('name', '?')}", message, rule.fix
                    )
