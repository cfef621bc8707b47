"""What mkdocs makes of docstrings, put right: they are reStructuredText in two places."""

from __future__ import annotations

import re
from typing import Any


def on_page_content(html: str, **_: Any) -> str:
    """Without the roles of references (``:class:``), and with one colon before a block of code."""
    html = re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)
    return re.sub(r"::(?=</p>)", ":", html)
