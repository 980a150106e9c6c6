"""The live page in a real browser: a question typed in, votes by temperature, the texts, the verdict."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TYPED = """<script>
at("question").value = %r; at("rule").value = %r; at("temperatures").value = "0.5, 1.0"; at("samples").value = "6";
at("form").requestSubmit();
</script>"""


def shown(served, tmp_path, question, rule):
    """The page's body after the question was typed in and answered."""
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    from fastsample.serving.app import PAGE, SAFE

    typed = PAGE.read_text() + TYPED % (question, rule)
    route = Route("/typed", lambda request: HTMLResponse(typed, headers=SAFE))
    served.service.app.router.routes.append(route)
    try:
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
        command += ["--timeout=20000", "--virtual-time-budget=30000", "--dump-dom", served.url + "/typed"]
        for _ in range(4):  # the browser's clock does not wait for a machine that is busy
            page = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
            if re.search(r'id="answer"[^>]*>[^<]', page):
                break
    finally:
        served.service.app.router.routes.remove(route)
    return page


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed: the page is looked at without a browser alone")
def test_a_vote_in_a_browser(served, tmp_path):
    """The answer, its votes at each temperature, every text; and a rule that there is not is told."""
    page = shown(served, tmp_path, "2 + 2?", "majority")
    answer = re.search(r'id="answer"[^>]*>answer: (\d)<', page)
    assert answer, page[-3000:]
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    assert [re.search(r"<td>([\d.]+)<", row)[1] for row in rows[1:]] == ["0.5", "1"]
    assert page.count('class="text ended"') == 12
    assert "24 tokens written" in page
    assert "no rule is called" in shown(served, tmp_path, "2 + 2?", "nonsense")
