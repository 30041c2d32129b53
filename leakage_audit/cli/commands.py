"""What the commands beside `leakage-audit fit` do; parameters and docstrings are the options and their help."""

import json as _json
import math
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from leakage_audit.cli.words import Several, numbers, pairs, words
from leakage_audit.compare import EVERY_CLASS, Experiment
from leakage_audit.compare import compare as run_comparison
from leakage_audit.compare.subjects import Subject
from leakage_audit.data import CIFAR10, ImageFolder, Synthetic
from leakage_audit.data.images import Images
from leakage_audit.figures import loss_plot
from leakage_audit.figures.curves import read_losses
from leakage_audit.measures.architecture import inspect_network
from leakage_audit.measures.limit import Limit, reconstruction_limit
from leakage_audit.observation import observe
from leakage_audit.priors import Gaussian, save
from leakage_audit.priors.training import learn_denoiser
from leakage_audit.report import write_report
from leakage_audit.scores.severity import EXACT_PSNR

Numbers = str | float | list[float]


def inspect(
    variant: str | None = None,
    model: str | None = None,
    input_shape: str | list[int] = "3,32,32",
    num_classes: int = 10,
    seed: int = 10,
    checkpoint: str | None = None,
    limit: bool = False,
    json: bool = False,
) -> None:
    """Print c(M) and the layer table of an architecture, before any training.

    Args:
        variant: One of the paper's networks, such as cnn3_v1.
        model: In place of a variant, the dotted path of any importable classifier that is made without arguments.
        input_shape: Channels, height and width of an image.
        num_classes: Number of a variant's classes.
        seed: Set right before the network is built.
        checkpoint: Trained weights to load.
        limit: Also compute what the gradient of a drawn image determines of it, to first order: seconds to minutes.
        json: Print one JSON object instead of the table.

    Raises:
        ValueError: If not exactly one network is named, or it does not take images of this shape.
    """
    name = str(_one_of(variant, model))
    shape = tuple(numbers("input_shape", input_shape, int))
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"input_shape must be channels,height,width, got {input_shape!r}")
    network = Subject(name, num_classes, shape[1], seed, Path(checkpoint) if checkpoint else None).build()
    inspection = inspect_network(network, (shape[0], shape[1], shape[2]), name)
    found = _limit_of_a_drawn_image(network, (shape[0], shape[1], shape[2])) if limit else None
    if json:
        about = {} if found is None else {"limit": found.psnr[0], "limit_solved": found.solved}
        print(_json.dumps(inspection.as_dict() | about, indent=2))
    else:
        Console().print(inspection)
        if found is not None:
            at_least = "exactly, to " if found.psnr[0] >= EXACT_PSNR else "to " if found.solved else "to at least "
            rank = found.rank[0] if found.rank else "unknown"
            print(f"A drawn image's gradient determines it {at_least}{found.psnr[0]:.1f} dB (rank of J {rank}).")


def compare(
    data: str,
    output: str,
    variants: Several | None = None,
    model: str | None = None,
    attacks: Several = "rgap,joint",
    indices: str | int | list[int] = "1,3",
    seed: int = 10,
    checkpoint: str | None = None,
    mean: Numbers = "0.5",
    std: Numbers = "1",
    precision: int = 32,
    scale: float = 1.0,
    seconds: float | None = None,
    limit: bool = True,
    pretrained: Several | None = None,
    image_size: int = 32,
    accelerator: str = "cpu",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: str = "auto",
) -> None:
    """Run attacks on networks and images; write results.csv and figure.png, and print the table.

    A run that was broken off goes on where it stopped when it is started again with the same output.

    Args:
        data: An image folder, a place of torchvision's CIFAR-10, or the word synthetic for drawn images.
        output: Directory for the results.
        variants: Some of the paper's networks, separated by commas.
        model: In place of variants, the dotted path of any importable classifier that is made without arguments.
        attacks: Separated by commas, each name or name:preset; joint:FILE takes a prior that was learned.
        indices: Of the training images, separated by commas, or one-per-class.
        seed: Set right before each network is built; also the attacks' seed.
        checkpoint: Trained weights to load.
        mean: Subtracted from the images in [0, 1]; one number, or one per channel separated by commas.
        std: Divides the images; one number, or one per channel separated by commas.
        precision: 32 or 64, bits of the weights and gradients.
        scale: Multiplies every attack's number of iterations.
        seconds: Time limit of each attack on each image.
        limit: Whether to compute, beside the attacks, what any attack can get of each image, to first order.
        pretrained: Further rows with trained weights, as network=checkpoint, separated by commas.
        image_size: Height and width that images are brought to.
        accelerator: As Lightning's Trainer takes it.
        devices: Processes on this machine that share the work.
        num_nodes: Machines that share the work.
        strategy: As Lightning's Trainer takes it.

    Raises:
        ValueError: If something asked for does not exist or cannot be run.
    """
    experiment = Experiment(
        data=images_at(data, image_size),
        networks=words(_one_of(variants, model)),
        attacks=words(attacks),
        indices=indices if indices == EVERY_CLASS else numbers("indices", indices, int),
        seed=seed,
        checkpoint=Path(checkpoint) if checkpoint else None,
        mean=numbers("mean", mean, float),
        std=numbers("std", std, float),
        precision=precision,
        scale=scale,
        seconds=seconds,
        limit=limit,
        pretrained=pairs("pretrained", pretrained),
    )
    run_comparison(
        experiment,
        output,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        console=Console(),
    )


def prior(
    data: str,
    output: str,
    kind: str = "denoiser",
    exclude: str | int | list[int] | None = None,
    image_size: int = 32,
    epochs: int = 60,
    width: int = 96,
    held_out: int = 200,
    seed: int = 0,
    accelerator: str = "auto",
    devices: int = 1,
    precision: str = "32-true",
) -> None:
    """Learn from public images what images look like; attack with the result by --attacks joint:FILE.

    Args:
        data: An image folder, a place of torchvision's CIFAR-10, or the word synthetic for drawn images.
        output: File for the prior.
        kind: gaussian (mean and covariance, seconds) or denoiser (a small network, minutes to an hour).
        exclude: Indices of training images to leave out, separated by commas: those to be attacked.
        image_size: Height and width that images are brought to.
        epochs: Passes over the images, for a denoiser.
        width: Channels of the denoiser's finer scale.
        held_out: About how many images the denoiser is tested on instead of learned from.
        seed: Of the denoiser's weights, the order of images and the noise.
        accelerator: As Lightning's Trainer takes it.
        devices: As Lightning's Trainer takes it.
        precision: As Lightning's Trainer takes it; bf16-mixed is several times faster on recent processors.

    Raises:
        ValueError: If something asked for does not exist or cannot be learned.
    """
    if kind not in ("gaussian", "denoiser"):
        raise ValueError(f"kind must be gaussian or denoiser, got {kind!r}")
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    images = images_at(data, image_size).all_but(() if exclude is None else numbers("exclude", exclude, int))
    if kind == "gaussian":
        save(Gaussian.fit(images), output)
        print(f"mean and covariance of {len(images)} images")
    else:
        kept = torch.arange(len(images)) % max(2, len(images) // held_out) > 0
        trainer: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "precision": precision}
        denoiser, psnr = learn_denoiser(images[kept], images[~kept], epochs, width=width, seed=seed, **trainer)
        save(denoiser, output)
        for strength, value in psnr.items():
            noisy = -20 * math.log10(float(strength))
            print(f"noise {strength}: {noisy:.1f} dB → {value:.1f} dB on {int((~kept).sum())} images held out")
    print(f"{output}: attack with it by --attacks joint:{output}")


def report(run: str, /, output: str | None = None) -> None:
    """Write a page about a fit, finished or broken off: report.html, report.json and junit.xml.

    Args:
        run: The fit's log directory, or a folder above it: then the newest run below.
        output: Where the files go; into the log directory if not given.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing in it was audited.
    """
    for path in write_report(run, output).values():
        print(path)


def losses(run: str, figure: str, /, train: str = "train/loss", test: str = "val/loss") -> None:
    """Plot the training and test loss of a fit against the epoch, as in the paper's Figure 4, from its logs.

    Args:
        run: The fit's log directory.
        figure: Where to save the plot; its ending says the format.
        train: Name that the training loss was logged under.
        test: Name that the test loss was logged under.

    Raises:
        FileNotFoundError: If the directory holds no logs.
        ValueError: If a loss was not logged.
    """
    loss_plot(*read_losses(run, train, test), path=figure)
    print(figure)


def _limit_of_a_drawn_image(network: nn.Module, shape: tuple[int, int, int]) -> Limit:
    """What any attack can get of one of the drawn images, cut to the shape `(C, H, W)`."""
    size = max(shape[1:])
    image = Synthetic(image_size=size).image_at(1).image[:, : shape[1], : shape[2]]
    if shape[0] != len(image):
        image = image.mean(0, keepdim=True).expand(shape[0], -1, -1)
    network = network.eval()
    seen = observe(network, image, 0, mean=0.5)
    return reconstruction_limit(seen, image, 0)


def images_at(place: str, image_size: int = 32, classes: list[str] | None = None) -> Images:
    """The images that `--data` names.

    Args:
        place: An image folder, a place of torchvision's CIFAR-10, or `synthetic`.
        image_size: Height and width that images are brought to.
        classes: Some of the classes; all by default.

    Raises:
        FileNotFoundError: If there is nothing at that place.
    """
    if place == "synthetic":
        return Synthetic(image_size=image_size, classes=classes)
    if not Path(place).is_dir():
        raise FileNotFoundError(f"--data: no folder {Path(place).absolute()}; drawn images need none: --data synthetic")
    if (Path(place) / "cifar-10-batches-py").is_dir():
        return CIFAR10(place, image_size=image_size, classes=classes)
    return ImageFolder(place, image_size=image_size, classes=classes)


def _one_of(variant: Several | None, model: str | None) -> Several:
    if (variant is None) == (model is None):
        raise ValueError("name either a variant of the paper or, by --model, a classifier of your own")
    return variant or model or ""
