"""Which attacker an audit plays, as a letter of the taxonomy of Carletti et al. (*SoK: Gradient Inversion Attacks*).

The letters add up: each attacker holds what the one before holds, and something more. A: the gradient, the network and
the batch's size; B: that images are smooth, or the like; C: how the client trains; D: public images of the same kind;
E: the statistics of batch normalisation (docs/threat-model.md).
"""

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from leakage_audit.attacks.base import Attack
from leakage_audit.priors import PRIORS, Denoiser, Gaussian, Tikhonov


def threat_model(attacks: Iterable[Attack], network: nn.Module, labels_granted: bool) -> str:
    """The letter of the least attacker who holds what these attacks use.

    A network with running statistics shares them as it shares its weights, which makes any attack on it one of E.

    Args:
        attacks: Those of an audit; the one that uses most decides.
        network: Audited.
        labels_granted: Whether the attacker is told the labels, which no letter stands for: `+labels`.

    Example:
        >>> from leakage_audit.attacks import RGAP, Joint
        >>> from leakage_audit.models import build
        >>> threat_model([RGAP()], build("cnn2_v1"), False), threat_model([RGAP(), Joint()], build("cnn2_v1"), True)
        ('A', 'B+labels')
    """
    letter = max((_of(attack) for attack in attacks), default="A")
    if any(isinstance(part, _NormBase) and part.track_running_stats for part in network.modules()):
        letter = "E"
    return letter + ("+labels" if labels_granted else "")


def _of(attack: Attack) -> str:
    if attack.name in ("rgap", "dlg"):  # linear algebra, and gradients alone
        return "A"
    prior = getattr(attack, "prior", None)
    if isinstance(prior, str) and prior in PRIORS:
        prior = PRIORS[prior]()
    if isinstance(prior, str | Denoiser | Gaussian):  # a file, or what was in one
        return "D"
    return "A" if isinstance(prior, Tikhonov) else "B"
