"""The page: what it may load, and how it treats what clients named themselves."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

from topowatch_monitor.export import page


def test_the_page_loads_nothing_from_elsewhere():
    assert not re.search(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", page.HTML)
    assert "@import" not in page.HTML
    assert "url(" not in page.HTML
    allowed = {"http://www.w3.org/2000/svg"}
    assert set(re.findall(r"https?://[^\s\"'<>]+", page.HTML)) <= allowed


def test_the_policy_names_exactly_the_script_and_style_that_are_there():
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page.HTML, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in page.CONTENT_SECURITY_POLICY
    assert "unsafe" not in page.CONTENT_SECURITY_POLICY


def test_nothing_in_the_page_would_be_stopped_by_its_policy():
    """Inline handlers and style attributes are not covered by the hashes, so there may be none."""

    class Attributes(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            for name, _ in attrs:
                assert not name.startswith("on"), (tag, name)
                assert name != "style", tag

    Attributes().feed(page.HTML)


def test_text_from_clients_is_never_parsed_as_markup():
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in page.HTML


def test_the_empty_page_says_how_to_attach_a_run():
    assert "from topowatch_client import attach" in page.HTML
    assert "TOPOWATCH_ENDPOINT" in page.HTML


def test_every_verdict_has_a_style():
    from topowatch_monitor.export.collector import VERDICTS

    for verdict in VERDICTS:
        assert re.search(rf"^\.{verdict} {{", page.HTML, flags=re.MULTILINE)
        assert f'"{verdict}"' in page.HTML


def test_the_page_tells_classes_and_why_an_outlier_is_a_warning():
    assert '["Class", "number"' in page.HTML
    assert "classes withheld: " in page.HTML
    assert 'detector: "path_outlier"' in page.HTML
    assert "takes another route than its siblings" in page.HTML


def test_a_report_holds_its_answers_where_no_name_can_end_them():
    evil = "</script><script>window.evil=1</script><!--"
    told = {"group": evil, "tenant": "t", "made_at": 0.0, "answers": {"runs": {evil: math.nan}}, "problems": {}}
    document = page.report(told)
    [data] = re.findall(r'<script type="application/json" id="stored">(.*?)</script>', document, flags=re.DOTALL)
    assert json.loads(data) == {**told, "answers": {"runs": {evil: None}}}
    assert "window.evil" not in re.sub(re.escape(data), "", document)


def test_a_report_may_run_what_the_page_may_and_reach_nothing():
    document = page.report({"group": "g", "tenant": "t", "made_at": 0.0, "answers": {}, "problems": {}})
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', document)
    assert "connect-src" not in policy
    assert "default-src 'none'" in policy
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", document, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in policy
