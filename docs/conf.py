"""The documentation site: `make docs`. It is built and read without a network."""

import html
import os
import re
from importlib.metadata import version as version_of
from pathlib import Path

import ziamath
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "ctr"
author = "the ctr developers"
version = release = version_of("sparse-ctr")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["examples"]
nitpicky = True
# What has no page here: other packages, types within ctr, and names in single backticks, which are shown as code.
nitpick_ignore_regex = [
    ("py:.*", r"(collections|contextlib|inspect|pathlib|typing|np|numpy|pa|pyarrow|pd|pandas|torch)\b.*|Path"),
    ("py:exc", "OmegaConfBaseException|HydraException"),
    ("py:class", r"ctr\.(datasets|training)\..*"),
    ("py:obj", ".*"),
]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub makes them
myst_dmath_double_inline = True

highlight_language = "none"  # blocks without a language are commands and equations
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_param = False  # arguments that a docstring explains together stay together; types are in the signature
napoleon_custom_sections = ["Shapes"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "ctr"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
html_math_renderer = "drawn"

# Pages that are files of the repository, for GitHub, and what they are here.
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def link_pages(app: Sphinx, docname: str, source: list[str]) -> None:
    """Leads links to the repository's own pages to those of the site; a folder has no page: its name is shown."""
    folder = Path(app.env.doc2path(docname)).parent

    def linked(match: re.Match[str]) -> str:
        text, target = match["text"], match["target"]
        if (folder / target).is_dir():
            return text
        page = PAGES.get(target.removeprefix(f"{os.path.relpath(app.srcdir.parent, folder)}/"))
        return f"[{text}](/{page})" if page else match[0]

    source[0] = re.sub(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)#:\s]+)(#[^)\s]*)?\)", linked, source[0])


def draw_equation(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Writes an equation as a drawing, which is the same in every browser, with its TeX for those who cannot see it."""
    block = isinstance(node, nodes.math_block)
    equation = ziamath.Latex(node.astext(), size=17, inline=not block, color="currentColor")
    label = f'role="img" aria-label="{html.escape(node.astext())}"'
    drawing = equation.svg().replace("<svg", f'<svg {label} style="vertical-align: {equation.getyofst():.2f}px"', 1)
    translator.body.append(f'<div class="math">{drawing}</div>' if block else drawing)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("drawn", (draw_equation, None), (draw_equation, None))
    app.connect("source-read", link_pages)
