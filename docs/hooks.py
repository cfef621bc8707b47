"""What mkdocs makes of Markdown and docstrings, put right when the pages are built.

Formulas become MathML, which browsers draw without a script or a font from elsewhere. Docstrings are reStructuredText
in two places.
"""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(div|span) class="arithmatex">\\[\[(](.*?)\\[\])]</\1>', re.DOTALL)
_VERBATIM = re.compile(r"(<(pre|code|math|script|svg)\b.*?</\2>|<[^>]*>)", re.DOTALL)
_SUBSCRIPT = re.compile(r"(?<!\w)([A-Za-zθφα∇])_(?:\{([^}]*)\}|([0-9]+|[tτ])(?!\w))")


def on_page_content(html: str, **_: Any) -> str:
    """Formulas in MathML, subscripts, no roles of references (``:class:``), one colon before a block of code."""
    html = _FORMULA.sub(lambda found: _mathml(found[2], display=found[1] == "div"), html)
    html = re.sub(r":(?:attr|class|func|meth|mod):(?=<code>)", "", html)
    html = re.sub(r"::(?=</p>)", ":", html)
    return _outside_of_code(html)


def _mathml(formula: str, display: bool) -> str:
    """``formula``, in TeX, as MathML.

    Raises:
        ValueError: If something in it was not understood, which the converter leaves as it is.
    """
    made = convert(unescape(formula).strip(), display="block" if display else "inline")
    if re.search(r">\s*[&\\]", made.replace("&#x", "")):
        raise ValueError(f"latex2mathml does not know everything in {formula!r}")
    return made


def _outside_of_code(html: str) -> str:
    """With subscripts in what is neither a tag nor code nor a formula."""
    pieces, end = [], 0
    for found in _VERBATIM.finditer(html):
        pieces += [_subscripts(html[end : found.start()]), found[0]]
        end = found.end()
    return "".join([*pieces, _subscripts(html[end:])])


def _subscripts(text: str) -> str:
    return _SUBSCRIPT.sub(lambda found: f"{found[1]}<sub>{found[2] or found[3]}</sub>", text)
