"""What the report says first, in words that a reader can act on."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from leakage_audit.readings.reading import WORST_FIRST, Status
from leakage_audit.report.audits import attacked, leak
from leakage_audit.report.records.report_file import Verdict

HEADLINES = {
    "exact": "Training images came back exactly",
    "recognisable": "Training images came back recognisably",
    "silhouette": "Outlines of training images came back",
    "unrecognisable": "Nothing recognisable came back",
}
MILD = ("unrecognisable", "silhouette")  # words that must not be taken for a proof
# What a headline without a leak goes on with, so that nobody takes it for more than is known.
KNOWN = {
    Status.PROTECTED: "; the gradient determines no recognisable image",
    Status.OPEN: ", but the gradient determines a recognisable image",
    Status.UNKNOWN: "; what a better attack could get is not known",
}
REASONS = 3  # why there is no result, at most
GATES = ("exceeded", "unjudged", "passed")  # from bad to good


def judge(audits: Sequence[Mapping[str, Any]], gates: Sequence[Mapping[str, Any]]) -> Verdict:
    """The run's verdict.

    Args:
        audits: As `audits.digest` makes them, by step.
        gates: As `gates.digest` makes them.
    """
    everything = [
        {"step": audit["step"], "attack": name, "ssim": None, **numbers["highest"]}
        for audit in audits
        for name, numbers in audit["attacks"].items()
    ]
    states_found = [Status(audit["status"]) for audit in audits if audit["status"] is not None]
    status = min(states_found, key=WORST_FIRST.index, default=None)
    found: dict[str, Any] = {"word": None, "worst": None, "latest": None}
    if everything:
        worst = max(everything, key=leak)
        end = attacked(audits)[-1]["step"]
        last = [x for x in everything if x["step"] == end]  # none if that audit had no result
        found = {"word": worst["word"], "worst": worst, "latest": max(last, key=leak, default=None)}
    found["status"] = None if status is None else str(status)
    found["headline"] = _headline(found["word"], status, any(audit["no_result"] for audit in audits))
    states = {gate["verdict"] for gate in gates}
    found["gates"] = next((state for state in GATES if state in states), "none")
    return cast(Verdict, found | {"detail": _detail(found, audits)})


def _headline(word: str | None, status: Status | None, unfinished: bool) -> str:
    if word is not None and word not in MILD:
        return HEADLINES[word]
    if status is Status.LEAKS:
        return "Training images leaked to attacks that had no time to end"
    nothing = "No attack came to a result" if unfinished else "No attack was scored"
    return (nothing if word is None else HEADLINES[word]) + ("" if status is None else KNOWN[status])


def _detail(found: Mapping[str, Any], audits: Sequence[Mapping[str, Any]]) -> str:
    worst, latest = found["worst"], found["latest"]
    if worst is None and any(audit["no_result"] for audit in audits):
        reasons = dict.fromkeys(f"{a}: {why}" for audit in audits for a, why in audit["no_result"].items())
        return f"{_status_says(found)} {'; '.join(list(reasons)[:REASONS])}."
    if worst is None:
        skipped = sum(audit["skipped"] is not None for audit in audits)
        if skipped:
            return f"{skipped} of {len(audits)} audits were skipped; the reasons are below."
        return "Only the layers' systems were measured; no reconstruction was attempted."
    exactly = "the exact image: " if worst["word"] == "exact" else ""  # how many dB then says only how it was rounded
    says = f"At step {worst['step']}, {worst['attack']} reached {exactly}{scores(worst)}."
    if latest is not None and latest["step"] != worst["step"]:
        says += f" In the last audit, at step {latest['step']}: {latest['word']}, {scores(latest)}."
    last = attacked(audits)[-1]
    if last["no_result"]:
        missing = "; ".join(f"{name}, {why}" for name, why in [*last["no_result"].items()][:REASONS])
        says += f" At step {last['step']} there is no result: {missing}."
    if found["word"] in MILD:
        names = dict.fromkeys(name for audit in audits for name in audit["attacks"])
        says += f" That is as far as {', '.join(names)} went."
        says += " A stronger attack may see more." if found["status"] != Status.PROTECTED else ""
        says += " " + _status_says(found)
    return says


def _status_says(found: Mapping[str, Any]) -> str:
    return f"Status {found['status']}: {Status(found['status']).meaning}."


def scores(numbers: Mapping[str, Any]) -> str:
    """A PSNR with what it has to be held against."""
    ssim = "" if numbers["ssim"] is None else f", SSIM {numbers['ssim']:.2f}"
    return f"{numbers['psnr']:.1f} dB{ssim}, where a guess scores {numbers['chance_psnr']:.1f} dB"
