"""The page about the zoo."""

import re
from collections.abc import Sequence

from tests.zoo.doors import Result

_PATH = re.compile(r"(?:\S*/)?(?:zoo-|tmp)[^\s:,]*/")


def line(result: Result) -> str:
    """A model and what came of it."""
    return f"{result.entry.name}: {'; '.join(result.wrong) or verdict(result)} ({result.seconds:.1f} s)"


def verdict(result: Result) -> str:
    """What came of it, for the table."""
    if result.wrong:
        return "WRONG: " + "; ".join(result.wrong)
    return (
        f"refused by `{result.refused.partition(':')[0]}`: {result.refused.partition(': ')[2]}"
        if result.refused
        else "right"
    )


def written(results: Sequence[Result], *, of: int, seed: int, real: bool) -> str:
    """The page.

    Args:
        results: of all models.
        of: how many models there are; the run was ended before its end if these are more.
        seed: of their rows.
        real: whether services of their own answered.
    """
    wrong, refused = sum(1 for r in results if r.wrong), sum(1 for r in results if r.refused and not r.wrong)
    how = (
        "through `init`, `check` and a service of its own (`understudy serve`)"
        if real
        else "through `init`, `check` and the service's own front door, candidate calls, rehearsals and store in one process, "
        "without sockets (`--in-process`)"
    )
    about = (
        f"Written by `make zoo`. {len(results)} models that the repository's own script builds, each {how}: `/predict`, V2 as "
        "JSON and V2 as raw tensors, answered by the primary and by the candidate, then the rehearsals' comparison and labels. "
        "Each answer is compared with `onnxruntime.InferenceSession.run` on that row alone, element by element."
    )
    if len(results) < of:
        about += f" The run was ended early: {of - len(results)} more were not played."
    right = len(results) - wrong - refused
    summary = f"**{right} right at all doors, {refused} refused with one sentence, {wrong} wrong.** Seed {seed}."
    head = "| model | built by | inputs → outputs | doors | result |"
    text = ["# Models that were tried", "", about, "", summary, "", head, "|---|---|---|---|---|"]
    for result in results:
        played = f"{sum(said == 'right' for said in result.doors.values())} of {len(result.doors)}"
        signature = f"{_tensors(result.inputs)} → {_tensors(result.outputs)}" if result.inputs else ""
        cells = (result.entry.name, result.entry.by, _cell(signature), played, _cell(verdict(result)))
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def _tensors(tensors: object) -> str:
    assert isinstance(tensors, dict)
    listed = [f"{name} {kind}" for name, kind in tensors.items()]
    return ", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")


def _cell(text: str) -> str:
    text = _PATH.sub("", text)[:400]
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
