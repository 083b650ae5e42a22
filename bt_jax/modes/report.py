"""Writes the page of a run again."""

import pathlib

from bt_jax.errors import UserError
from bt_jax.reporting.page import html
from configs import saved


def report(workdir: pathlib.Path | None, show_slices: bool | None) -> None:
  """Writes `report.html` of the run in `workdir` again, from its tables and images alone.

  Args:
    workdir: the folder of a run, of pooled folds or of a cascade.
    show_slices: whether the page shows slices; None: as the run's configuration says.

  Raises:
    UserError: there is no folder, or it holds no finished run.
  """
  if workdir is None:
    raise UserError("--mode=report needs the folder of a finished run: --workdir=RUN")
  if show_slices is None:
    config = saved.read(workdir) if (workdir / "config.json").is_file() else {}
    show_slices = config.get("report", {}).get("show_slices", True)
  print(f"written:\n  {html.write_report(workdir, show_slices=show_slices)}")
