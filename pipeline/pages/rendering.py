"""Make a page: one HTML file that opens offline, from a template that extends frame.html."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import TYPE_CHECKING, Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCRIPTS = ("gallery.js", "table.js")


def render_page(package: str, template: str, /, **values: Any) -> str:
    """Render a template of a package; it may extend and include the templates of this folder.

    Values are escaped. The page's content security policy allows the scripts of this folder alone, so a name that got
    past the escaping would still not run.
    """
    loader = ChoiceLoader([PackageLoader(package, "."), PackageLoader("pipeline.pages", ".")])
    environment = Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    assert environment.loader is not None
    sources = [environment.loader.get_source(environment, name)[0] for name in SCRIPTS]
    script = "".join(sources).rstrip("\n")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=script, script_digest=digest, **values)


def png_uri(content: bytes) -> str:
    """A PNG as a data URI."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def figure_uri(figure: Figure) -> str:
    """Draw a figure as SVG, as a data URI; the same figure gives the same bytes."""
    from matplotlib import rc_context

    file = io.BytesIO()
    # Letters as paths: the figure looks the same on every machine.
    with rc_context({"svg.hashsalt": "page", "svg.fonttype": "path"}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}"
