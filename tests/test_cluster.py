"""The scripts and manifests of docs/cluster, as SLURM, a shell and Kubernetes read them."""

import os
import re
import signal
import subprocess

import pytest
import yaml

from bt_jax.errors import HostLost, Stopped, UserError
from tests.helpers import commands
from tests.helpers.launching import ROOT

FOLDER = ROOT / "docs/cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
PAGE = ROOT / "docs/cluster.md"
CONTEXT = r"(?:^#!/bin/bash\n)((?:#SBATCH --.*\n)+)"


def manifest(name):
  return list(yaml.safe_load_all((FOLDER / f"kubernetes_{name}.yaml").read_text()))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_shell_that_calls_our_program_with_flags_it_takes(path):
  subprocess.run(["bash", "-n", path], check=True)
  calls = commands.program_calls(path.read_text())
  assert len(calls) == 1 and commands.unknown_flags(calls[0]) == []


@pytest.mark.parametrize("block", commands.blocks(PAGE, "sh"))
def test_a_block_of_the_page_is_shell(block):
  subprocess.run(["bash", "-n"], input=block, text=True, check=True)
  for name in re.findall(r"docs/cluster/\w+\.\w+|docker/Dockerfile\.\w+", block):
    assert (ROOT / name).is_file(), name


@pytest.mark.parametrize(
  "path", [path for path in SCRIPTS if path.name.startswith("slurm")], ids=lambda path: path.name
)
def test_slurm_is_asked_for_time_processors_and_memory(path):
  options = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", re.search(CONTEXT, path.read_text())[1], re.M))
  assert {"time", "cpus-per-task", "mem", "output"} <= options.keys()
  assert re.fullmatch(r"\d\d:\d\d:\d\d", options["time"])
  if "srun" in path.read_text():
    assert "requeue" in options and options["signal"] == "TERM@300" and options["open-mode"] == "append"


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (143, True)])
@pytest.mark.parametrize(("name", "job"), [("slurm_folds.sh", "77_4"), ("slurm_hosts.sh", "99")])
def test_a_job_that_was_stopped_by_a_signal_queues_itself_again_and_no_other(name, job, status, requeued, tmp_path):
  """With programs in the place of SLURM's that write down what they are called with."""
  programs = {"srun": f'echo "$@" > {tmp_path}/started; exit {status}', "scontrol": f'echo "$@" > {tmp_path}/asked'}
  for program, line in programs.items():
    (tmp_path / program).write_text(f"#!/bin/bash\n{line}\n")
    (tmp_path / program).chmod(0o755)
  (tmp_path / "activate").write_text("")
  script = (FOLDER / name).read_text().replace("/shared/venv/bin/activate", str(tmp_path / "activate"))
  script = script.replace("cd /shared/bt_jax", f"cd {tmp_path}")
  variables = {
    "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "99", "SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "4",
    "SLURM_CPUS_PER_TASK": "8",
  }  # fmt: skip
  done = subprocess.run(["bash"], input=script, text=True, env=variables, capture_output=True)
  assert done.returncode == status, done.stderr
  started = (tmp_path / "started").read_text()
  assert "python launch.py --config=configs/seg.py" in started
  if name == "slurm_folds.sh":
    assert "--config.split.fold=4 " in started and "fold_04" in started
  asked = (tmp_path / "asked").read_text() if (tmp_path / "asked").exists() else ""
  assert asked == (f"requeue {job}\n" if requeued else "")


def test_the_pod_script_refuses_what_it_does_not_know_and_asks_for_the_disk(tmp_path):
  (tmp_path / "gcloud").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/calls\n')
  (tmp_path / "gcloud").chmod(0o755)
  variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
  call = lambda *words, **more: subprocess.run(
    ["bash", FOLDER / "tpu_pod.sh", *words], env=variables | more, capture_output=True, text=True
  )
  assert "FILESTORE" in call("train").stderr
  given = {"FILESTORE": "10.0.0.2:/share", "POD": "mine", "ZONE": "here"}
  assert "not restart" in call("restart", **given).stderr
  for word in ("create", "install", "train", "delete"):
    assert call(word, **given).returncode == 0
  create, install, train, delete = (tmp_path / "calls").read_text().splitlines()
  assert all("mine --zone=here" in line for line in (create, install, train, delete))
  assert "mount 10.0.0.2:/share /shared" in install and "jax[tpu]" in install
  assert "--worker=all" in train and "--coordinator=auto" in train


@pytest.mark.parametrize("name", ["hosts", "folds"])
def test_a_job_has_the_shape_that_kubernetes_expects(name):
  job = manifest(name)[-1]
  assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
  spec, pod = job["spec"], job["spec"]["template"]["spec"]
  assert set(spec) <= {
    "completions", "parallelism", "completionMode", "backoffLimit", "backoffLimitPerIndex", "maxFailedIndexes", "podFailurePolicy", "template",
  }  # fmt: skip
  assert spec["completionMode"] == "Indexed"
  (container,) = pod["containers"]
  # Both limits per index and the policy are for pods that are never restarted in place.
  assert pod["restartPolicy"] == "Never" and spec.keys() & {"backoffLimit", "backoffLimitPerIndex"}
  # Bad input ends what it concerns; SIGTERM, a lost host and a killed pod are none of it.
  (rule,) = spec["podFailurePolicy"]["rules"]
  assert rule["action"] == ("FailIndex" if "backoffLimitPerIndex" in spec else "FailJob")
  assert rule["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [UserError.exit_code]}
  assert UserError.exit_code not in (HostLost.exit_code, Stopped(1, signal.SIGTERM).exit_code)
  volumes = {volume["name"]: volume for volume in pod["volumes"]}
  mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
  assert set(mounts.values()) == set(volumes)
  assert volumes[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
  assert volumes[mounts["/shared"]]["persistentVolumeClaim"]["claimName"]
  assert {"nvidia.com/gpu", "cpu", "memory"} == set(container["resources"]["limits"])
  program, script, *arguments = container["command"]
  assert (program, script) == ("python", "launch.py") and commands.unknown_flags(arguments) == []
  assert f"-t {container['image']} " in PAGE.read_text()  # as the page builds it


def test_the_pods_of_one_run_find_the_first():
  service, job = manifest("hosts")
  arguments = dict(
    argument.split("=", 1) for argument in job["spec"]["template"]["spec"]["containers"][0]["command"][2:]
  )
  name, domain = job["metadata"]["name"], job["spec"]["template"]["spec"]["subdomain"]
  assert service["metadata"]["name"] == domain and service["spec"]["clusterIP"] == "None"
  assert service["spec"]["selector"] == {"job-name": name}
  assert (
    arguments["--coordinator"].startswith(f"{name}-0.{domain}:") and arguments["--host"] == "$(JOB_COMPLETION_INDEX)"
  )
  assert job["spec"]["completions"] == job["spec"]["parallelism"] == int(arguments["--hosts"])


def test_every_fold_has_a_pod_and_a_job():
  from bt_jax.datasets.lgg_mri.constants import FOLDS

  assert manifest("folds")[0]["spec"]["completions"] == FOLDS
  assert f"#SBATCH --array=0-{FOLDS - 1}\n" in (FOLDER / "slurm_folds.sh").read_text()
