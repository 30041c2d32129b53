"""`leakage-audit sweep` and `leakage-audit filter`: what defences are worth, what a filter lets through."""

import json as _json
from dataclasses import asdict
from typing import Any

from rich.console import Console

from leakage_audit.cli.commands import images_at
from leakage_audit.cli.words import numbers, words
from leakage_audit.sweep import DEFAULT, Recipe, Sweep, read_record, run_point, run_sweep
from leakage_audit.sweep.filter import audit_filter
from leakage_audit.sweep.terminal import sentence


def sweep(
    data: str | None = None,
    output: str | None = None,
    network: str = "cnn3_v1",
    mechanisms: dict[str, list[float]] | None = None,
    classes: str | list[str] | None = None,
    image_size: int = 16,
    steps: int = 200,
    batch_size: int = 64,
    lr: float = 1e-3,
    indices: str | int | list[int] = "1,3",
    attacks: str | list[str] = "joint",
    seed: int = 10,
    seconds: float | None = None,
    draws: int = 1,
    reproduce: str | None = None,
    accelerator: str = "cpu",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
) -> None:
    """Train under each defence at each strength; write what it costs and what it leaves.

    Writes results.csv, pareto.png and sweep.html, and one record a point. A sweep that was broken off goes on where it
    stopped when it is started again with the same output.

    Args:
        data: An image folder, a place of torchvision's CIFAR-10, or the word synthetic for drawn images.
        output: Directory for the results.
        network: One of the paper's networks, or the dotted path of any importable classifier.
        mechanisms: Strengths by mechanism; a dotted name takes one of your own, called with its strength.
        classes: Some of the classes, separated by commas; all by default.
        image_size: Height and width that images are brought to.
        steps: Optimiser steps of each training.
        batch_size: Images a step.
        lr: Learning rate of Adam.
        indices: Of the training images that are attacked, separated by commas.
        attacks: Separated by commas, each name or name:preset.
        seed: Of weights, order and noise.
        seconds: Time limit of each attack on each image, by both attackers together.
        draws: Of noise, whose results are averaged; what has no noise has one.
        reproduce: In place of all of these, the record of one point, which is measured again.
        accelerator: As Lightning's Trainer takes it.
        devices: Processes on this machine that share the points.
        num_nodes: Machines that share the points.
        strategy: As Lightning's Trainer takes it.

    Raises:
        ValueError: If something asked for does not exist or cannot be run.
    """
    if reproduce is not None:
        _again(reproduce)
        return
    if data is None or output is None:
        raise ValueError("give data and output, or the record of a point to reproduce")
    source = {"data": data, "classes": None if classes is None else words(classes), "image_size": image_size}
    recipe = Recipe(_images(source), network, steps, batch_size, lr, seed)
    chosen = Sweep(recipe, mechanisms or DEFAULT, numbers("indices", indices, int), words(attacks), seconds, draws)
    run_sweep(
        chosen, output, source=source, accelerator=accelerator, devices=devices, num_nodes=num_nodes,
        strategy=strategy, console=Console(),
    )  # fmt: skip


def filter(
    function: str,
    /,
    data: str | None = None,
    network: str = "cnn3_v1",
    indices: str | int | list[int] = "1,3",
    attacks: str | list[str] = "joint",
    image_size: int = 32,
    num_classes: int = 10,
    seed: int = 10,
    checkpoint: str | None = None,
    seconds: float | None = None,
    json: bool = False,
) -> None:
    """Say in dB what a filter of gradients lets through: the limit, and the best attack.

    Args:
        function: Dotted name of any callable from gradients to gradients: by name, or as a list of tensors; or of a
            class that is made without arguments.
        data: An image folder, a place of torchvision's CIFAR-10, or the word synthetic for drawn images.
        network: One of the paper's networks, or the dotted path of any importable classifier.
        indices: Of the training images, separated by commas.
        attacks: Separated by commas, each name or name:preset.
        image_size: Height and width that images are brought to.
        num_classes: Number of a variant's classes.
        seed: Set right before the network is built.
        checkpoint: Trained weights to load.
        seconds: Time limit of each attack on each image, by both attackers together.
        json: Print one JSON object instead of the table.

    Raises:
        ValueError: If the filter cannot be used: it changes shapes, returns NaN, or does not exist.
    """
    if data is None:
        raise ValueError("give --data: an image folder, a place of torchvision's CIFAR-10, or the word synthetic")
    images = images_at(data, image_size)
    found = audit_filter(
        function, images, network, numbers("indices", indices, int), words(attacks), num_classes=num_classes, seed=seed,
        checkpoint=checkpoint, seconds=seconds,
    )  # fmt: skip
    if json:
        print(_json.dumps(asdict(found), indent=2))
    else:
        Console().print(found.table())


def _images(source: dict[str, Any]) -> Any:
    return images_at(source["data"], source["image_size"], source["classes"])


def _again(path: str) -> None:
    """Measure the point of a record again, and set both results side by side."""
    record = read_record(path)
    about, point = record["sweep"], record["point"]
    recipe = Recipe(
        _images(record["source"]), about["network"], about["steps"], about["batch_size"], about["lr"], about["seed"],
        about["mean"], about["std"],
    )  # fmt: skip
    chosen = Sweep(
        recipe,
        {point["mechanism"]: [point["strength"]]},
        about["indices"],
        about["attacks"],
        about["seconds"],
        about.get("draws", 1),
    )
    if _json.loads(_json.dumps(chosen.identity)) != {"draws": 1} | about:
        raise ValueError(f"the data at {record['source']['data']} are not those of {path}")
    row = run_point(chosen, (point["mechanism"], point["strength"]))
    held = {name: value for name, value in record["row"].items() if name != "seconds"}
    found = {name: value for name, value in asdict(row).items() if name != "seconds"}
    differing = [f"{name}: {held[name]} then, {found[name]} now" for name in held if held[name] != found[name]]
    print(sentence(row))
    print("; ".join(differing) if differing else "the same as in the record")
