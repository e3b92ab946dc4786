"""Known fields, and names that some reader on the way would take for them."""

from collections.abc import Collection, Iterable

from gateway.domain.refusals import refuse_unknown, show


def check_names(given: Iterable[str], known: Collection[str], path: str = "") -> None:
    """Raise InvalidRequest for a name that differs from a known one in nothing but case.

    Go's `encoding/json` matches names without regard to case, and of two the last wins: beside our
    `model`, a client's `Model` would choose what is made and paid. `path` stands before the name.
    """
    mistaken = [name for name in given if name not in known and _fold(name) in known]
    if mistaken:
        name = min(mistaken)  # Whatever their order, the answer is the same.
        raise refuse_unknown(f"{path}.{show(name)}" if path else show(name), _fold(name))


def _fold(name: str) -> str:
    """Return the lower-case name that `name` is to Go, where a known name, all ASCII, can be meant.

    Two letters beyond ASCII fold into it: the Kelvin sign, as everywhere, and the long s.
    """
    return name.lower().replace("\u017f", "s")
