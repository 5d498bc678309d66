"""Rendering: pure, the same for every backend but where it must differ, and refused early where it cannot work."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import lint

from k8s.chart_files import generated_files
from k8s.errors import RenderError, RunFileError
from k8s.helm import HelmPackage
from k8s.render import CHART, Manifest, dump, render, run_object
from k8s.rules import check
from k8s.rules.finding import pod_templates
from k8s.run import load_run
from k8s.value_parts import SECRET_NAME
from tests.chart.scenarios import FILES, NAMESPACE, render_values, rendered, scenario

GOLDEN = Path(__file__).parent / "golden"
TINY = {"preset": "tiny", "corpus": {"sources": [{"name": "a", "path": "/data/a"}]}}


@pytest.mark.parametrize("name", FILES)
def test_a_scenario_renders_as_reviewed(name: str) -> None:
    """`make golden` renews the files; their difference is what to review."""
    assert dump(rendered(name)) == (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_the_same_file_gives_the_same_bytes(name: str) -> None:
    given = dict(scenario(name).given)
    backwards = json.loads(json.dumps(given), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    first, second = (HelmPackage().render(CHART, values, NAMESPACE) for values in (given, backwards))
    assert first == second


def normalised(template: Manifest) -> Manifest:
    """A pod template without what a backend is allowed to have of its own."""
    template = copy.deepcopy(template)
    for label in ("pretrain-run/backend", "pretrain-run/role"):
        del template["metadata"]["labels"][label]
    spec = template["spec"]
    spec.pop("restartPolicy", None)
    spec.pop("subdomain", None)
    container = spec["containers"][0]
    del container["ports"]
    own = ("PRETRAIN_RUN_BACKEND", "PRETRAIN_RUN_RENDEZVOUS", "OMPI_MCA_plm_rsh_agent", "PRTE_MCA_plm_ssh_agent")
    container["env"] = [each for each in container["env"] if each["name"] not in own]
    return template


def test_the_pod_is_the_same_under_every_backend_but_for_named_fields(tmp_path: Path) -> None:
    templates = {}
    for backend in ("job", "pytorchjob", "mpijob"):
        run = run_object(render_values({"name": "demo", "backend": backend, "nodes": 2, "trainer": TINY}, tmp_path))
        templates |= {f"{backend} {role}": normalised(template) for role, template in pod_templates(run)}
    config_maps = {name: template["spec"]["volumes"][0]["configMap"]["name"] for name, template in templates.items()}
    assert len(set(config_maps.values())) == 1
    launcher, worker = templates.pop("mpijob launcher"), templates.pop("mpijob worker")
    assert templates["job worker"] == templates["pytorchjob worker"]
    for theirs, fields in ((launcher, ("resources",)), (worker, ("command", "args", "readinessProbe", "lifecycle"))):
        ours = copy.deepcopy(templates["job worker"])
        for each in (ours, theirs):
            del next(volume for volume in each["spec"]["volumes"] if volume["name"] == "shm")["emptyDir"]["sizeLimit"]
        for field in fields:
            ours["spec"]["containers"][0].pop(field, None)
            theirs["spec"]["containers"][0].pop(field, None)
        assert theirs == ours


def test_generated_files_are_fresh() -> None:
    for path, text in generated_files().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is stale: make chart"


@pytest.mark.parametrize("name", FILES)
def test_helm_lint_has_nothing_to_say(name: str) -> None:
    report = lint(CHART, dict(scenario(name).given), strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", FILES)
def test_no_object_has_a_random_part_or_a_time(name: str) -> None:
    text = dump(rendered(name))
    assert "generateName" not in text
    assert "ttlSecondsAfterFinished" not in text
    assert "checksum" not in text


BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    ({"backnd": "job"}, "backnd: unknown key; did you mean backend?", "backnd"),
    ({"backend": "slurm"}, "backend: must be 'job', 'pytorchjob' or 'mpijob'", "backend"),
    ({"name": "n" * 30}, "name: must have at most 29 characters", "maxLength"),
    ({"name": "Demo"}, "name: must be lower-case letters, digits and dashes only", "name"),
    ({"backend": "mpijob", "elastic": {"enabled": True}}, "elastic.enabled with backend mpijob", "elastic/enabled"),
    ({"elastic": {"enabled": True, "min": 3, "max": 2}}, "min 3 is above max 2", "min 3 is above max 2"),
    (
        {"nodes": 9, "elastic": {"enabled": True, "max": 4}},
        "nodes 9 is outside of elastic.min 1 to max 4",
        "nodes 9 is outside",
    ),
    ({"elastic": {"master": True}}, "elastic.master: unknown key", "master"),
    ({"image": {"digest": "sha256:12"}}, "image.digest: must be sha256: and 64 hexadecimal digits", "digest"),
    ({"image": {"tag": "latest"}}, "image.tag latest is no version", "tag"),
    ({"gitops": True}, "gitops needs image.digest", "digest"),
    ({"wandb": {"apiKey": "x"}}, "wandb.apiKey: unknown key", "apiKey"),
    ({"extra": {"env": [{"name": "WANDB_API_KEY", "value": "x"}]}}, "WANDB_API_KEY has a literal value", "extra/env/0"),
    ({"storage": {"runs": {"kind": "none"}}}, "storage.runs.kind none: checkpoints need a place", "storage/runs/kind"),
    (
        {"storage": {"runs": {"kind": "existing"}}},
        "kind existing and claimName go together",
        "kind existing and claimName go together",
    ),
    ({"nodes": 2, "storage": {"runs": {"kind": "emptyDir"}}}, "emptyDir with 2 nodes", "emptyDir with 2 nodes"),
    ({"trainer": TINY | {"modle": {}}}, "modle: unknown key; did you mean model?", "modle"),
    (
        {"trainer": TINY | {"pretrain": {"steps": 0}}},
        "pretrain.steps: must be above 0, not 0",
        "trainer/pretrain/steps",
    ),
    ({"trainer": TINY | {"preset": "huge"}}, "preset 'huge' is not one of", "trainer/preset"),
    ({"trainer": TINY | {"run_dir": "/x"}}, "trainer.run_dir follows from `storage`", "run_dir"),
    ({"trainer": TINY | {"seed": 1 << 60}}, "", "trainer/seed"),
    ({"maxRestarts": True}, "", "maxRestarts"),
    ({"resources": 3}, "resources: must be a section of keys, not 3", "resources"),
    ({"resources": {"limits": {"memory": "lots"}}}, "resources.limits.memory", "resources/limits/memory"),
    ({"nodes": None}, "nodes: must be a whole number, not null", "nodes"),
    ({"maxRestarts": None}, "maxRestarts: must be a whole number, not null", "maxRestarts"),
    ({"gracePeriodSeconds": None}, "gracePeriodSeconds", "gracePeriodSeconds"),
    ({"image": {"repository": "it's"}}, "image.repository: must be the name of an image without its tag", "repository"),
    ({"extra": {"env": [{"value": "x"}]}}, "extra.env[0].name: is missing", "name"),
    ({"extra": {"volumes": [{"emptyDir": {}}]}}, "extra.volumes[0].name: is missing", "name"),
    ({"extra": {"objects": [{"kind": "Secret"}]}}, "extra.objects[0].apiVersion: is missing", "apiVersion"),
    ({"storage": {"inputs": [{"name": "raw"}]}}, "storage.inputs[0].mountPath: is missing", "mountPath"),
    ({"stage": "evaluate", "nodes": 2}, "stage evaluate is one process's work", "stage evaluate is one process's work"),
    (
        {"elastic": {"enabled": True}, "scheduling": {"kueue": {"topologyLevel": "rack"}}},
        "scheduling.kueue.topologyLevel with elastic.enabled",
        "scheduling.kueue.topologyLevel with elastic.enabled",
    ),
]


@pytest.mark.parametrize(("values", "words", "where"), BAD_VALUES, ids=[str(values)[:60] for values, _, _ in BAD_VALUES])
def test_helm_and_launcher_refuse_the_same_values(values: dict[str, Any], words: str, where: str, tmp_path: Path) -> None:
    values = {"name": "demo", "trainer": TINY} | values
    with pytest.raises(RenderError) as refused:
        HelmPackage().render(CHART, values, NAMESPACE)
    assert where in str(refused.value)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(values))
    with pytest.raises(RunFileError) as refused_here:
        load_run(file)
    assert words in str(refused_here.value)
    assert "\n" not in str(refused_here.value)
    assert str(file) in str(refused_here.value)


def test_common_settings_are_no_secrets_and_keys_are() -> None:
    for name, secret in {
        "TOKENIZERS_PARALLELISM": False,
        "KEYBOARD": False,
        "WANDB_KEY": True,
        "SSH_KEY": True,
        "HF_TOKEN": True,
    }.items():
        assert bool(re.search(SECRET_NAME, name)) == secret, name


def test_a_job_under_kueue_can_be_scaled_and_is_not_admitted_in_part() -> None:
    annotations = run_object(rendered("job-kueue"))["metadata"]["annotations"]
    assert annotations["kueue.x-k8s.io/elastic-job"] == "true"
    assert "kueue.x-k8s.io/job-min-parallelism" not in annotations


def test_an_mpi_launcher_takes_no_worker_s_node(tmp_path: Path) -> None:
    values = {"name": "demo", "backend": "mpijob", "nodes": 2, "trainer": TINY, "scheduling": {"onePodPerNode": True}}
    templates = dict(pod_templates(run_object(render_values(values, tmp_path))))
    assert "affinity" not in templates["launcher"]["spec"]
    (term,) = templates["worker"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"]["pretrain-run/role"] == "worker"


def test_another_job_among_the_objects_is_not_judged_as_the_run(tmp_path: Path) -> None:
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "after"},
        "spec": {"template": {"spec": {"containers": []}}},
    }
    objects = render_values({"name": "demo", "trainer": TINY, "extra": {"objects": [job]}}, tmp_path)
    assert check(objects) == []


@pytest.mark.parametrize(
    "text", ["metadata:", "kind: Job\nmetadata: {name: x, annotations: }", "- 1", "kind: Job\nmetadata: {}"]
)
def test_verify_says_in_one_line_that_a_file_is_no_run(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    ended = launcher("verify", "--path", str(file))
    assert ended.returncode == 65
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("text", ["{", "words", "[]"])
def test_a_broken_kubeconfig_gets_one_line(text: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    ended = launcher("list", "--kubeconfig", str(file))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
    ended = launcher("list", "--kubeconfig", str(tmp_path))
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)


def test_set_reaches_the_config_that_is_checked(tmp_path: Path) -> None:
    assert load_run(FILES["laptop"], ["trainer.preset=gpt-125m", "trainer.pretrain.steps=900"]).config.model.hidden_size == 768
    with pytest.raises(RunFileError, match="needs a mapping"):
        load_run(FILES["laptop"], ["trainer=3"])


def launcher(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "KUBECONFIG": "/nonexistent", **variables}
    command = [sys.executable, "-m", "k8s", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)


def test_render_prints_manifests_and_nothing_else() -> None:
    ended = launcher("render", "-f", str(FILES["job-elastic"]), "-n", NAMESPACE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == (GOLDEN / "job-elastic.yaml").read_text(encoding="utf-8")


def test_render_out_writes_one_file_per_identity_once(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    values: dict[str, Any] = {"name": "demo", "trainer": TINY}
    out = tmp_path / "runs"

    def written(**changes: Any) -> list[str]:
        file.write_text("# a comment\n" + yaml.safe_dump(values | changes))
        ended = launcher("render", "-f", str(file), "--out", str(out))
        assert ended.returncode == 0, ended.stderr
        return sorted(path.name for path in out.iterdir())

    first = written()
    assert len(first) == 1
    text = (out / first[0]).read_text()
    assert written(nodes=2, scheduling={"priorityClassName": "high"}) == first
    assert (out / first[0]).read_text() == text
    assert len(written(trainer=TINY | {"seed": 2})) == 2
    assert len(written(trainer=TINY | {"seed": 2})) == 2
    verified = launcher("verify", "--path", str(out / first[0]))
    assert (verified.returncode, verified.stdout) == (0, f"{first[0].removesuffix('.yaml')}: is what its name says\n")


def test_a_damaged_file_of_a_run_is_not_taken_for_the_run(tmp_path: Path) -> None:
    first = launcher("render", "-f", str(FILES["laptop"]), "--out", str(tmp_path))
    file = Path(first.stdout.strip())
    assert "risk: gitops is false" in first.stderr
    file.write_text("")
    again = launcher("render", "-f", str(FILES["laptop"]), "--out", str(tmp_path))
    assert again.returncode == 65
    assert f"{file}: is there, but holds another run than its name says; restore it from Git, or remove it" in again.stderr


def test_numbers_with_an_exponent_mean_the_same_to_helm_and_trainer(tmp_path: Path) -> None:
    trainer = "{preset: tiny, pretrain: {optimizer: {lr: 1e-3}}, corpus: {sources: [{name: a, path: /data/a}]}}"
    file = tmp_path / "run.yaml"
    file.write_text(f"name: demo\ntrainer: {trainer}\n")
    run = load_run(file)
    assert run.config.pretrain.optimizer.lr == 1e-3
    annotations = run_object(render(run, NAMESPACE, HelmPackage()))["metadata"]["annotations"]
    assert json.loads(annotations["pretrain-run/identity"])["trainer"]["pretrain"]["optimizer"]["lr"] == 1e-3


def test_a_rule_refuses_with_its_words(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"name": "demo", "trainer": TINY, "shm": {"size": "64Gi"}}))
    ended = launcher("render", "-f", str(file))
    assert ended.returncode == 65
    assert ended.stdout == ""
    assert ended.stderr.startswith("launcher: P007 Job/demo-")
    assert "lower shm.size (docs/rules.md#p007)" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["render"], 2, "the following arguments are required: --file/-f"),
        (["rendr"], 2, "'rendr' is no command; did you mean render?"),
        (["render", "-f", "nowhere.yaml"], 65, "nowhere.yaml: no such run file"),
        (["list"], 1, "no cluster: "),
        (["verify"], 2, "verify needs a run, or --path FILE"),
        (["render", "-f", str(FILES["laptop"]), "--set", "nodes"], 65, "--set nodes: expected section.key=value"),
    ],
)
def test_a_wrong_command_line_gets_one_line(arguments: list[str], code: int, words: str) -> None:
    ended = launcher(*arguments)
    assert ended.returncode == code
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stdout == ""


def test_without_any_helm_the_line_says_what_to_install(tmp_path: Path) -> None:
    ended = launcher("render", "-f", str(FILES["laptop"]), PATH=str(tmp_path), PRETRAIN_RUN_HELM="binary")
    assert ended.returncode == 65
    assert "no `helm` on PATH" in ended.stderr


def test_the_launcher_never_imports_torch() -> None:
    program = (
        "import sys; from k8s.cli import main\n"
        f"try: main(['render', '-f', {str(FILES['laptop'])!r}])\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'kubernetes' not in sys.modules, 'heavy'"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr


def test_local_starts_the_same_run_under_torchrun(tmp_path: Path) -> None:
    """The command is replaced by one that prints how it was called."""
    from k8s.local import local_command

    run = load_run(FILES["job-elastic"], ["trainer.pretrain.steps=300", "processesPerNode=2", "elastic.max=2"])
    command, variables = local_command(run, "demo-1", FILES["job-elastic"], ["trainer.pretrain.steps=300"], None)
    assert command[1:7] == ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2"]
    assert command[command.index("trainer") :][:2] == ["trainer", "run"]
    assert command[-2:] == ["--set", "pretrain.steps=300"]
    assert variables == {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
