"""The base distribution, installed from its wheel beside torch alone, on every supported Python found here.

Slow and heavy (a torch for every interpreter), so not part of `make test`: `make test-install`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client_daemon import RecordingDaemon, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PROTOBUFS = ("4.25", "5.29", "6.33", "7")
STEPS = 20
TRAINING = """
    import sys
    import warnings
    import google.protobuf
    import torch
    from torch import nn
    import topowatch_client

    warnings.simplefilter("error")
    # What protobuf 4.25 itself warns of on Python 3.12 and later.
    warnings.filterwarnings("ignore", message="Type google._upb", category=DeprecationWarning)
    assert google.protobuf.__version__.startswith(sys.argv[1]), google.protobuf.__version__
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters())
    inputs, targets = torch.randn(32, 8), torch.randint(0, 3, (32,))
    watch = topowatch_client.attach(model, optimizer, probe=(inputs, targets), config={"interval": 1})
    for _ in range(%d):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        watch.log(loss=loss)
    watch.finish(accuracy=0.5)
    status = watch.status
    assert (status["failures"], status["error"]) == (0, None), status
    assert not {"ray", "topowatch_monitor", "grpc"} & set(sys.modules)
"""


def interpreter(version: str) -> Path | None:
    """Find a Python on the path, or among those that pyenv keeps."""
    found = shutil.which(f"python{version}")
    kept = sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob(f"versions/{version}.*/bin/python"))
    for candidate in [*kept, *([Path(found)] if found else [])]:
        done = subprocess.run([candidate, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and f"Python {version}." in done.stdout:
            return candidate
    return None


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip(Path(sys.executable), "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(ROOT))
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module", params=PYTHONS)
def clean(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the Python of an environment that holds torch and topowatch's base distribution."""
    python = interpreter(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param} here")
    environment = tmp_path_factory.mktemp(f"python-{request.param}")
    subprocess.run([python, "-m", "venv", environment], check=True)
    own = environment / "bin" / "python"
    pip(own, "install", "torch")
    pip(own, "install", str(wheel))
    yield own
    shutil.rmtree(environment)


def pip(python: Path, *arguments: str) -> None:
    done = subprocess.run([python, "-m", "pip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("protobuf", PROTOBUFS)
def test_a_training_is_watched_from_a_clean_environment(clean: Path, protobuf: str, tmp_path: Path) -> None:
    """Attach, train, ship through the forwarder, finish; then the commands of the base install."""
    pip(clean, "install", f"protobuf=={protobuf}.*" if protobuf != "7" else "protobuf>=7,<8")
    daemon = RecordingDaemon().start()
    try:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOPOWATCH_", "PYTHON"))}
        environment = {**kept, "TOPOWATCH_ENDPOINT": daemon.endpoint, "TOPOWATCH_SPOOL_DIR": str(tmp_path / "spool")}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [clean, *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
            )

        done = run("-c", textwrap.dedent(TRAINING % STEPS), protobuf)
        assert done.returncode == 0, done.stderr
        eventually(lambda: any(item.HasField("end") for item in daemon.bodies()))
        steps = [item.sample.step for item in daemon.bodies() if item.sample.weights.values]
        assert steps == list(range(STEPS))
        command = str(clean.with_name("topowatch"))
        assert run(command, "doctor").stdout.count("ok  ") >= 5
        assert run(command, "sync", str(tmp_path / "spool")).returncode in (0, 1)
        refused = run(command, "serve")
        assert refused.returncode != 0
        assert "topowatch[monitor]" in refused.stderr
    finally:
        daemon.stop()
