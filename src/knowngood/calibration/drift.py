"""A monitor of drift: a conformal test martingale for each Mondrian group of a stream of scores, and one alarm."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from knowngood.calibration.conformal import judged_scores
from knowngood.calibration.martingales import OnlineRanks, Wealth
from knowngood.errors import ArtifactError, DataError, SettingsError

FORMAT, FORMAT_VERSION = "knowngood-monitor", 2
DIGEST = 8  # bytes kept of an id
SAME = 1e-3  # relative difference, up to which two scores of an id are one score
POINTS = 1000  # of the path of a group, at most
LOG_10 = math.log(10)
# Fixed bets, from whose wealth the time of a change is estimated: on p-values too small, too large, or some very small.
CHANGES = {"scores are higher": (-1.0, None), "scores are lower": (1.0, None), "more scores are extreme": (0.0, 0.5)}


@dataclass(frozen=True)
class Place:
    """An item of the stream: its number, counted from 1, its id and its time if it has them."""

    number: int
    id: str | None = None
    time: str | None = None

    def __str__(self) -> str:
        name = f"item {self.number:,}" if self.id is None else self.id
        return name if self.time is None else f"{name} ({self.time})"


@dataclass(frozen=True)
class Alarm:
    """Drift: in which group, raised at which item, since which item (an estimate), what changed, on which evidence."""

    group: str
    at: Place
    since: Place
    change: str
    evidence: float  # log10 of the wealth of all groups

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Alarm:
        """What `dataclasses.asdict` gave."""
        return cls(**{**record, "at": Place(**record["at"]), "since": Place(**record["since"])})


@dataclass
class Group:
    """One Mondrian group of the stream. `log` is the logarithm of what it owns, its share times its own wealth.

    share: logarithm of the part of the wealth that it started with. count: items so far. path: (number of the item,
    log10 of what the group owns), thinned. runs: for each of `CHANGES` the log wealth of that bet, its smallest value
    so far, and the first item after that.
    """

    ranks: OnlineRanks
    wealth: Wealth = field(default_factory=Wealth)
    share: float = 0.0
    count: int = 0
    path: list[tuple[int, float]] = field(default_factory=list)
    step: int = 1
    runs: dict[str, tuple[float, float, Place | None]] = field(
        default_factory=lambda: dict.fromkeys(CHANGES, (0.0, 0.0, None))
    )

    def __post_init__(self) -> None:
        self.won = float(self.wealth.log)

    @property
    def log(self) -> float:
        return self.share + self.won

    def add(self, p: float, place: Place) -> None:
        """Bet on the p-value of the next item of the group."""
        self.wealth.bet(p)
        self.won = float(self.wealth.log)
        self.count += 1
        for change, (slope, exponent) in CHANGES.items():
            log, lowest, since = self.runs[change]
            log += math.log(1 + slope * (p - 0.5))
            log += 0.0 if exponent is None else math.log(exponent) + (exponent - 1) * math.log(p)
            self.runs[change] = (log, log, None) if log < lowest else (log, lowest, since or place)
        if self.count % self.step == 0:
            self.path.append((place.number, self.log / LOG_10))
        if len(self.path) > POINTS:
            self.path, self.step = self.path[1::2], 2 * self.step

    def change(self) -> tuple[str, Place | None]:
        """The fixed bet that gained most since its lowest wealth, and the first item after that."""
        name = max(self.runs, key=lambda one: self.runs[one][0] - self.runs[one][1])
        return name, self.runs[name][2]

    def to_record(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        runs = {name: [*run[:2], None if run[2] is None else asdict(run[2])] for name, run in self.runs.items()}
        plain = {"share": self.share, "count": self.count, "path": self.path, "step": self.step, "runs": runs}
        return {"ranks": self.ranks.to_record(), "wealth": self.wealth.to_record(), **plain}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Group:
        """What `to_record` gave."""
        return cls(
            OnlineRanks.from_record(record["ranks"]),
            Wealth.from_record(record["wealth"]),
            float(record["share"]),
            int(record["count"]),
            [(int(number), float(value)) for number, value in record["path"]],
            int(record["step"]),
            {
                name: (float(log), float(lowest), None if since is None else Place(**since))
                for name, (log, lowest, since) in ((name, record["runs"][name]) for name in CHANGES)
            },
        )


class DriftMonitor:
    """Tests whether a stream of scores is exchangeable, within each Mondrian group, with calibration scores.

    Every score is ranked among the calibration scores of its group and the stream so far. A wealth of 1 is shared by
    the groups; each bets its share against its p-values (`martingales.Wealth`). When a group appears, the G groups
    before it hand over the same fraction, 1/(G + 1), of what they own. Each bet is fair, and sharing does not depend on
    the p-values to come, so the whole is a martingale, however many groups there are: while nothing changes,
    P(an alarm is ever raised) ≤ 1/threshold. This holds on average over calibration sets and streams.

    Args:
        threshold: the wealth at which the alarm is raised, above 1.
        references: by group, scores (n,) of calibration items, or ranks of them. A group without any is compared with
            the stream so far: drift that was there from its first item is not detected.
        seed: of the draws that smooth ties; the p-values do not depend on how a stream is divided into updates.

    Attributes:
        alarm: the first one, or None. groups: `Group` by name. count: items so far. unlike: of the last update, items
            that did not count, since their id had, though with another score.
    """

    def __init__(
        self,
        threshold: float = 100.0,
        references: Mapping[str, ArrayLike | OnlineRanks] | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 < threshold < math.inf:
            raise SettingsError(f"threshold = {threshold!r}; expected a number above 1, for example 100")
        self.threshold, self.seed = float(threshold), int(seed)
        self.references = {
            name: some if isinstance(some, OnlineRanks) else OnlineRanks.of(some, [self.seed, 1 + k])
            for k, (name, some) in enumerate((references or {}).items())
        }
        self.groups: dict[str, Group] = {}
        self.alarm: Alarm | None = None
        self.count = self.unlike = 0
        self._seen: dict[bytes, float] = {}  # the score that counted, by the digest of its id

    @property
    def evidence(self) -> float:
        """log10 of the wealth of all groups; at log10(threshold) the alarm is raised."""
        return self._log() / LOG_10

    def update(
        self,
        scores: ArrayLike,
        groups: Sequence[str] | None = None,
        ids: Sequence[str] | None = None,
        times: Sequence[str] | None = None,
    ) -> int:
        """Go on with the next scores (m,), in the order of the stream; return how many were new.

        Args:
            scores: higher is more anomalous.
            groups: (m,) names; default one group, "all".
            ids: (m,) texts; an id counts once, ever. Without them every score counts.
            times: (m,) texts that name the items in reports.

        Raises:
            DataError: a score is NaN, or lengths differ.
        """
        values = judged_scores(scores)
        for name, column in (("groups", groups), ("ids", ids), ("times", times)):
            if column is not None and len(column) != len(values):
                raise DataError(f"{name}: {len(column)} for {len(values)} scores; expected one a score")
        new, self.unlike = [], 0
        for i, score in enumerate(values.astype(np.float32).tolist()):
            digest = None if ids is None else hashlib.sha256(str(ids[i]).encode()).digest()[:DIGEST]
            if digest is None or digest not in self._seen:
                new.append(i)
            if digest is not None:
                self.unlike += not math.isclose(self._seen.setdefault(digest, score), score, rel_tol=SAME)
        bits = np.random.PCG64([self.seed, 0])
        bits.advance(2 * self.count)
        draws = np.random.Generator(bits).random((len(new), 2))
        for i, draw in zip(new, draws, strict=True):
            self.count += 1
            place = Place(self.count, *(None if some is None else str(some[i]) for some in (ids, times)))
            name = "all" if groups is None else str(groups[i])
            group = self._group(name)
            group.add(float(group.ranks.p_values(values[i : i + 1], draw[None])[0]), place)
            if self.alarm is None and self._log() >= math.log(self.threshold):
                leader = max(self.groups, key=lambda one: self.groups[one].log)
                change, since = self.groups[leader].change()
                self.alarm = Alarm(leader, place, since or place, change, self.evidence)
        return len(new)

    def to_record(self) -> dict[str, Any]:
        """The state as plain data, for JSON. It grows by 16 bytes an id, and is else bounded."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "threshold": self.threshold,
            "seed": self.seed,
            "count": self.count,
            "alarm": None if self.alarm is None else asdict(self.alarm),
            "groups": {name: group.to_record() for name, group in self.groups.items()},
            "references": {name: ranks.to_record() for name, ranks in self.references.items()},
            "seen": base64.b64encode(b"".join(sorted(self._seen))).decode(),
            "scores": base64.b64encode(
                np.array([self._seen[one] for one in sorted(self._seen)], "<f4").tobytes()
            ).decode(),
        }

    @classmethod
    def from_record(cls, record: Any) -> DriftMonitor:
        """The monitor that `to_record` describes.

        Raises:
            ArtifactError: it is damaged, or of another format.
        """
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ArtifactError(f"this is no {FORMAT} state; give another file")
        if record.get("format_version") != FORMAT_VERSION:
            raise ArtifactError(
                f"state of format {record.get('format_version')}; this version reads {FORMAT_VERSION}: start a new one"
            )
        try:
            monitor = cls(record["threshold"], seed=record["seed"])
            monitor.count = int(record["count"])
            monitor.alarm = None if record["alarm"] is None else Alarm.from_record(record["alarm"])
            monitor.groups = {name: Group.from_record(one) for name, one in record["groups"].items()}
            monitor.references = {name: OnlineRanks.from_record(one) for name, one in record["references"].items()}
            seen = base64.b64decode(record["seen"], validate=True)
            scores = np.frombuffer(base64.b64decode(record["scores"], validate=True), "<f4").tolist()
            digests = (seen[at : at + DIGEST] for at in range(0, len(seen), DIGEST))
            monitor._seen = dict(zip(digests, scores, strict=True))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"the state is damaged ({error}); take an older copy, or start a new one") from None
        return monitor

    def _log(self) -> float:
        parts = [group.log for group in self.groups.values()]
        return float(np.logaddexp.reduce(parts)) if parts else 0.0

    def _group(self, name: str) -> Group:
        """The group of this name; a new one gets its share of the wealth."""
        if name not in self.groups:
            before, whole = len(self.groups), self._log()
            for group in self.groups.values():
                group.share += math.log(before / (before + 1))
            ranks = self.references.pop(name, None) or OnlineRanks()
            self.groups[name] = Group(ranks, share=whole - math.log(before + 1))
        return self.groups[name]
