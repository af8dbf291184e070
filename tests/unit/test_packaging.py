"""What importing and installing topowatch brings along, and that its generated code is what the .proto files say."""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import unavailable

ROOT = Path(__file__).parents[2]
PROTOS = ROOT / "protos"
FRAMEWORKS = {
    "lightning": "pytorch_lightning",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "ray_train": "ray",
}  # by the integration that imports them


def loaded_by(statement: str) -> set[str]:
    """Top-level modules after a statement in a fresh interpreter."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_client_loads_nothing_of_the_monitor_and_no_framework() -> None:
    heavy = {"ray", "gtda", "pyarrow", "topowatch_monitor", "torch", "grpc", *FRAMEWORKS.values()}
    assert not heavy & loaded_by("import topowatch_client, topowatch_client.integrations.attachment")


@pytest.mark.parametrize("integration", FRAMEWORKS)
def test_an_integration_without_its_framework_says_in_one_sentence_what_is_missing(integration: str) -> None:
    module = f"topowatch_client.integrations.{integration}"
    hide = f"import sys; sys.modules.update(dict.fromkeys({[*FRAMEWORKS.values(), 'lightning']}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}; import {module}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.match(rf"ModuleNotFoundError: {module} needs .*: pip install ", done.stderr.splitlines()[-1])


def test_attaching_loads_neither_grpc_nor_the_monitor(tmp_path: Path) -> None:
    """Channels of gRPC do not survive the fork of DataLoader workers, so the trainer must not even import it."""
    code = (
        "import os, torch, topowatch_client\n"
        f"os.environ.update(TOPOWATCH_SPOOL_DIR={str(tmp_path)!r}, TOPOWATCH_MODE='offline')\n"
        "model = torch.nn.Linear(3, 2)\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        "watch = topowatch_client.attach(model, optimizer)\n"
        "model(torch.ones(1, 3)).sum().backward(); optimizer.step(); watch.finish()\n"
        "assert watch.status['samples'] == 1, watch.status"
    )
    assert not {"ray", "gtda", "pyarrow", "topowatch_monitor", "grpc"} & loaded_by(code)


def test_the_front_never_imports_ray() -> None:
    """A Ray driver that loses its cluster for a minute ends its own process."""
    assert "ray" not in loaded_by("import topowatch_monitor.serve")


def test_no_package_is_named_for_a_folder(tmp_path: Path) -> None:
    code = "import importlib.util as u; print([name for name in ('client', 'monitor', 'protos') if u.find_spec(name)])"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for folder in ("client", "monitor", "protos"):
        assert not (ROOT / folder / "__init__.py").exists()


def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    """Built without isolation from the environment's own hatchling."""
    pytest.importorskip("hatchling")
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    listing = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True)
    roots = set(re.findall(r"^([\w.-]+)/", listing.stdout, re.MULTILINE))
    assert {root for root in roots if not root.endswith(".dist-info")} == {
        "topowatch_protos", "topowatch_client", "topowatch_monitor",
    }  # fmt: skip
    for part in ("page.html", "page.css", "page.js", "drawings.js"):
        assert f"topowatch_monitor/export/web/{part}" in listing.stdout
    assert "topowatch_client/py.typed" in listing.stdout


def test_regenerating_the_protos_changes_nothing(tmp_path: Path) -> None:
    if not (ROOT / ".venv-protos" / ".installed").exists():
        unavailable("the code generator is not installed: run `make install`")
    subprocess.run(["make", "protos", f"PROTOS_OUT={tmp_path}"], cwd=ROOT, check=True, capture_output=True)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*"))
    kept = sorted(path.relative_to(PROTOS) for path in PROTOS.rglob("*_pb2*") if "__pycache__" not in path.parts)
    assert made == kept
    assert made
    for path in made:
        assert filecmp.cmp(tmp_path / path, PROTOS / path, shallow=False), path
