"""Rules of a run's own object: its name, identity, and what GitOps and queues make of it."""

import hashlib
import re
from collections.abc import Iterator, Sequence

from k8s.rules.finding import Manifest, Rule, at, pod_templates, replica_specs, trainer_container
from k8s.value_parts import MAX_NAME_CHARS

_RUNS = ("Job", "PyTorchJob", "MPIJob")


def _long_name(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    name = item["metadata"].get("name", "")
    if len(name) > MAX_NAME_CHARS:
        yield f"the name has {len(name)} characters; pods would be named beyond 63 and never be made"


def _bad_name(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    name = item["metadata"].get("name", "")
    if name and not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"the name {name!r} is no DNS label that begins with a letter"


def _random_name(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if "generateName" in item["metadata"]:
        yield "generateName makes a new run at every apply"


def _wrong_hash(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    annotations, labels = item["metadata"].get("annotations", {}), item["metadata"].get("labels", {})
    identity, told = annotations.get("pretrain-run/identity"), annotations.get("pretrain-run/hash")
    if identity is None or told is None:
        yield "the annotations pretrain-run/identity and pretrain-run/hash are missing: nobody can tell what this run trains"
        return
    actual = hashlib.sha256(identity.encode()).hexdigest()
    short = labels.get("pretrain-run/hash", "")
    if actual != told or not short or not actual.startswith(short) or not item["metadata"]["name"].endswith(short):
        yield f"identity, hash and name do not belong together: the identity's hash is {actual[:10]}"


def _suspended(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if "suspend" in at(item, "spec", default={}) or "suspend" in at(item, "spec", "runPolicy", default={}):
        yield "`suspend` is written down, which Kueue and `launcher stop` change in the cluster"


def _expiring(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    seconds = at(item, "spec", "ttlSecondsAfterFinished") or at(item, "spec", "runPolicy", "ttlSecondsAfterFinished")
    if seconds is not None:
        yield f"ttlSecondsAfterFinished {seconds} removes the finished run, and GitOps tools then start it again"


def _in_gitops(item: Manifest) -> bool:
    annotations = item["metadata"].get("annotations", {})
    return "argocd.argoproj.io/sync-options" in annotations or any(
        key.startswith("kustomize.toolkit.fluxcd.io") for key in annotations
    )


def _undigested(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    for role, template in pod_templates(item):
        image = trainer_container(template).get("image", "")
        if _in_gitops(item) and "@sha256:" not in image:
            yield f"{role}'s image {image} has no digest: it may change without a commit"


def _elastic_in_queue(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    policy = at(item, "spec", "elasticPolicy", default={})
    queued = "kueue.x-k8s.io/queue-name" in item["metadata"].get("labels", {})
    if queued and policy.get("minReplicas") != policy.get("maxReplicas"):
        yield "a scaled PyTorchJob no longer matches its Kueue workload, and Kueue stops it"


def _budget(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    for key in ("minAvailable", "maxUnavailable"):
        value = at(item, "spec", key)
        if isinstance(value, str) and value.endswith("%"):
            yield f"{key} {value}: pods of a Job have no scale from which a share could be counted"
    if at(item, "spec", "maxUnavailable") is not None:
        yield "maxUnavailable needs a controller with a scale, which a Job is not"


def _unlike_budget(item: Manifest, objects: Sequence[Manifest]) -> Iterator[str]:
    least = at(item, "spec", "minAvailable")
    for run in objects:
        pods = at(run, "spec", "completions") if run["kind"] == "Job" else None
        if run["kind"] in ("PyTorchJob", "MPIJob"):
            pods = sum(spec.get("replicas", 1) for spec in replica_specs(run).values())
        if isinstance(least, int) and isinstance(pods, int) and least > pods:
            yield f"minAvailable {least} is above the run's {pods} pods: no pod could ever be moved, nor a node be drained"


def _closed_to_wandb(item: Manifest, objects: Sequence[Manifest]) -> Iterator[str]:
    online = any(
        variable["name"] == "WANDB_API_KEY"
        for run in objects
        if run["kind"] in _RUNS
        for _, template in pod_templates(run)
        for variable in trainer_container(template).get("env", [])
    )
    if online and "Egress" in at(item, "spec", "policyTypes", default=[]) and not any(map(_leads_out, _egress(item))):
        yield "the run has a key for wandb, and this policy lets nothing out: wandb's deadline passes, and nothing is charted"


def _egress(policy: Manifest) -> list[Manifest]:
    return at(policy, "spec", "egress", default=[]) or []


def _leads_out(rule: Manifest) -> bool:
    """Whether an egress rule reaches more than DNS and the cluster's own pods."""
    only_dns = bool(rule.get("ports")) and all(port.get("port") == 53 for port in rule["ports"])
    only_pods = bool(rule.get("to")) and all("ipBlock" not in peer for peer in rule["to"])
    return not only_dns and not only_pods


RUN_RULES = (
    Rule("R001", "error", _RUNS, _long_name, f"keep it within {MAX_NAME_CHARS}: shorten `name`",
         "Operators name pods NAME-worker-N; beyond 63 characters they are never made and nothing says why (trainer#1101)."),
    Rule("R002", "error", _RUNS, _bad_name, "lower-case letters, digits and dashes, a letter first",
         "Services of the run carry its name, and a Service's name is a DNS label (RFC 1035)."),
    Rule("R003", "error", (), _random_name, "give a name: NAME-HASH",
         "A run is known by its hash; Argo CD would make a new object at every sync."),
    Rule("R004", "error", _RUNS, _wrong_hash, "render it again instead of editing it",
         "The name says what was trained. An edited identity is another run under a borrowed name."),
    Rule("R005", "risk", _RUNS, _suspended, "remove it and use `launcher stop` and `resume`",
         "Kueue flips it; a GitOps tool that writes it back fights with Kueue for ever."),
    Rule("R006", "error", _RUNS, _expiring, "remove it; `launcher retire` removes finished runs",
         "A self-healing GitOps tool recreates what the time-to-live removed (argo-cd#8586, #13851)."),
    Rule("R007", "error", _RUNS, _undigested, "set image.digest",
         "A commit is the only thing that may start a training."),
    Rule("R008", "error", ("PyTorchJob",), _elastic_in_queue, "use backend job with Kueue, or set min = max",
         "Kueue's elastic jobs are Job and Ray only; of a scaled PyTorchJob it finds no workload and stops it."),
    Rule("R009", "error", ("PodDisruptionBudget",), _budget, "use an integer minAvailable",
         "The disruption controller refuses the rest for pods without a scale subresource, and every eviction fails."),
    Rule("R010", "risk", ("PodDisruptionBudget",), _unlike_budget, "lower minAvailable to the pods that the run needs",
         "A drain would wait for ever."),
    Rule("R011", "risk", ("NetworkPolicy",), _closed_to_wandb, "add wandb's addresses to network.egress",
         "Without a way out wandb cannot log in, and its events are dropped."),
)  # fmt: skip
