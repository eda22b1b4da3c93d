"""What was judged, and what people said of it: one SQLite file that several processes may write at a time.

A picture is kept as it came, so that it can be trained on. Reviews are only ever added: the latest one counts.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from knowngood.data.values import listing
from knowngood.deploy.sqlite import opened
from knowngood.errors import ArtifactError, DataError, OutputError
from knowngood.files import make_folder

Box = tuple[int, int, int, int]  # (top, left, bottom, right) in pixels, half-open
FILE, FORMAT = "judged.sqlite", 1
_BETWEEN = re.compile(r", (?=[^,=]+=)")  # two values of a condition in words: a value may hold a comma
VERDICTS = ("good", "defect", "unsure")
ORDERS = {
    "newest": "j.number desc",
    "anomalous": "j.p is null, j.p, j.score desc, j.number desc",
    "sampled": "(select position from sample where judged = j.number), j.number desc",
}
_TABLES = """
create table if not exists judged (
  number integer primary key autoincrement, key text unique not null, time text not null, source text not null,
  id text not null, model text not null, scored_by text not null, conditions text not null, condition text,
  verdict text not null, flagged integer, p real, score real, row text not null, regions text not null, why text,
  alpha real, reference integer, height integer, width integer, suffix text not null
);
create table if not exists pictures (number integer primary key, bytes blob, thumbnail blob, map blob, scale text);
create table if not exists reviews (
  number integer primary key autoincrement, judged integer not null, time text not null, who text not null,
  scored_by text not null, verdict text, kind text not null, regions text not null, note text not null
);
create table if not exists sample (
  position integer primary key autoincrement, judged integer unique not null, draw integer not null
);
create index if not exists judged_p on judged (p);
create index if not exists reviews_of on reviews (judged);
create view if not exists latest as
  select * from reviews where number in (select max(number) from reviews group by judged) and verdict is not null;
"""
_SELECT = """
select j.*, l.verdict as review, l.kind, l.regions as drawn, l.note, l.who, l.number as review_number,
l.time as review_time
from judged j left join latest l on l.judged = j.number
"""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One image that was judged.

    Args:
        key: that no other judgement has. source: api, page or watch. row: as `knowngood score` writes it, with `error`.
        conditions: as they were given. alpha: false-alarm rate of the verdict. regions: boxes of the map. why: the
            sentences of an explanation, if there is one.
        reference: the group of normal images that it is compared with, for `ReferenceIndex.mean_image`.
        size: (H, W). picture: the file as it came. suffix: of its name, such as .png. thumbnail: a PNG or JPEG.
        map: a grey PNG, anomaly = offset + factor · level. scale: (offset, factor, value where its colour begins, value
            where it is full, what that means in words).
    """

    key: str
    source: str
    model: str
    scored_by: str
    row: Mapping[str, Any]
    picture: bytes
    suffix: str
    conditions: Mapping[str, Any]
    alpha: float | None = None
    regions: tuple[Box, ...] = ()
    why: tuple[str, ...] = ()
    reference: int | None = None
    size: tuple[int, int] | None = None
    thumbnail: bytes | None = None
    map: bytes | None = None
    scale: tuple[float | str, ...] = (0.0, 1.0, 0.0, 1.0, "")

    @property
    def legend(self) -> str:
        """What the colours of the map mean; empty without a map."""
        return "" if self.map is None else str(self.scale[-1])

    @property
    def verdict(self) -> str:
        """In words: that of a model that checks conditions, else anomalous or normal; `not read` after an error."""
        if self.row.get("error") is not None:
            return "not read"
        return self.row.get("verdict") or ("anomalous" if self.row["is_anomalous"] else "normal")


LONGEST = {"who": 100, "kind": 60, "note": 2000}  # characters of a review
MOST_REGIONS = 100


class Review(NamedTuple):
    """What a person says of a judged image; `verdict` None takes back what was said before.

    who: a name. scored_by: the version of the model that had judged it. kind: of a defect. regions: where it is.
    """

    verdict: Literal["good", "defect", "unsure"] | None
    who: str = ""
    kind: str = ""
    regions: tuple[Box, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Filter:
    """Which judgements: of this verdict (`flagged`, `normal`, `not read`), review (or `none`, `any`, `sample` for the
    random sample), condition value (camera=B), model, version and source, between two times in ISO 8601. An empty text:
    all.
    """

    verdict: str = ""
    review: str = ""
    condition: str = ""
    model: str = ""
    scored_by: str = ""
    source: str = ""
    since: str = ""
    until: str = ""

    def clause(self) -> tuple[str, dict[str, str]]:
        """SQL over `_SELECT`, with its parameters."""
        flagged = {"flagged": "flagged = 1", "normal": "flagged = 0", "not read": "flagged is null"}
        parts = [flagged.get(self.verdict, "j.verdict = :verdict")] if self.verdict else []
        reviewed = {"none": "l.verdict is null", "any": "l.verdict is not null"}
        reviewed["sample"] = "j.number in (select judged from sample)"
        parts += [reviewed.get(self.review, "l.verdict = :review")] if self.review else []
        if self.condition:
            parts.append("instr(', ' || replace(condition, ' (inferred)', '') || ', ', ', ' || :condition || ', ')")
        parts += [f"j.{name} = :{name}" for name in ("model", "scored_by", "source") if getattr(self, name)]
        parts += ["j.time >= :since"] if self.since else []
        parts += ["j.time < :until"] if self.until else []
        return " where " + " and ".join(parts or ["1"]), vars(self)


class JudgedStore:
    """Opens the store in a folder, or makes it. Safe to use from several threads and processes.

    Args:
        most: judgements that are kept; beyond it the oldest ones that nobody reviewed are removed.

    Raises:
        ArtifactError: the folder holds something else, or a damaged store. OutputError: it cannot be made.
    """

    def __init__(self, folder: Path, most: int = 10_000) -> None:
        self.folder, self.most, self._lock = folder, most, threading.RLock()
        make_folder(folder)
        path = folder / FILE
        try:
            path.touch(mode=0o600)  # pictures are nobody else's; what SQLite puts beside it has the same mode
            self._base = opened(path, _TABLES, "normal", FORMAT)
            self._base.row_factory = sqlite3.Row
        except (sqlite3.Error, OSError) as error:
            raise ArtifactError(f"{path}: is no store of judged images ({error}); give another --keep FOLDER") from None

    def add(self, judgements: Iterable[Judgement]) -> list[int]:
        """Keep judgements, all or none; their numbers. One whose key is there is there already, and changes nothing."""
        given = [(_facts(one), one) for one in judgements]
        with self._writing() as base:
            numbers = [_added(base, *each) for each in given]
            over = base.execute("select count(*) from judged").fetchone()[0] - self.most
            if over > 0 and numbers:
                oldest = """select number from judged where number not in (select judged from reviews)
                    and number not in (select judged from sample) and number != ?"""
                found = base.execute(f"{oldest} order by number limit ?", (numbers[-1], over))
                gone = [(row[0],) for row in found]
                for table in ("judged", "pictures"):
                    base.executemany(f"delete from {table} where number = ?", gone)
        return numbers

    def review(self, number: int | Iterable[int], review: Review) -> None:
        """Add what a person says of a judgement, or of several: of all or of none.

        Raises:
            KeyError: there is no such judgement any more. DataError: the image could not be read; all such are named.
        """
        numbers = list(number) if isinstance(number, Iterable) else [number]
        with self._writing() as base:
            found = []
            for one in numbers:
                about = base.execute("select scored_by, id, flagged from judged where number = ?", (one,)).fetchone()
                if about is None:
                    raise KeyError(f"there is no judged image {one}")
                found.append((one, *about))
            unread = [f"{name} (image {one})" for one, _, name, flagged in found if flagged is None]
            if unread and review.verdict is not None:
                raise DataError(
                    f"{listing(unread, most=5)} could not be read: nothing can be learned from that; leave it out. "
                    "Nothing was reviewed"
                )
            names = "judged, time, who, scored_by, verdict, kind, regions, note"
            marks = ", ".join("?" * 8)
            said = review.verdict, review.kind, _text(review.regions), review.note
            rows = [(one, _now(), review.who, scored_by, *said) for one, scored_by, _, _ in found]
            base.executemany(f"insert into reviews ({names}) values ({marks})", rows)

    def page(
        self, which: Filter, order: str = "newest", first: int = 0, most: int = 48
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many judgements there are of this kind, and those from the `first` on, with the review that counts."""
        where, values = which.clause()
        with self._lock:
            counted = f"select count(*) from judged j left join latest l on l.judged = j.number {where}"
            total = self._base.execute(counted, values).fetchone()[0]
            query = f"{_SELECT} {where} order by {ORDERS[order]} limit {int(most)} offset {int(first)}"
            return total, [_record(row) for row in self._base.execute(query, values)]

    def one(self, number: int) -> dict[str, Any]:
        """A judgement with the review that counts, and the `history` of all. Raises KeyError: it is not there."""
        with self._lock:
            row = self._base.execute(f"{_SELECT} where j.number = ?", (number,)).fetchone()
            if row is None:
                raise KeyError(f"there is no judged image {number}")
            history = self._base.execute("select * from reviews where judged = ? order by number", (number,))
            return {**_record(row), "history": [_record(one) for one in history]}

    def alike(self, model: str, *, number: int = 0, name: str = "", content: bytes = b"") -> list[dict[str, Any]]:
        """Judgements of a model with this number, this id or this very picture, the newest first."""
        query = f"""{_SELECT} where j.model = :model and (j.number = :number or j.id = :name or j.number in (
            select number from pictures where :size > 0 and length(bytes) = :size and bytes = :content))
            order by j.number desc"""
        values = {"model": model, "number": number, "name": name, "size": len(content), "content": content}
        with self._lock:
            return [_record(row) for row in self._base.execute(query, values)]

    def picture(self, number: int) -> dict[str, Any]:
        """bytes, thumbnail, map and scale of a judgement. Raises KeyError: it is not there."""
        with self._lock:
            row = self._base.execute("select * from pictures where number = ?", (number,)).fetchone()
        if row is None:
            raise KeyError(f"there is no judged image {number}")
        return _record(row)

    def explain(self, number: int, why: Iterable[str]) -> None:
        """Keep the sentences that explain a judgement."""
        with self._writing() as base:
            base.execute("update judged set why = ? where number = ?", (_text(list(why)), number))

    def series(self, which: Filter, after: int = 0) -> list[sqlite3.Row]:
        """number, time, id, key, condition, p, score, flagged of judgements that were read, the oldest first."""
        where, values = which.clause()
        query = f"""select j.number, j.time, j.id, j.key, j.condition, j.p, j.score, j.flagged
            from judged j left join latest l on l.judged = j.number {where}
            and j.p is not null and j.number > :after order by j.number"""
        with self._lock:
            return self._base.execute(query, {**values, "after": after}).fetchall()

    def reviewed(self) -> Iterator[dict[str, Any]]:
        """Every judgement that has a review that counts, with its picture, the oldest first."""
        with self._lock:
            numbers = [row[0] for row in self._base.execute("select judged from latest order by judged")]
        for number in numbers:
            try:
                yield {**self.picture(number), **self.one(number)}
            except KeyError:  # pragma: no cover - removed meanwhile
                continue

    def sample(self, n: int, model: str, seed: int | None = None) -> list[int]:
        """Draw n more judgements of a model at random, whatever their score, to be reviewed; their numbers in order.

        They are drawn from those since the last one that was removed: older ones are there because they were reviewed,
        and reviews are mostly of what was flagged. Fewer than n where there are no more.
        """
        with self._writing() as base:
            since = """select coalesce(max(number), 0) from judged j
                where not exists (select 1 from judged k where k.number = j.number - 1)"""
            query = f"""select number from judged where model = ? and flagged is not null and number >= ({since})
                and number not in (select judged from sample) order by number"""
            found = [row[0] for row in base.execute(query, (model,))]
            drawn = [found[i] for i in np.random.default_rng(seed).permutation(len(found))[:n].tolist()]
            draw = 1 + base.execute("select coalesce(max(draw), 0) from sample").fetchone()[0]
            base.executemany("insert into sample (judged, draw) values (?, ?)", [(number, draw) for number in drawn])
        return drawn

    def sampled(self, model: str) -> list[int]:
        """The numbers of a random sample of what a model judged: all draws of which every image was reviewed.

        Of a draw that is reviewed in part none counts: what is reviewed first, or was before, is mostly what was
        flagged.
        """
        query = """select s.judged from sample s join judged j on j.number = s.judged where j.model = ?
            and s.draw not in (select draw from sample where judged not in (select judged from latest))
            order by s.position"""
        with self._lock:
            return [row[0] for row in self._base.execute(query, (model,))]

    def models(self) -> list[str]:
        """The names of the models that judged."""
        with self._lock:
            return [row[0] for row in self._base.execute("select distinct model from judged order by model")]

    def count_reviews(self, model: str, after: int = 0) -> int:
        """How many images of a model have another review as good or as a defect than at the review number `after`.

        They were reviewed as one of these since then, or what was said until then was taken back.
        """
        query = """with
            last as (select judged, max(number) as number from reviews group by judged),
            former as (select judged, max(number) as number from reviews where number <= :after group by judged)
            select count(*) from judged j join last on last.judged = j.number join reviews l on l.number = last.number
            left join former on former.judged = j.number left join reviews f on f.number = former.number
            where j.model = :model and l.number > :after and j.flagged is not null
            and (l.verdict in ('good', 'defect') or f.verdict in ('good', 'defect'))"""
        with self._lock:
            return int(self._base.execute(query, {"model": model, "after": after}).fetchone()[0])

    def last_review(self) -> int:
        """The number of the latest review, also of one that takes another back; 0 without any."""
        with self._lock:
            return int(self._base.execute("select coalesce(max(number), 0) from reviews").fetchone()[0])

    def counts(self) -> dict[str, int]:
        """How many were judged, flagged and reviewed, and what the reviews say."""
        says = {
            "judged": "1",
            "flagged": "flagged = 1",
            "not read": "flagged is null",
            "reviewed": "l.verdict is not null",
            "false alarms": "l.verdict = 'good' and flagged = 1",
            "true defects": "l.verdict = 'defect' and flagged = 1",
            "missed defects": "l.verdict = 'defect' and flagged = 0",
            "good, not flagged": "l.verdict = 'good' and flagged = 0",
            "unsure": "l.verdict = 'unsure'",
            "drawn at random": "j.number in (select judged from sample)",
        }
        sums = ", ".join(f"coalesce(sum({what}), 0)" for what in says.values())
        with self._lock:
            found = self._base.execute(f"select {sums} from judged j left join latest l on l.judged = j.number")
            return dict(zip(says, found.fetchone(), strict=True))

    def values(self) -> dict[str, list[str]]:
        """What can be filtered by: condition values, kinds of defects so far."""
        with self._lock:
            texts = [row[0] for row in self._base.execute("select distinct condition from judged limit 1000") if row[0]]
            kinds = [row[0] for row in self._base.execute("select distinct kind from latest where kind != ''")]
        parts = {part for text in texts for part in _BETWEEN.split(text.removesuffix(" (inferred)")) if part != "all"}
        return {"conditions": sorted(parts), "kinds": sorted(kinds)}

    def stamp(self) -> list[int]:
        """Changes whenever something is judged or reviewed, by whichever process."""
        with self._lock:
            query = (
                "select coalesce((select max(number) from judged), 0), coalesce((select max(number) from reviews), 0)"
            )
            return list(self._base.execute(query).fetchone())

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._base.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction; other processes wait. Raises OutputError: it cannot be written."""
        try:
            with self._lock, self._base:
                self._base.execute("begin immediate")
                yield self._base
        except sqlite3.Error as error:
            raise OutputError(f"{self.folder / FILE} cannot be written: {error}; free some space, or restart") from None


def _added(base: sqlite3.Connection, facts: Mapping[str, Any], one: Judgement) -> int:
    """The number of a judgement, which is added unless it is there."""
    # An insert that is ignored would use up a number, and a number that is missing means a removal.
    before = base.execute("select number from judged where key = ?", (one.key,)).fetchone()
    if before is not None:
        return int(before[0])
    marks = ", ".join(f":{name}" for name in facts)
    added = base.execute(f"insert into judged ({', '.join(facts)}) values ({marks})", facts)
    number = int(added.lastrowid or 0)
    views = number, one.picture, one.thumbnail, one.map, _text(one.scale)
    base.execute("insert into pictures values (?, ?, ?, ?, ?)", views)
    return number


def _facts(one: Judgement) -> dict[str, Any]:
    """The columns of a judgement, its pictures aside."""
    row = {name: value for name, value in one.row.items() if name not in ("map", "explanation")}
    p, flagged = row.get("p_value"), row.get("is_anomalous")
    return {
        "key": one.key,
        "time": _now(),
        "source": one.source,
        "id": str(row["id"]),
        "model": one.model,
        "scored_by": one.scored_by,
        "conditions": _text(one.conditions),
        "condition": row.get("condition"),
        "verdict": one.verdict,
        "flagged": flagged,
        "p": p,
        "score": row.get("anomaly_score"),
        "row": _text(row),
        "regions": _text(one.regions),
        "why": _text(one.why) if one.why else None,
        "alpha": one.alpha,
        "reference": one.reference,
        "height": one.size and one.size[0],
        "width": one.size and one.size[1],
        "suffix": one.suffix,
    }


def _record(row: sqlite3.Row) -> dict[str, Any]:
    record = dict(row)
    for name in ("conditions", "row", "regions", "why", "drawn", "scale"):
        if isinstance(record.get(name), str):
            record[name] = json.loads(record[name])
    return record


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
