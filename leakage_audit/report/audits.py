"""One record of `audit.jsonl` as the report's numbers: by attack the average, and the image that gave most away."""

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from leakage_audit.scores.severity import SEVERITIES, severity

Numbers = dict[str, Any]


def digest(record: Mapping[str, Any], suffix: str = "") -> Numbers:
    """An audit or measurement as the report has it; see docs/report.schema.json, `audits`.

    Args:
        record: A line of `audit.jsonl`.
        suffix: Added to attacks' names, where one run holds audits of several kinds of gradient.
    """
    metrics = record.get("metrics") or {}
    found = _by_attack(record) if record.get("samples") else _averages(metrics)
    return {
        "step": record["step"],
        "epoch": record.get("epoch"),
        "kind": record.get("kind", "audit"),
        "seconds": metrics.get("audit/seconds"),
        "c": metrics.get("audit/c"),
        "joint_deficiency": metrics.get("audit/joint_deficiency"),
        "skipped": record.get("skipped"),
        "attacks": {name + suffix: numbers for name, numbers in found.items()},
    }


def _by_attack(record: Mapping[str, Any]) -> dict[str, Numbers]:
    images: dict[str, list[Numbers]] = {}
    for sample in record["samples"]:
        for name, result in (sample.get("attacks") or {}).items():
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
    return {**means, "word": highest["word"], "highest": highest}


def _averages(metrics: Mapping[str, float]) -> dict[str, Numbers]:
    """From logged averages alone; without the guess's SSIM the word rests on the PSNR."""
    chance = metrics.get("audit/chance")
    found = {}
    for name, psnr in metrics.items():
        if name.startswith("audit/psnr/") and chance is not None:
            attack = name.removeprefix("audit/psnr/")
            numbers: Numbers = {"psnr": psnr, "ssim": metrics.get(f"audit/ssim/{attack}"), "chance_psnr": chance}
            numbers |= {"chance_ssim": None, "word": severity(psnr, 0.0, chance, 1.0)}
            found[attack] = {**numbers, "highest": numbers}
    return found


def leak(numbers: Mapping[str, Any]) -> tuple[int, float]:
    """By which audits and images are ordered: the word first, then the decibels above the guess."""
    return SEVERITIES.index(numbers["word"]), numbers["psnr"] - numbers["chance_psnr"]
