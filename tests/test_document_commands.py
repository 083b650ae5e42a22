"""Every command of the README and of docs: the test that runs it, or why none does; those of the results, run in their order."""

import re
import shlex

import pytest

from bt_jax import files
from tests.helpers import commands
from tests.helpers.launching import ROOT, launch

# What runs a command, by patterns of it: as it stands there, or with a small network on synthetic data for its folders.
RUN_BY = {
  ".ci/run": (r"pip install -r requirements(-dev)?\.txt", r"python launch\.py --config=configs/seg\.py:phantom --workdir=\S+",
              r"python -m pytest( --all)?", r'pip install "\.\[[\w,]+\]"', r"ruff (check|format) \."),
  "tests/test_readme.py": (
    r"python -m bt_jax\.datasets\.samples /tmp/bt_jax/external", r"python launch\.py --mode=predict --checkpoint=/tmp/bt_jax/phantom .*",
    r"python launch\.py --mode=(export|serve) --checkpoint=/tmp/bt_jax/phantom.*", r"python -c .*", r"python /tmp/bt_jax/phantom\.bin .*"),
  "tests/test_zoo.py": (r"python -m bt_jax\.datasets\.samples --head .*", r"python launch\.py --mode=predict --checkpoint=lgg .*"),
  "tests/test_own_data_tour.py": (
    r"python -m bt_jax\.datasets\.samples --layout=nnunet .*", r"python launch\.py (.* )?--config\.data\.root=/tmp/bt_jax/own/data.*",
    r"python launch\.py --mode=predict --checkpoint=/tmp/bt_jax/own/run .*",
    r"python launch\.py (--mode=check )?--config=configs/seg\.py:own --config\.data\.root=DIR"),
  "tests/test_corrections.py": (r"python launch\.py --config=configs/seg\.py:own \S+/corrections --config\.model\.pretrained=lgg",),
  "tests/test_published_unet.py": (r"python launch\.py .*=unet\.pt.*",),
  "tests/test_all_patients.py": (r"python launch\.py .*--config\.split\.kind=all .*", r"python launch\.py --mode=export --checkpoint=runs/lgg .*"),
  "tests/test_crossval.py": (r"python launch\.py --config=configs/seg\.py --mode=crossval( --runs='\S+'| --config\.crossval\.parallel=auto)? --workdir=\S+",),
  "tests/test_launch.py": (r"python launch\.py --mode=report .*", r"python launch\.py --mode=compare --runs=runs/first,runs/second"),
  "tests/test_warmstart.py": (r"python launch\.py --mode=convert .*", r"python launch\.py .*--config\.model\.name=resunet .*"),
  "tests/test_cascade.py": (r"python launch\.py --mode=cascade .* --sensitivity=0\.98",),
  "tests/test_hosts.py": (r"python launch\.py .* --coordinator=node1:12345 --hosts=2 --host=0",),
  "tests/conftest.py": (  # the runs that tests share
    r"python launch\.py --config=configs/cls\.py:phantom", r"python launch\.py --config=configs/(seg|cls)\.py:small --config\.data\.root=DIR"),
}  # fmt: skip
NOT_RUN = {
  "a real preset of an accelerator, for hours; every field of it is read by tests/test_configs.py": (
    r"(time )?python launch\.py --config=configs/(seg|cls)\.py( --mode=crossval)? --config\.data\.root=DIR.*",),
  "it splits by the names of real patients": (r"python launch\.py .*--config\.split\.kind=buda10 .*",),
  "it downloads the real slices": (r"kaggle .*",),
  "it needs a GPU or a TPU": (r'pip install "jax\[\w+\]"', r"python benchmarks/(step|epoch|startup)\.py.*"),
  "it needs a cluster, a cloud or Docker; its files are parsed by tests/test_cluster.py": (
    r"python3 -m venv /shared/venv", r"/shared/venv/bin/pip .*", r"mkdir -p /shared/logs", r"build=\$\(.*sbatch .*", r"sbatch .*",
    r"export POD=.*", r"bash docs/cluster/tpu_pod\.sh \w+", r"docker .*", r"kubectl .*"),
}  # fmt: skip
# Presets of the real slices, which the test below runs with a small network on synthetic slices.
HERE = (r"python launch\.py --config=configs/(seg|cls)\.py:small (--config\.split\.kind=(group|random)|--mode=crossval) .*",
        r"python launch\.py --mode=cascade --classifier=runs/cls/fold_00 --segmenter=runs/seg/fold_00")  # fmt: skip
RESULTS = ROOT / "docs/results.md"


def every_command():
  """The commands of shell blocks, without comments."""
  for path in commands.documents():
    lines = [line for block in commands.blocks(path, "sh", "bash") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines:
      yield from filter(None, (re.sub(r"(^|\s)#.*", "", part).strip() for part in line.split("&&")))


def test_every_command_is_run_by_a_test_or_has_a_reason_why_not():
  patterns = [pattern for group in (*RUN_BY.values(), *NOT_RUN.values(), HERE) for pattern in group]
  found = {command: [one for one in patterns if re.fullmatch(one, command)] for command in every_command()}
  assert [command for command, matches in found.items() if not matches] == []
  used = {one for matches in found.values() for one in matches}
  assert [one for one in patterns if one not in used] == [], "no document has such a command any more"
  assert [name for name in RUN_BY if not (ROOT / name).is_file()] == []


@pytest.mark.slow
def test_the_commands_of_the_results_run_in_the_order_of_the_page(tiny, tiny_cls, tmp_path):
  """With the flags of a small network on synthetic slices for the preset and the data, and one epoch."""
  flags_of = {"configs/seg.py:small": tiny, "configs/cls.py:small": tiny_cls}
  ran = []
  for block in commands.blocks(RESULTS, "sh"):
    for arguments in commands.program_calls(block):
      if not any(re.fullmatch(pattern, f"python launch.py {shlex.join(arguments)}") for pattern in HERE):
        continue
      preset = next((one.removeprefix("--config=") for one in arguments if one.startswith("--config=")), None)
      own = [
        one.replace("=runs/", f"={tmp_path}/runs/")
        for one in arguments
        if "=DIR" not in one and one != f"--config={preset}"
      ]
      folder = next((one for one in own if one.startswith("--workdir=")), f"--workdir={tmp_path}/runs/cascade")
      base = [*flags_of[preset], "--config.train.epochs=1"] if preset else []
      status, _, err = launch([*base, *(one for one in own if one != folder), folder])
      assert status == 0, (arguments, err)
      ran.append(folder.rpartition("/")[2])
  assert ran == ["group", "seg", "seg_random", "cls", "cls_random", "cascade"]
  summary = lambda name: files.read_json(tmp_path / "runs" / name / "summary.json", dict)
  assert [summary(name)["leaky"] for name in ran[:5]] == [False, False, True, False, True]
  assert [len(summary(name).get("folds", [])) for name in ran[:5]] == [0, 2, 0, 2, 0]


@pytest.mark.slow
def test_committed_runs_are_compared_by_the_command_of_the_page(tmp_path):
  (command,) = re.findall(r"`python launch\.py (--mode=compare [^`]*)`", RESULTS.read_text(encoding="utf-8"))
  status, _, err = launch([*shlex.split(command), f"--workdir={tmp_path}"])
  assert status == 0, err
  comparison = files.read_json(tmp_path / "comparison.json", dict)["headline"]
  text = RESULTS.read_text(encoding="utf-8")
  for name, written in (
    ("pooled_dice", "pooled {:+.4f}"),
    ("dice_mean", "mean of volumes\n{:+.3f}"),
    ("false_positive_rate", "false alarms {:+.3f}"),
  ):
    assert written.format(comparison[name]["difference"]).replace("0.", ".", 1) in text
