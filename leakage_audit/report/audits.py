"""One record of `audit.jsonl` as the report's numbers: by attack the average, and the image that gave most away."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

from leakage_audit.readings.metric_table import CHANCE, JOINT_DEFICIENCY, PSNR, SECONDS, SSIM, C
from leakage_audit.readings.reading import PROOF, Status, status
from leakage_audit.report.records.report_file import AttackNumbers, AuditDigest
from leakage_audit.scores.severity import SEVERITIES, severity

Numbers = dict[str, Any]


def digest(record: Mapping[str, Any], suffix: str = "") -> AuditDigest:
    """An audit or measurement as the report has it.

    Args:
        record: A line of `audit.jsonl`.
        suffix: Added to attacks' names, where one run holds several audits.
    """
    metrics = record.get("metrics") or {}
    own = untagged(record)
    found = _by_attack(record) if record.get("samples") else _averages(own)
    missing = dict(record.get("no_result") or _reasons(record))
    # A low word of some images says nothing where another image's attack has no result; a leak stays one.
    found = {name: x for name, x in found.items() if name not in missing or SEVERITIES.index(x["word"]) >= PROOF}
    return {
        "step": record["step"],
        "epoch": record.get("epoch"),
        "kind": record.get("kind", "audit"),
        "seconds": own.get(SECONDS.name),
        "c": own.get(C.name),
        "joint_deficiency": own.get(JOINT_DEFICIENCY.name),
        "metrics": metrics,
        "status": _status(record, found, bool(missing)),
        "no_result": {name + suffix: reason for name, reason in missing.items()},
        "skipped": record.get("skipped"),
        "attacks": {name + suffix: cast(AttackNumbers, numbers) for name, numbers in found.items()},
    }


def tag_of(record: Mapping[str, Any]) -> str:
    """What the names of a record's numbers begin with; not `audit` for the further audits of one trainer."""
    return record.get("tag") or "audit"


def untagged(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record's numbers by the names that they have for the only audit of a trainer.

    >>> untagged({"tag": "audit_step", "metrics": {"audit_step/c": -1.0}})
    {'audit/c': -1.0}
    """
    tag = tag_of(record) + "/"
    return {
        "audit/" * name.startswith(tag) + name.removeprefix(tag): x for name, x in (record.get("metrics") or {}).items()
    }


def suffixes(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What tells each record's attacks from those of the run's other audits; nothing where there is one."""
    several = len({record.get("gradient") for record in records}) > 1

    def suffix(record: Mapping[str, Any]) -> str:
        if tag_of(record) != "audit":
            return f" ({tag_of(record).removeprefix('audit_').replace('_', ' ')})"
        return f" ({record.get('gradient')})" if several else ""

    return [suffix(record) for record in records]


def _status(record: Mapping[str, Any], found: Mapping[str, Numbers], missing: bool) -> Any:
    """What the record says, or of one that is older than this word what follows from what was proven."""
    if record.get("status") in list(Status):
        return record["status"] if found or missing or record.get("samples") else None
    words = [numbers["word"] for numbers in found.values()]
    if not words and not missing:
        return None
    return str(status(max(words, key=SEVERITIES.index, default=None), not missing, None, False))


def _reasons(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for sample in record.get("samples") or ():
        for name, result in (sample.get("attacks") or {}).items():
            if (reason := _no_result(result)) is not None:
                yield name, reason


def _no_result(result: Mapping[str, Any]) -> str | None:
    return result.get("no_result") or ("out of time" if result.get("out_of_time") else None)


def _by_attack(record: Mapping[str, Any]) -> dict[str, Numbers]:
    images: dict[str, list[Numbers]] = {}
    for sample in record["samples"]:
        for name, result in (sample.get("attacks") or {}).items():
            if _no_result(result) is None:
                images.setdefault(name, []).extend(_images(sample, result))
    return {name: _summary(found) for name, found in images.items() if found}


def _images(sample: Mapping[str, Any], result: Mapping[str, Any]) -> Iterator[Numbers]:
    """Each reconstruction's scores beside those of a guess for the same image."""
    floor = sample["floor"]
    for i, psnr in enumerate(result["psnr"]):
        ssim, truth = result["ssim"][i], (result.get("order") or range(len(result["psnr"])))[i]
        chance_psnr, chance_ssim = floor["psnr"][truth], floor["ssim"][truth]
        yield {
            "psnr": psnr,
            "ssim": ssim,
            "chance_psnr": chance_psnr,
            "chance_ssim": chance_ssim,
            "word": severity(psnr, ssim, chance_psnr, chance_ssim),
        }


def _summary(images: list[Numbers]) -> Numbers:
    """Averages, and the numbers of the image that gave most away; one that came back is not made good by others."""
    highest = max(images, key=leak)
    means = {name: fmean(image[name] for image in images) for name in ("psnr", "ssim", "chance_psnr", "chance_ssim")}
    return {
        **means,
        "word": highest["word"],
        "highest": highest,
        "lowest": min(images, key=leak),
        "images": len(images),
        "recognisable": sum(SEVERITIES.index(image["word"]) >= PROOF for image in images),
    }


def _averages(metrics: Mapping[str, float]) -> dict[str, Numbers]:
    """From logged averages alone; without the guess's SSIM the word rests on the PSNR."""
    chance = metrics.get(CHANCE.name)
    found = {}
    for name, psnr in metrics.items():
        if PSNR.matches(name) and chance is not None:
            attack = name.removeprefix(PSNR.of(""))
            numbers: Numbers = {"psnr": psnr, "ssim": metrics.get(SSIM.of(attack)), "chance_psnr": chance}
            numbers |= {"chance_ssim": None, "word": severity(psnr, 0.0, chance, 1.0)}
            found[attack] = {**numbers, "highest": numbers}
    return found


def attacked(audits: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those in which something was attacked, with or without a result."""
    return [audit for audit in audits if audit["attacks"] or audit["no_result"]]


def never_ended(audits: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Attacks that came to a result in no audit, and why not the last time."""
    reasons = {name: reason for audit in audits for name, reason in audit["no_result"].items()}
    return {name: why for name, why in reasons.items() if not any(name in audit["attacks"] for audit in audits)}


def of_images(numbers: Mapping[str, Any]) -> str:
    """How many of an audit's images an attack got back recognisably.

    >>> of_images({"recognisable": 5, "images": 8}), of_images({})
    ('5 of 8', '–')
    """
    return f"{numbers['recognisable']} of {numbers['images']}" if "images" in numbers else "–"


def of_batches(report: Mapping[str, Any]) -> bool:
    """Whether an attack was tried on several images at once, so that how many came back is worth a column.

    >>> of_batches({"attacks": [{"worst": {"images": 8}}]}), of_batches({"attacks": [{"worst": {}}]})
    (True, False)
    """
    return any(attack["worst"].get("images", 1) > 1 for attack in report["attacks"])


def leak(numbers: Mapping[str, Any]) -> tuple[int, float]:
    """By which audits and images are ordered: the word first, then the decibels above the guess."""
    return SEVERITIES.index(numbers["word"]), numbers["psnr"] - numbers["chance_psnr"]
