"""How Sphinx makes the site: `make docs`.

Pages are plain Markdown that a code host shows as well, so what only the site needs is beside them: the order of the
pages, and where links lead that leave the folder of the docs.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(Path(__file__).parent / "_ext"), str(ROOT / "src"), str(ROOT)]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])  # of the notebooks

from contents import PAGES  # noqa: E402

from knowngood import __version__  # noqa: E402

project, author, release = "knowngood", "The knowngood authors", __version__
copyright = "the knowngood authors, Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "contents",
    "docstrings",
    "reference",
]
exclude_patterns = ["_*"]
root_doc = "index"
highlight_language = "text"
nitpicky = False

html_theme = "pydata_sphinx_theme"
html_title = "knowngood"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options: dict[str, Any] = {
    "logo": {"text": "knowngood"},
    "navbar_align": "left",
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": []}

myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # pages that begin with a smaller heading are parts of others

nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "out" / "docs-cache")
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_execution_in_temp = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "inherited-members": False}
napoleon_google_docstring, napoleon_numpy_docstring = True, False
napoleon_custom_sections = [("Class attributes", "params_style")]
default_role = "literal"
maximum_signature_line_length = 100

OUTSIDE = {"CHANGELOG.md": "develop/changelog.md", "CONTRIBUTING.md": "develop/contributing.md"}
LEAVES = re.compile(r"\]\((?:\.\./)+(CHANGELOG\.md|CONTRIBUTING\.md)")


def _stay_inside(app: Any, docname: str, source: list[str]) -> None:
    """Links to pages outside the folder of the docs lead to the pages that include them."""
    up = "../" * docname.count("/")
    source[0] = LEAVES.sub(lambda found: f"]({up}{OUTSIDE[found[1]]}", source[0])


def setup(app: Any) -> None:
    app.connect("source-read", _stay_inside)
    assert PAGES["index"], "the site has pages"
