"""One file an attack; `build` makes one from its name."""

from leakage_audit.attacks.base import Attack, Found, Reconstruction
from leakage_audit.attacks.cosine_tv import CosineTV
from leakage_audit.attacks.dlg import DLG
from leakage_audit.attacks.hybrid import Hybrid
from leakage_audit.attacks.joint import Joint
from leakage_audit.attacks.rgap import RGAP

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (RGAP, Hybrid, DLG, CosineTV, Joint)}


def build(name: str) -> Attack:
    """Make an attack with its default settings, or one of its presets, from `name` or `name:preset`.

    Raises:
        ValueError: If there is no such attack, or it has no such preset.
    """
    base, _, preset = name.partition(":")
    if base not in ATTACKS:
        raise ValueError(f"unknown attack {base!r}; there are {', '.join(ATTACKS)}")
    if not preset:
        return ATTACKS[base]()
    try:
        return ATTACKS[base](preset=preset)  # type: ignore[call-arg]
    except TypeError as error:
        raise ValueError(f"{base} has no presets, got {name!r}") from error


__all__ = ["ATTACKS", "DLG", "RGAP", "Attack", "CosineTV", "Found", "Hybrid", "Joint", "Reconstruction", "build"]
