"""What the report says first, in words that a reader can act on."""

from collections.abc import Mapping, Sequence
from typing import Any

from leakage_audit.report.audits import leak

HEADLINES = {
    "exact": "Training images came back exactly",
    "recognisable": "Training images came back recognisably",
    "silhouette": "Outlines of training images came back",
    "unrecognisable": "Nothing recognisable came back",
}
MILD = ("unrecognisable", "silhouette")  # words that must not be taken for a proof
GATES = ("exceeded", "unjudged", "passed")  # from bad to good


def judge(audits: Sequence[Mapping[str, Any]], gates: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run's verdict; see docs/report.schema.json, `verdict`.

    Args:
        audits: As `audits.digest` makes them, by step.
        gates: As `gates.digest` makes them.
    """
    everything = [
        {"step": audit["step"], "attack": name, "ssim": None, **numbers["highest"]}
        for audit in audits
        for name, numbers in audit["attacks"].items()
    ]
    found: dict[str, Any] = {"word": None, "headline": "No attack was scored", "worst": None, "latest": None}
    if everything:
        last = everything[-1]["step"]
        worst, latest = max(everything, key=leak), max((x for x in everything if x["step"] == last), key=leak)
        found = {"word": worst["word"], "headline": HEADLINES[worst["word"]], "worst": worst, "latest": latest}
    states = {gate["verdict"] for gate in gates}
    found["gates"] = next((state for state in GATES if state in states), "none")
    return found | {"detail": _detail(found, audits)}


def _detail(found: Mapping[str, Any], audits: Sequence[Mapping[str, Any]]) -> str:
    worst, latest = found["worst"], found["latest"]
    if worst is None:
        skipped = sum(audit["skipped"] is not None for audit in audits)
        if skipped:
            return f"{skipped} of {len(audits)} audits were skipped; the reasons are below."
        return "Only the layers' systems were measured; no reconstruction was attempted."
    says = f"At step {worst['step']}, {worst['attack']} reached {scores(worst)}."
    if latest["step"] != worst["step"]:
        says += f" In the last audit, at step {latest['step']}: {latest['word']}, {scores(latest)}."
    if found["word"] in MILD:
        names = dict.fromkeys(name for audit in audits for name in audit["attacks"])
        says += f" That is as far as {', '.join(names)} went; a stronger attack may see more."
    return says


def scores(numbers: Mapping[str, Any]) -> str:
    """A PSNR with what it has to be held against."""
    ssim = "" if numbers["ssim"] is None else f", SSIM {numbers['ssim']:.2f}"
    return f"{numbers['psnr']:.1f} dB{ssim}, where a guess scores {numbers['chance_psnr']:.1f} dB"
