"""Audits without touching code: Lightning asks this at every `Trainer(…)` of an environment with this package.

Nothing happens unless the environment variable `LEAKAGE_AUDIT` is set: to the path of a YAML file, or to YAML itself,
with the arguments of `LeakageAudit` (and, under `gate`, those of `LeakageGate`); `on` takes the defaults.

    LEAKAGE_AUDIT=on python train.py
    LEAKAGE_AUDIT='{every_n_steps: 50, gate: {limits: {audit/psnr/*: 25}, action: fail}}' python train.py
"""

import os
from pathlib import Path
from typing import Any

import yaml
from lightning import Callback

from leakage_audit.callbacks.audit import LeakageAudit
from leakage_audit.callbacks.gate import LeakageGate

VARIABLE = "LEAKAGE_AUDIT"
_ON, _OFF = {"on", "1", "true", "yes"}, {"", "off", "0", "false", "no"}


def from_environment() -> list[Callback]:
    """The callbacks that the environment asks for; none if `LEAKAGE_AUDIT` is not set.

    Raises:
        ValueError: If the variable is neither a YAML file nor settings, or a setting is unknown or out of its range.
    """
    asked = os.environ.get(VARIABLE, "").strip()
    if asked.lower() in _OFF:
        return []
    settings = {} if asked.lower() in _ON else _read(asked)
    gate = settings.pop("gate", None)
    if not isinstance(gate, dict | None):
        raise ValueError(f"{VARIABLE}: gate takes settings like '{{limits: {{audit/limit: 25}}}}', got {gate!r}")
    try:
        callbacks: list[Callback] = [LeakageAudit(**settings)]
        if gate is not None:
            callbacks.append(LeakageGate(**gate))
    except TypeError as error:
        raise ValueError(f"{VARIABLE}: {error}") from error
    return callbacks


def _read(asked: str) -> dict[str, Any]:
    path = Path(asked)
    is_file = path.suffix in (".yaml", ".yml")
    if is_file and not path.is_file():
        raise ValueError(f"{VARIABLE}={asked!r}: there is no such file")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8") if is_file else asked)
    except yaml.YAMLError as error:
        raise ValueError(f"{VARIABLE}={asked!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"{VARIABLE} must be 'on', a YAML file, or settings like '{{every_n_steps: 50}}', got {asked!r}"
        )
    return settings
