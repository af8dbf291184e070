"""What the daemon's front loads: it is to be there soon after a start, and no Ray driver."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
import topowatch_monitor.serve
from topowatch_monitor.commands.app import application
application()
print([name for name in ("ray", "scipy", "sklearn", "gtda", "ripser", "torch") if name in sys.modules])
"""


def test_the_front_of_a_daemon_on_ray_loads_nothing_that_computes():
    """The engine host does: imports of both, one after the other, would be half of a restart."""
    found = subprocess.run([sys.executable, "-c", LOOK], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
