"""One file an attack; `build` makes one from its name."""

from leakage_audit.attacks.base import Attack, Found, Reconstruction
from leakage_audit.attacks.cosine_tv import CosineTV
from leakage_audit.attacks.dlg import DLG
from leakage_audit.attacks.hybrid import Hybrid
from leakage_audit.attacks.joint import Joint
from leakage_audit.attacks.joint_options import JointOptions
from leakage_audit.attacks.rgap import RGAP

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (RGAP, Hybrid, DLG, CosineTV, Joint)}


def build(name: str) -> Attack:
    """Make an attack with its default settings, or another preset or prior, from `name` or `name:preset`.

    Example:
        >>> build("cosine_tv:paper").settings["iterations"]
        4800

    Raises:
        ValueError: If there is no such attack, or it has no such preset.
    """
    base, _, preset = name.partition(":")
    if base not in ATTACKS:
        raise ValueError(f"unknown attack {base!r}; there are {', '.join(ATTACKS)}")
    attack = ATTACKS[base]
    if not preset:
        return attack()
    if attack.choice is None:
        raise ValueError(f"{base} has no presets, got {name!r}")
    return attack(**{attack.choice: preset})


__all__ = [
    "ATTACKS",
    "DLG",
    "RGAP",
    "Attack",
    "CosineTV",
    "Found",
    "Hybrid",
    "Joint",
    "JointOptions",
    "Reconstruction",
    "build",
]
