"""The commands of documents, as a shell would read them, and what our command line takes of them."""

import importlib
import pathlib
import re
import shlex

from bt_jax import cli
from tests.helpers.launching import ROOT

PROGRAM = re.compile(r"(?:launch\.py|(?:^|\s)bt-jax)(?=\s)")


def documents() -> list[pathlib.Path]:
  """The README and every page of the documentation."""
  return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: pathlib.Path, *languages: str) -> list[str]:
  """The fenced blocks of a document in these languages."""
  fenced = re.findall(r"^```(\w+)\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
  return [block for language, block in fenced if language in languages]


def program_calls(script: str) -> list[list[str]]:
  """The arguments of each call of our program in a shell script."""
  joined = script.replace("\\\n", " ")
  calls = []
  for line in joined.splitlines():
    for command in re.split(r"&&|\|\||;", line):
      command = re.sub(r"(^|\s)#.*", "", command)
      if match := PROGRAM.search(command):
        calls.append(
          shlex.split(
            command[match.end() :].rstrip().rstrip("\"'") if command.count('"') % 2 else command[match.end() :]
          )
        )
  return calls


def unknown_flags(arguments: list[str]) -> list[str]:
  """The arguments that no mode, or not the mode that they name, takes."""
  if arguments and arguments[0] in cli.MODES:
    arguments = [f"--mode={arguments[0]}", *arguments[1:]]
  given = {}
  for argument in arguments:
    name, equals, value = argument.removeprefix("--").partition("=")
    if not argument.startswith("--"):
      return [argument]
    given[name] = value if equals else True
  mode = given.pop("mode", "train")
  if mode not in cli.MODES:
    return [f"--mode={mode}"]
  file, _, preset = str(given.pop("config", "")).partition(":")
  config = _config(file, preset) if file else None
  wrong = []
  for name in given:
    if name.startswith("config."):
      found = config is not None and "config" in cli.MODES[mode] and _has(config, name.split(".")[1:])
    else:
      found = name in cli.MODES[mode]
    wrong += [] if found else [f"--{name} of mode {mode}"]
  return wrong


def _config(file: str, preset: str):
  module = importlib.import_module(f"configs.{pathlib.Path(file).stem}")
  return module.get_config(preset) if preset else module.get_config()


def _has(config, names: list[str]) -> bool:
  for name in names:
    if name not in config:
      return False
    config = config[name]
  return True
