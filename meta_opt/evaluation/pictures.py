"""Figures that notebooks show. This module imports matplotlib; import it where a figure is drawn."""

from __future__ import annotations

from io import BytesIO

from matplotlib.figure import Figure

_DPI = 100  # in a notebook, whose pages are about eight inches wide


class Picture(Figure):
    """A figure that a notebook shows as a picture; of others, which ``pyplot`` has not made, it shows the name."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=_DPI)
        return content.getvalue()
