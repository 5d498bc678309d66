"""Rules of backend job: an Indexed Job with a headless Service."""

from collections.abc import Iterator, Sequence

from k8s.rules.finding import Manifest, Rule, at

PERMANENT = {2, 65, 75}
"""Exit codes after which starting again cannot help."""

RETRIED = {134, 137, 143, 166}
"""Exit codes that the run's own budget counts, or that are no failure at all."""


def _not_indexed(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if at(item, "spec", "completionMode") != "Indexed":
        yield "completionMode is not Indexed: pods have no index and no name to be found by"


def _unequal(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    completions, parallelism = at(item, "spec", "completions"), at(item, "spec", "parallelism")
    if completions != parallelism:
        yield f"completions {completions} and parallelism {parallelism} differ: agents wait for pods that start only later"


def _no_service(item: Manifest, objects: Sequence[Manifest]) -> Iterator[str]:
    subdomain = at(item, "spec", "template", "spec", "subdomain")
    labels = at(item, "spec", "template", "metadata", "labels", default={})
    for service in objects:
        if service["kind"] == "Service" and service["metadata"]["name"] == subdomain:
            selector = at(service, "spec", "selector", default={})
            if at(service, "spec", "clusterIP") != "None":
                yield f"Service {subdomain} is not headless: pods get no names of their own"
            if not at(service, "spec", "publishNotReadyAddresses"):
                yield f"Service {subdomain} does not publish addresses of pods that are not ready yet"
            if any(labels.get(key) != value for key, value in selector.items()):
                yield f"Service {subdomain} does not select the Job's pods"
            return
    yield f"there is no Service named like the pods' subdomain {subdomain!r}"


def _restarting(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    policy = at(item, "spec", "template", "spec", "restartPolicy")
    if policy != "Never":
        yield f"restartPolicy {policy}: the rules about exit codes hold for Never only"


def _retried_for_ever(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    ending: set[int] = set()
    for rule in at(item, "spec", "podFailurePolicy", "rules", default=[]):
        if rule.get("action") == "FailJob" and at(rule, "onExitCodes", "operator") == "In":
            ending |= set(at(rule, "onExitCodes", "values", default=[]))
    missing = sorted(PERMANENT - ending)
    if missing:
        yield f"exit codes {', '.join(map(str, missing))} do not end the Job, although starting again cannot help"


def _preemption_counts(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    rules = at(item, "spec", "podFailurePolicy", "rules", default=[])
    ignored = [rule for rule in rules if rule.get("action") == "Ignore"]
    conditions = [condition.get("type") for rule in ignored for condition in rule.get("onPodConditions", [])]
    codes = [code for rule in ignored for code in at(rule, "onExitCodes", "values", default=[])]
    if "DisruptionTarget" not in conditions or RETRIED - set(codes):
        yield "pods that are preempted (DisruptionTarget) or end with 134, 137, 143 or 166 count as failures"


def _all_must_succeed(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    indexes = [rule.get("succeededIndexes") for rule in at(item, "spec", "successPolicy", "rules", default=[])]
    if "0" not in indexes:
        yield "no successPolicy for index 0: a pod that was scaled away could keep the run from succeeding"


def _replaced_early(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if at(item, "spec", "podReplacementPolicy") != "Failed":
        yield "a pod is replaced while it still saves: two pods of one index write to the same volume"


JOB_RULES = (
    Rule("J001", "error", ("Job",), _not_indexed, "set completionMode: Indexed",
         "The index says which pod hosts the rendezvous."),
    Rule("J002", "error", ("Job",), _unequal, "change both together; `launcher scale` does",
         "An elastic Indexed Job keeps them equal (KEP-3715)."),
    Rule("J003", "error", ("Job",), _no_service, "keep the chart's headless Service",
         "Agents look for pod 0 by its name before any pod is ready."),
    Rule("J004", "error", ("Job",), _restarting, "set restartPolicy: Never",
         "The API server refuses podFailurePolicy with anything else."),
    Rule("J005", "error", ("Job",), _retried_for_ever, "let podFailurePolicy fail the Job on 2, 65 and 75",
         "A wrong config would be started again until the back-off limit is spent."),
    Rule("J006", "risk", ("Job",), _preemption_counts, "let podFailurePolicy ignore them",
         "Spot nodes would spend the back-off limit; the run keeps a budget of its own on its volume."),
    Rule("J007", "risk", ("Job",), _all_must_succeed, "add a successPolicy with succeededIndexes \"0\"",
         "Pod 0 ends with 0 only when the whole run is done."),
    Rule("J008", "risk", ("Job",), _replaced_early, "set podReplacementPolicy: Failed",
         "The default makes the next pod while the last one is terminating."),
)  # fmt: skip
