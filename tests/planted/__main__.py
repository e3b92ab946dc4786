"""Plants every bug in turn and tells which are caught: `python -m tests.planted [WORD ...]`.

With words, only the bugs whose name has one of them. It ends with 1 if a bug survives, or can't be
planted any more, or if its tests fail without it.
"""

import sys
import time
from collections.abc import Sequence

from tests.planted.bugs import BUGS
from tests.planted.planting import Field, Outcome, Trial, open_field


def main(words: Sequence[str]) -> int:
    chosen = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    if not chosen:
        print("There is no such bug.")
        return 2
    with open_field() as field:
        if not _is_sound(field, sorted({test for bug in chosen for test in bug.tests})):
            return 1
        width = max(len(bug.name) for bug in chosen)
        trials = []
        for bug in chosen:
            began_s = time.monotonic()
            trial = field.try_bug(bug)
            trials.append(trial)
            took_s = time.monotonic() - began_s
            line = f"{bug.name:<{width}}  {trial.outcome.value:<9}  {took_s:5.1f} s  {trial.words}"
            print(line.rstrip(), flush=True)
    return _sum_up(trials)


def _is_sound(field: Field, tests: Sequence[str]) -> bool:
    """Whether the tests pass where no bug is planted: else that they fail says nothing."""
    run = field.run(tests)
    if run.exit_code:
        print(run.output)
        print("These tests fail without any bug.")
    return not run.exit_code


def _sum_up(trials: Sequence[Trial]) -> int:
    counts = {each: sum(trial.outcome is each for trial in trials) for each in Outcome}
    told = ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count)
    print(f"{len(trials)} planted: {told}")
    return int(counts[Outcome.SURVIVED] + counts[Outcome.BROKEN] > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
