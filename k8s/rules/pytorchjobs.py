"""Rules of backend pytorchjob: what training-operator 1.9 does with fields that look harmless."""

import re
from collections.abc import Iterator, Sequence

from k8s.rules.finding import Manifest, Rule, at, replica_specs, trainer_container

_KIND = ("PyTorchJob",)


def _policy(item: Manifest) -> Manifest:
    policy: Manifest = at(item, "spec", "elasticPolicy", default={})
    return policy


def _elastic_master(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if _policy(item) and "Master" in replica_specs(item):
        yield "a Master together with elasticPolicy: maxReplicas counts workers only, so one agent never trains"


def _standalone(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if "standalone" in _policy(item):
        yield 'elasticPolicy.standalone becomes PET_STANDALONE="", on which torchrun ends at once'


def _processes(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    processes = at(item, "spec", "nprocPerNode", default="auto")
    if not re.fullmatch(r"[1-9][0-9]*", str(processes)):
        yield f"nprocPerNode {processes}: on CPU that is a process for each core of the node, whatever the pod's limit"


def _two_process_counts(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if "nProcPerNode" in _policy(item):
        yield "elasticPolicy.nProcPerNode is deprecated, and refused beside nprocPerNode"


def _no_group(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if "Master" not in replica_specs(item) and not _policy(item):
        yield "workers only and no elasticPolicy: the operator gives them no address to meet at"


def _rendezvous_id(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if _policy(item) and _policy(item).get("rdzvId") != item["metadata"].get("name"):
        yield f"rdzvId {_policy(item).get('rdzvId')!r} is not the run's name: two runs could meet in one rendezvous"


def _backend(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if _policy(item) and _policy(item).get("rdzvBackend") != "c10d":
        yield f"rdzvBackend {_policy(item).get('rdzvBackend')!r}: the API server takes any word, torch knows c10d"


def _torch_restarts(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if _policy(item) and _policy(item).get("maxRestarts") is None:
        yield "maxRestarts is unset: torch's default is 0, and the first failure ends the run"


def _range(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    policy, replicas = _policy(item), at(item, "spec", "pytorchReplicaSpecs", "Worker", "replicas", default=1)
    least, most = policy.get("minReplicas", replicas), policy.get("maxReplicas", replicas)
    if policy and not least <= replicas <= most:
        yield f"{replicas} workers are outside of minReplicas {least} to maxReplicas {most}"


def _autoscaler(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if "metrics" in _policy(item):
        yield "elasticPolicy.metrics makes an autoscaler that looks at CPU"


def _clean_pods(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    policy = at(item, "spec", "runPolicy", "cleanPodPolicy", default="None")
    if policy != "Running":
        yield f"cleanPodPolicy {policy}: " + (
            "logs of finished pods are removed" if policy == "All" else "pods that still wait keep their GPUs after the end"
        )


def _restart_policy(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    for role, spec in replica_specs(item).items():
        policy = spec.get("restartPolicy", "OnFailure")
        if policy == "ExitCode" and "trainer.elastic" not in trainer_container(spec.get("template", {})).get("command", []):
            yield f"{role}: ExitCode without trainer.elastic: torchrun ends with 1 after a lost node, which then ends the job"
        elif policy == "Never":
            yield f"{role}: restartPolicy Never loses a lost node for good"
        elif policy == "Always":
            yield f"{role}: restartPolicy Always restarts what is done"


def _started_again(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    limit = at(item, "spec", "runPolicy", "backoffLimit")
    if all(spec.get("restartPolicy", "OnFailure") != "OnFailure" for spec in replica_specs(item).values()):
        return
    if limit is None:
        yield "OnFailure and no backoffLimit: a run with a wrong config is started again for ever"
    elif limit == 0:
        yield "OnFailure and backoffLimit 0: the first lost pod fails the job"
    else:
        yield f"OnFailure: a run with a wrong config is started {limit} times again, with pauses of up to five minutes"


def _deadline(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    if at(item, "spec", "runPolicy", "activeDeadlineSeconds") is not None:
        yield "activeDeadlineSeconds works only if a pod happens to change after it"


def _container(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    for role, spec in replica_specs(item).items():
        names = [container.get("name") for container in at(spec, "template", "spec", "containers", default=[])]
        if "pytorch" not in names:
            yield f"{role} has no container named pytorch: {', '.join(map(str, names)) or 'none'}"


def _master(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    specs = replica_specs(item)
    if "Master" in specs and specs["Master"].get("replicas") != 1:
        yield f"Master.replicas is {specs['Master'].get('replicas')}"
    if "Master" in specs and "Worker" in specs:
        yield "workers get an init container from another registry, without the security settings that `restricted` asks for"


def _gang(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    gang = at(item, "spec", "runPolicy", "schedulingPolicy")
    least = _policy(item).get("minReplicas")
    if gang is not None and least is not None and gang.get("minAvailable") != least:
        told = gang.get("minAvailable")
        yield f"schedulingPolicy.minAvailable {told} is not minReplicas {least}: the run waits for more than it needs"


def _port(item: Manifest, _objects: Sequence[Manifest]) -> Iterator[str]:
    wanted = _policy(item).get("rdzvPort", 23456)
    for role, spec in replica_specs(item).items():
        for container in at(spec, "template", "spec", "containers", default=[]):
            for port in container.get("ports", []):
                if port.get("name") == "pytorchjob-port" and port.get("containerPort") != wanted:
                    yield f"{role}: pytorchjob-port is {port['containerPort']} and rdzvPort {wanted}"


PYTORCHJOB_RULES = (
    Rule("T001", "error", _KIND, _elastic_master, "have workers only",
         "One agent stays a waiting spare, and success hangs on the Master pod (trainer#1872)."),
    Rule("T002", "error", _KIND, _standalone, "remove it; one node needs minReplicas = maxReplicas = 1",
         "torchrun reads the empty variable as a number."),
    Rule("T003", "error", _KIND, _processes, "write a number: processesPerNode",
         "`auto` asks the machine, not the pod."),
    Rule("T004", "error", _KIND, _two_process_counts, "use spec.nprocPerNode",
         "The admission webhook refuses both together."),
    Rule("T005", "error", _KIND, _no_group, "add elasticPolicy with minReplicas = maxReplicas for a fixed size",
         "The operator injects neither a rendezvous endpoint nor a node rank."),
    Rule("T006", "error", _KIND, _rendezvous_id, "set rdzvId to the run's name",
         "Unset, torch calls every rendezvous `none`."),
    Rule("T007", "error", _KIND, _backend, "set rdzvBackend: c10d",
         "An unknown backend is accepted everywhere and fails in the pod."),
    Rule("T008", "error", _KIND, _torch_restarts, "set maxRestarts",
         "The run's own budget is on its volume; torch must not end before it."),
    Rule("T009", "error", _KIND, _range, "keep replicas within the range",
         "Fewer wait for ever, more stay spares."),
    Rule("T010", "risk", _KIND, _autoscaler, "remove it and use `launcher scale`",
         "Training keeps CPUs and GPUs busy whatever the number of workers (trainer#1645, #1891)."),
    Rule("T011", "error", _KIND, _clean_pods, "set cleanPodPolicy: Running",
         "One worker's success ends an elastic job; stragglers would keep their nodes."),
    Rule("T012", "error", _KIND, _restart_policy, "set restartPolicy: ExitCode and start trainer.elastic",
         "Its codes say whether starting again can help; the run's own budget ends what would go on for ever (trainer#2045)."),
    Rule("T013", "error", _KIND, _started_again, "set restartPolicy: ExitCode",
         "The kubelet restarts a container whatever its exit code, with growing pauses, and its GPUs idle."),
    Rule("T014", "risk", _KIND, _deadline, "use deadlineSeconds, which the trainer keeps",
         "The operator's queue for it does nothing (trainer#3358)."),
    Rule("T015", "error", _KIND, _container, "name the training container pytorch",
         "The operator puts its variables and the port there."),
    Rule("T016", "error", _KIND, _master, "have workers only",
         "Master.replicas must be 1; the init container breaks closed registries (trainer#1696) and Pod Security."),
    Rule("T017", "error", _KIND, _gang, "set minAvailable to minReplicas",
         "The operator's pod group asks for all replicas, also for an elastic run (trainer#1571)."),
    Rule("T018", "error", _KIND, _port, "make both the same",
         "The endpoint is made of rdzvPort, the Service of the container's port."),
)  # fmt: skip
