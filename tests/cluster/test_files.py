"""The cluster files for ray up, KubeRay and Slurm, checked without a cluster."""

import copy
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PINS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def ray_up() -> dict[str, Any]:
    config = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())
    assert isinstance(config, dict)
    return config


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    files = (yaml.safe_load((CLUSTER / name).read_text()) for name in ("store.yaml", "rayjob.yaml"))
    return {manifest["kind"]: manifest for manifest in files}


def test_ray_accepts_the_ray_up_file(ray_up: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(ray_up)))


def test_ray_refuses_the_ray_up_file_with_a_misspelt_key(ray_up: dict[str, Any]) -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    with pytest.raises(ValidationError):
        validate_config(prepare_config({**copy.deepcopy(ray_up), "max_wrokers": 2}))


def test_every_file_names_the_pinned_ray(ray_up: dict[str, Any], manifests: dict[str, dict[str, Any]]) -> None:
    assert f":{PINS['ray']}-" in ray_up["docker"]["image"]
    assert manifests["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == PINS["ray"]
    assert f":{PINS['ray']}-" in (CLUSTER / "Dockerfile").read_text()


def test_the_ray_up_dashboard_listens_on_localhost_only(ray_up: dict[str, Any]) -> None:
    head = " ".join(ray_up["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head and "0.0.0.0" not in head


def test_the_ray_job_has_the_fields_that_kuberay_requires(manifests: dict[str, dict[str, Any]]) -> None:
    job = manifests["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?", job["metadata"]["name"])
    spec = job["spec"]
    assert set(spec) <= {
        "entrypoint",
        "submissionMode",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "backoffLimit",
        "rayClusterSpec",
    }
    cluster = spec["rayClusterSpec"]
    assert set(cluster) == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert set(group) == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_every_pod_of_the_ray_job_mounts_the_store(manifests: dict[str, dict[str, Any]]) -> None:
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    claim = manifests["PersistentVolumeClaim"]
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"] == {"fsGroup": 100}, "the group of the image's user"
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes["store"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        for container in pod["containers"]:
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(mounts) == set(volumes)
            assert mounts["store"] in manifests["RayJob"]["spec"]["entrypoint"].split()
            resources = container["resources"]
            assert resources["requests"] == resources["limits"], "Ray reads its resources from the limits"


def test_w2s_parses_the_commands_of_the_cluster_files(manifests: dict[str, dict[str, Any]]) -> None:
    import typer

    from w2s_ray.cli.main import app

    script = (CLUSTER / "slurm.sh").read_text()
    slurm = re.search(r"^ +w2s (run .*)$", script, re.MULTILINE)
    assert slurm is not None
    entrypoint = manifests["RayJob"]["spec"]["entrypoint"].removeprefix("w2s ")
    group = typer.main.get_command(app)
    for line in (entrypoint, slurm.group(1)):
        verb, *arguments = line.split()
        group.commands[verb].make_context(verb, [word.strip('"') for word in arguments])  # type: ignore[attr-defined]


def test_bash_parses_the_slurm_script() -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / "slurm.sh")], check=True)


def test_the_slurm_script_starts_one_ray_on_each_node() -> None:
    script = (CLUSTER / "slurm.sh").read_text()
    assert script.startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in script
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", script, re.MULTILINE))
    assert options["ntasks-per-node"] == "1" and "exclusive" in options
    first_command = script.index("set -euo")
    assert all(at < first_command for at in (match.start() for match in re.finditer(r"^#SBATCH", script, re.MULTILINE)))


def test_every_variable_of_the_slurm_script_is_quoted() -> None:
    script = (CLUSTER / "slurm.sh").read_text()
    code = "\n".join(line for line in script.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    for line in code.splitlines():
        if re.match(r"\w+=\$", line):
            continue  # an assignment splits nothing
        assert "$" not in re.sub(r'"[^"]*"', "", line), line


@pytest.fixture
def submitted(tmp_path: Path) -> Callable[[], list[str]]:
    """Run the script with stubs of Slurm's and Ray's commands; they print their arguments."""
    for name, body in {
        "scontrol": "echo node-a; echo node-b",
        "ray": "echo $@ >> ray-calls; mkdir -p ~/.ray; echo secret | tee ~/.ray/auth_token",
        "srun": 'case "${!#}" in --ip-address) echo 10.0.0.1 10.0.0.2;; *) printf "%s\\n" "$RAY_AUTH_MODE" "$@"; esac',
    }.items():
        stub = tmp_path / name
        stub.write_text(f"#!/bin/bash\n{body}\n")
        stub.chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path / "home"),
        "SLURM_JOB_NODELIST": "node-[a-b]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "W2S_STORE": "/shared/store",
    }

    def submit() -> list[str]:
        script = ["bash", str(CLUSTER / "slurm.sh"), "my study.yaml"]
        done = subprocess.run(script, env=variables, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return submit


def test_the_slurm_script_runs_the_study_through_ray(submitted: Callable[[], list[str]]) -> None:
    lines = submitted()
    assert lines[lines.index("--address") + 1] == "10.0.0.1:6379"
    assert lines[lines.index("--") + 1 :] == "w2s,run,my study.yaml,--store,/shared/store,--address,auto".split(",")
    assert "--num-gpus=0" in lines and "--min-nodes" in lines


def test_every_node_of_a_slurm_job_uses_one_token(submitted: Callable[[], list[str]], tmp_path: Path) -> None:
    for _ in range(2):
        lines = submitted()
        assert lines[0] == "token" and "secret" not in lines, "the job's log does not show the token"
    assert (tmp_path / "ray-calls").read_text() == "get-auth-token --generate\n", "an existing token is kept"


def test_deleting_the_ray_job_keeps_its_store() -> None:
    (job,) = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
    assert job["kind"] == "RayJob"
    assert f"kubectl delete rayjob {job['metadata']['name']}" in (CLUSTER / "rayjob.yaml").read_text()
