"""The outcome journal of a simulated gateway: lines on a disk that outlives the process.

The lines are those of `gateway/journal.py`. A process that dies while it writes one leaves it
whole, torn or not at all.
"""

from collections.abc import Collection
from dataclasses import dataclass
from random import Random
from typing import Final

from gateway.errors import StorageUnavailable
from gateway.journal import _decode, _encode
from gateway.ports import JournalContents, JournalEntry
from tests.simulation.loop import Owner, SimulatedLoop

_LATENCY_S_MAX: Final = 0.01


@dataclass(frozen=True, slots=True)
class JournalWeather:
    """How often the journal's disk does what, as shares of calls."""

    full: float = 0.0
    answer_lost: float = 0.0


class JournalDisk:
    """The file: what was appended is there until it is forgotten, whoever lives."""

    def __init__(self, loop: SimulatedLoop, weather: JournalWeather, draws: Random) -> None:
        self.loop = loop
        self.weather = weather
        self.draws = draws
        self.lines: list[bytes] = []
        self.appended_count = 0
        self.fault_counts: dict[str, int] = {}
        self._in_progress: dict[Owner, list[bytes]] = {}

    def open(self, owner: Owner) -> "SimulatedJournal":
        return SimulatedJournal(self, owner)

    def is_struck(self, share: float, fault: str) -> bool:
        is_struck = bool(share) and self.draws.random() < share
        if is_struck:
            self.note(fault)
        return is_struck

    def note(self, fault: str) -> None:
        self.fault_counts[fault] = self.fault_counts.get(fault, 0) + 1

    def begin(self, owner: Owner, line: bytes) -> None:
        self._in_progress.setdefault(owner, []).append(line)

    def end(self, owner: Owner, line: bytes) -> None:
        self._in_progress[owner].remove(line)

    def tear(self, owner: Owner) -> None:
        """Leave of what a process was writing what a kill leaves of it."""
        for line in self._in_progress.pop(owner, ()):
            share = self.draws.choice((0.0, 0.5, 1.0))
            if share:
                self.lines.append(line[: int(len(line) * share)])
                self.note("journal line torn" if share < 1 else "journal line whole at a kill")

    def count_damaged(self) -> int:
        return sum(_decode(line) is None for line in self.lines)


class SimulatedJournal:
    """The Journal port of one process."""

    def __init__(self, disk: JournalDisk, owner: Owner) -> None:
        self._disk = disk
        self._owner = owner

    async def append(self, entry: JournalEntry) -> None:
        disk, line = self._disk, _encode(entry)
        disk.begin(self._owner, line)
        await self._pass_time()
        disk.end(self._owner, line)
        if disk.is_struck(disk.weather.full, "journal full"):
            raise StorageUnavailable("The outcome journal can't be written: simulated.")
        disk.lines.append(line)
        disk.appended_count += 1
        if disk.is_struck(disk.weather.answer_lost, "journal answer lost"):
            raise StorageUnavailable("The outcome journal can't be written: simulated.")

    async def read_all(self) -> JournalContents:
        await self._pass_time()
        found = [_decode(line) for line in self._disk.lines]
        entries = dict.fromkeys(entry for entry in found if entry is not None)
        return JournalContents(tuple(entries), found.count(None))

    async def forget(self, entries: Collection[JournalEntry]) -> None:
        await self._pass_time()
        gone = frozenset(map(_encode, entries))
        kept = [line for line in self._disk.lines if line not in gone]
        self._disk.lines = [line for line in kept if _decode(line) is not None]

    async def close(self) -> None:
        """Nothing is open that would outlive the process."""

    async def _pass_time(self) -> None:
        disk = self._disk
        await disk.loop.pass_time(disk.draws.uniform(0, _LATENCY_S_MAX), self._owner)
