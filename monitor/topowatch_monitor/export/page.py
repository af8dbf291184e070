"""The page as one string, and a policy that lets nothing but its own style and script run."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files
from typing import Final

HTML: Final = files("topowatch_monitor.export").joinpath("page.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", HTML, flags=re.DOTALL)
    return "'sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() + "'"


CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
