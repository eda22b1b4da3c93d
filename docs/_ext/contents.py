"""The order of the pages. It is here, not in the pages, so that these stay plain Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGES: dict[str, list[str]] = {
    "index": [
        "start/README",
        "guide/README",
        "notebooks/README",
        "methods/README",
        "reference/README",
        "develop/README",
    ],
    "start/README": ["start/compared", "start/install", "start/own-parts", "start/x-rays", "start/python"],
    "guide/README": [
        *(
            "guide/recipes",
            "guide/comparing",
            "guide/inspection",
            "guide/data",
            "guide/your-images",
            "guide/conditions",
        ),
        *("guide/calibration", "guide/alpha", "guide/few-images", "guide/large-pictures", "guide/backbones"),
        *("guide/report", "guide/review", "guide/monitoring", "guide/serving", "guide/export", "guide/deployment"),
        *("guide/scaling-out",),
        *("guide/command-line", "guide/saved-models", "guide/plugins", "guide/generated-parts", "guide/lineage"),
        *("guide/security", "guide/words"),
    ],
    "guide/plugins": ["guide/plugin_example/README"],
    "notebooks/README": [
        *("notebooks/inspection", "notebooks/conditions", "notebooks/drift", "notebooks/calibration"),
        *("notebooks/plugin",),
    ],
    "methods/README": [
        *("methods/patch_gaussian", "methods/hog", "methods/scores", "methods/vae", "methods/cvae", "methods/dcvae"),
        *("methods/beta_vae", "methods/factor_vae", "methods/tc_vae", "methods/rf_vae", "methods/dip_vae"),
        *("methods/info_vae", "methods/corex", "methods/dan_vae", "proof"),
    ],
    "reference/README": [
        *("reference/api", "reference/cli", "reference/settings", "reference/formats", "reference/http"),
        *("reference/errors", "reference/versions", "credits"),
    ],
    "reference/api": [
        *("reference/api-detector", "reference/api-data", "reference/api-results", "reference/api-calibration"),
        *("reference/api-extend", "reference/api-runtime"),
    ],
    "develop/README": [
        *("develop/architecture", "one-image", "develop/contributing", "develop/extend", "benchmarks"),
        *("develop/changelog",),
    ],
}


DOCS = Path(__file__).parents[1]
PAGES = {page: [one for one in below if (DOCS / f"{one}.md").exists()] for page, below in PAGES.items()}
_NAMED = {one for below in PAGES.values() for one in below} | set(PAGES)
PAGES["guide/README"] += sorted(  # pages that have no place of their own come last
    one for one in (f"guide/{path.stem}" for path in (DOCS / "guide").glob("*.md")) if one not in _NAMED
)


def _with_contents(app: Any, docname: str, source: list[str]) -> None:
    """Add the hidden table of contents of a page that has pages below it."""
    if docname in PAGES:
        below = "\n".join(f"/{page}" for page in PAGES[docname])
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n\n{below}\n```\n"


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _with_contents)
    return {"parallel_read_safe": True}
