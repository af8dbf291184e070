"""The page as one document, and a policy that lets nothing but its own style and script run."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from topowatch_monitor.export.strict_json import dumps

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEB = files("topowatch_monitor.export").joinpath("web")
_SCRIPTS = ("common", "drawings", "focus", "fleet", "page")  # in this order, as one


def _read(name: str) -> str:
    return _WEB.joinpath(name).read_text(encoding="utf-8")


_STYLE: Final = "\n" + _read("page.css")
_SCRIPT: Final = '\n"use strict";\n' + "\n".join(_read(f"{name}.js") for name in _SCRIPTS)
HTML: Final = _read("page.html").replace("\n/*style*/\n", _STYLE).replace("\n/*script*/\n", _SCRIPT)


def _hash(content: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


_OWN: Final = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
CONTENT_SECURITY_POLICY: Final = f"{_OWN}; connect-src 'self'; frame-ancestors 'none'"


def report(told: Mapping[str, Any]) -> str:
    """Return the page with answers of a daemon in it: a file that shows them without one.

    Args:
        told: group, tenant, made_at (Unix seconds), answers by path below /api/v1/, and problems, in words, likewise.
    """
    # "<" in a name must not end the element that it is in.
    data = dumps(told).decode().replace("<", "\\u003c")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_OWN}">\n<title>'
    told_here = f'<script type="application/json" id="stored">{data}</script>'
    return HTML.replace("<title>", policy, 1).replace("<!--stored-->", told_here, 1)
