"""`python -m knowngood.runtime FILE.onnx IMAGES…`: a row an image, as a line of JSON on stdout."""

from __future__ import annotations

import argparse
import json
import sys
import warnings

from knowngood.data.column_values import as_values
from knowngood.errors import KnowngoodError
from knowngood.runtime.model import ExportedDetector


def main(words: list[str] | None = None) -> int:
    """Run one command line; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m knowngood.runtime", description="Score images, without torch.")
    parser.add_argument("model", metavar="FILE.onnx", help="what `knowngood export` wrote")
    parser.add_argument("images", nargs="+", help="a folder, or image files")
    parser.add_argument("--alpha", type=float, help="false-alarm rate of the verdicts; default that of the fit")
    parser.add_argument("--abstain", type=float, help="p-value up to which a verdict is unsure")
    stated = "conditions of all these images: camera=B; repeatable"
    parser.add_argument("--as", dest="values", action="append", metavar="COLUMN=VALUE", help=stated)
    parser.add_argument("--unknown", choices=("error", "infer"), help="missing conditions: refuse, or marginalise")
    given = parser.parse_args(words)
    source = given.images[0] if len(given.images) == 1 else given.images
    try:
        asked = {"alpha": given.alpha, "abstain": given.abstain, "unknown": given.unknown}
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            rows = ExportedDetector(given.model).detect(source, conditions=as_values(given.values), **asked)
    except KnowngoodError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for row in rows:
        print(json.dumps({name: None if value != value else value for name, value in row.items()}, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
