"""One look for every figure: colour-blind-safe colours, quiet axes, and SVG whose text stays text."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from PIL import Image

from knowngood.files import whole

# Blue and vermillion of Okabe and Ito (2008): told apart with every common form of colour blindness, and in grey.
NORMAL = "#0072b2"
ANOMALOUS = "#d55e00"
UNKNOWN = "#7d8590"
INK = "#1d2530"
MUTED = "#5a6472"
RULE = "#d9dee5"
PAPER = "#ffffff"
# Of groups and models; vermillion is for anomalies. The blue stays as it is on a dark page, like the points.
CYCLE = (
    *("#0173b2", "#e69f00", "#009e73", "#e57fb8", "#56b4e9"),
    *("#6b4a2b", "#c3c81e", "#3d2b8f", "#8f1d5c", "#9aa0a8"),
)
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")

# Signed differences: blue below, white at zero, vermillion above; an odd number of steps makes zero pure white.
DIFFERENCE = LinearSegmentedColormap.from_list("difference", ["#00405f", NORMAL, PAPER, ANOMALOUS, "#6e2f00"], N=257)

OUTLINE = "#7a0019"


_SVG_DPI = 150  # of what is drawn as pixels in an SVG
_VARIABLES = {
    NORMAL: "var(--normal)",
    ANOMALOUS: "var(--anomalous)",
    UNKNOWN: "var(--unknown)",
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--card)",
}


def new_figure(width: float = 4.6, height: float = 3.4) -> Figure:
    """An empty figure, `width` × `height` inches, laid out so that nothing is cut off."""
    return Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)


def tidy(axes: Axes, *, xlabel: str, ylabel: str, title: str = "", grid: str = "y", size: float = 9.0) -> Axes:
    """Labels in ink, two spines, a pale grid along `grid` ("x", "y" or "both"), text of `size` points."""
    axes.set_xlabel(xlabel, color=INK, fontsize=size)
    axes.set_ylabel(ylabel, color=INK, fontsize=size)
    if title:
        axes.set_title(title, color=INK, fontsize=size + 1, loc="left", fontweight="bold")
    axes.tick_params(colors=MUTED, labelsize=size - 0.5, length=3, width=0.8)
    axes.set_facecolor("none")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(MUTED)
        axes.spines[side].set_linewidth(0.8)
    axes.grid(True, axis=grid, color=RULE, linewidth=0.7)  # pyright: ignore[reportArgumentType]
    axes.set_axisbelow(True)
    return axes


def show(axes: Axes, picture: np.ndarray, *, tile: int | None = None, frame: bool = False, **where: Any) -> None:
    """A picture without ticks; pixels stay squares where an image, or one of its tiles, has at most 96 of them, and
    vector formats hold just those pixels."""
    squares = (max(picture.shape) if tile is None else tile) <= 96
    axes.imshow(picture, interpolation="none" if squares else "antialiased", **where)
    bare(axes, frame=frame)


def bare(axes: Axes, *, frame: bool) -> None:
    """No ticks, and a pale frame or none."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
        spine.set_visible(frame)


def legend(axes: Axes, *, loc: Any = "best") -> None:
    """A legend without a frame, in ink, over what lies behind it."""
    axes.legend(loc=loc, fontsize=8.5, frameon=False, labelcolor=INK, handlelength=1.6)


def legend_below(figure: Figure, columns: int | None = None) -> None:
    """The legend of the figure's first axes under it, in one line or so many columns."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    place = cast(Any, "outside lower center")  # known to matplotlib, not to its type stubs
    figure.legend(handles, labels, loc=place, ncols=columns or len(labels), fontsize=8.5, frameon=False, labelcolor=INK)


def plain(text: object) -> str:
    """Text from outside, so that a dollar sign in it does not start a formula."""
    return str(text).replace("$", r"\$")


def short(text: object, longest: int = 28) -> str:
    """Text from outside, cut to `longest` characters."""
    text = str(text)
    return plain(text if len(text) <= longest else text[: longest - 1] + "…")


def signed(value: float) -> str:
    """A number with four digits and a true minus sign."""
    return f"{value:.4g}".replace("-", "−")


def save(figure: Figure | Iterable[Figure], path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure as .png, .svg or .pdf, several as frames of a .gif; the same figures give the same bytes."""
    path = Path(path)
    if not isinstance(figure, Figure):
        return _save_frames(figure, path)
    kind = path.suffix.lower()
    with matplotlib.rc_context({"svg.hashsalt": "knowngood", "svg.fonttype": "none"}):
        dateless = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
        with whole(path) as draft:
            # A compression of 3 takes half the time of the default, 6; only PNG has one.
            packed: dict[str, Any] = {"pil_kwargs": {"compress_level": 3}} if kind == ".png" else {}
            figure.savefig(draft, dpi=dpi, metadata=dateless.get(kind), **packed)
    return path


def _save_frames(figures: Iterable[Figure], path: Path) -> Path:
    """A GIF that runs for ever and rests at the last frame; one palette for all frames, so that they do not flicker."""
    frames = []
    for figure in figures:
        figure.savefig(buffer := io.BytesIO(), format="png", dpi=100)
        frames.append(Image.open(buffer).convert("RGB"))
    palette = frames[len(frames) // 2].quantize(256)
    first, *others = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    with whole(path) as draft:
        pauses = [140] * len(others) + [1500]  # milliseconds
        first.save(draft, "GIF", save_all=True, append_images=others, duration=pauses, loop=0)
    return path


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element to place inside an HTML page; the same figure gives the same bytes.

    Text stays text in the page's font. Colours become the page's CSS variables (`--ink`, `--muted`, `--rule`, `--card`,
    `--normal`, `--anomalous`, `--unknown`), so the figure follows a dark page. Ids start with `name`, which must differ
    between the figures of a page.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), warnings.catch_warnings():
        # The page's font draws the text, so what the measuring font lacks is no matter.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing, dpi=_SVG_DPI)
    figure.set_layout_engine("none")  # a second run of the constrained layout would move the axes a little
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", svg, count=2)
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|xlink:href=")#', rf"\g<1>#{name}-", svg)
    # Several families, quotes and all, become the page's own.
    svg = re.sub(r"(font(?:-family)?:[^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1var(--sans)", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1).strip()
