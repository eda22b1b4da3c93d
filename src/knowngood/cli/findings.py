"""Lines on what an audit found, for the commands that show it: the first ones of each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping


def finding_lines(records: Iterable[Mapping[str, str]], most: int) -> list[str]:
    """'warning: PATH: REASON' of the first findings of each kind, in their order.

    Args:
        records: see `Audit.to_records`.
    """
    shown: Counter[str] = Counter()
    lines = []
    for one in records:
        shown[one["kind"]] += 1
        if shown[one["kind"]] <= most:
            lines.append(f"{one['severity']}: {one['path_or_id']}: {one['reason']}")
    return lines


def counted_lines(records: Iterable[Mapping[str, str]]) -> list[str]:
    """One line a kind: that of its first finding, with how many more there are."""
    records = list(records)
    counts = Counter(one["kind"] for one in records)
    others = [f" ({n - 1:,} more of this kind)" * (n > 1) for n in counts.values()]
    return [line + more for line, more in zip(finding_lines(records, 1), others, strict=True)]
