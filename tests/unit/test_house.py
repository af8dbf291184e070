"""The rules of the house that a machine can check: which way arrows point, who knows Ray, how long a file is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MONITOR = ROOT / "monitor" / "topowatch_monitor"
ROOMS = {
    "protos": (ROOT / "protos", ()),
    "client": (ROOT / "client", ("topowatch_protos",)),
    "topology": (MONITOR / "topology", ()),
    "detect": (MONITOR / "detect", ("topowatch_monitor.topology",)),
    "forecast": (MONITOR / "forecast", ("topowatch_monitor.topology",)),
    "store": (MONITOR / "store", ("topowatch_protos.framing",)),
    "access": (MONITOR / "access", ()),
    "ingest": (MONITOR / "ingest", ("topowatch_monitor.access", "topowatch_monitor.store", "topowatch_protos")),
    "engine": (
        MONITOR / "engine",
        (
            "topowatch_monitor.detect",
            "topowatch_monitor.forecast",
            "topowatch_monitor.topology",
            "topowatch_monitor.store",
            "topowatch_protos",
        ),
    ),
    "export": (
        MONITOR / "export",
        (
            "topowatch_monitor.access",
            "topowatch_monitor.engine",
            "topowatch_monitor.detect",
            "topowatch_monitor.store",
            "topowatch_protos",
        ),
    ),
}
OWN = {"protos": "topowatch_protos", "client": "topowatch_client"}
PURE = {"topology", "detect", "forecast"}
PURE_LIBRARIES = {"numpy", "scipy", "sklearn", "gtda", "gph", "ripser"}
STANDARD = {"__future__", "collections", "dataclasses", "functools", "math", "typing", "warnings"}


def sources(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "_pb2" not in path.name]


def imports(path: Path) -> set[str]:
    """Modules, and names in modules, that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, roots: tuple[str, ...]) -> bool:
    return any(module == root or module.startswith(f"{root}.") for root in roots)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_one_way(room: str) -> None:
    folder, allowed = ROOMS[room]
    own = OWN.get(room, f"topowatch_monitor.{room}")
    for path in sources(folder):
        ours = {module for module in imports(path) if module.startswith("topowatch_")}
        strangers = {module for module in ours if not within(module, (own, *allowed))}
        assert not strangers, f"{path.relative_to(ROOT)} imports {strangers}"


@pytest.mark.parametrize("room", sorted(PURE))
def test_pure_rooms_import_only_mathematics(room: str) -> None:
    for path in sources(ROOMS[room][0]):
        roots = {module.partition(".")[0] for module in imports(path)} - {"topowatch_monitor"}
        assert roots <= PURE_LIBRARIES | STANDARD, path


def test_one_file_knows_ray() -> None:
    knowing = [
        path.name for path in sources(ROOT / "monitor") if any(within(module, ("ray",)) for module in imports(path))
    ]
    assert knowing == ["ray_pool.py"]


def test_frameworks_are_known_to_their_integrations_alone() -> None:
    """One file each, so that nobody imports a framework who does not use it."""
    frameworks = {"lightning", "pytorch_lightning", "transformers", "accelerate", "ray"}
    knowing = {
        path.stem: known
        for path in sources(ROOT / "client")
        if (known := {module.partition(".")[0] for module in imports(path)} & frameworks)
    }
    assert knowing == {
        "lightning": {"lightning", "pytorch_lightning"},
        "transformers": {"transformers"},
        "accelerate": {"accelerate"},
        "ray_train": {"ray"},
    }


def test_integrations_use_the_public_face_alone() -> None:
    """And what tells the job's own exceptions from ours."""
    folder = ROOT / "client" / "topowatch_client" / "integrations"
    for path in sources(folder):
        ours = {module for module in imports(path) if within(module, ("topowatch_client",))}
        public = ("attach", "Watch", "integrations.attachment", "guard.from_signal_handler")
        assert all(within(module, tuple(f"topowatch_client.{name}" for name in public)) for module in ours), path


def test_files_stay_short_and_init_files_define_nothing() -> None:
    for path in [*sources(ROOT / "protos"), *sources(ROOT / "client"), *sources(ROOT / "monitor")]:
        text = path.read_text()
        assert len(text.splitlines()) <= 420, path
        if path.name == "__init__.py":
            kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            assert not [node for node in ast.parse(text).body if isinstance(node, kinds)], path
