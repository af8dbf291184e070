"""Writes the Grafana dashboards as JSON beside this file: `make dashboards`, or generate.py FOLDER for elsewhere."""
# ruff: noqa: INP001 - a script, and the folder is no package

from __future__ import annotations

import json
import sys
from pathlib import Path

import daemon
import fleet
import forecasts
import path_classes
import run
from grafana_foundation_sdk.cog.encoder import JSONEncoder

DASHBOARDS = {
    "daemon": daemon.dashboard,
    "fleet": fleet.dashboard,
    "forecasts": forecasts.dashboard,
    "path-classes": path_classes.dashboard,
    "run": run.dashboard,
}


def main(folder: Path) -> None:
    """Write every dashboard into `folder`."""
    for name, make in DASHBOARDS.items():
        made = make().build()
        for number, panel in enumerate(made.panels or [], start=1):
            panel.id_val = number  # Grafana wants them to differ, rows included
        text = json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
