"""Every option of an attack and of the audit can be set, from YAML too, is recorded, and does something."""

import inspect
import json
from dataclasses import fields, is_dataclass, replace

import jsonargparse
import pytest
import torch
from cases import NETWORKS
from torch import nn

import leakage_audit.callbacks as callbacks
from leakage_audit.attacks import ATTACKS, RGAP, Hybrid, Joint, JointOptions
from leakage_audit.attacks.corrections import Terms
from leakage_audit.callbacks.settings import AuditOptions
from leakage_audit.equations.autograd import AutogradEquations, AutogradOptions
from leakage_audit.equations.choose import equations_of_one
from leakage_audit.equations.input_from_gradient import InputOptions
from leakage_audit.equations.known_inputs import RecoveryOptions
from leakage_audit.equations.layer_peeling import PeelingOptions, peel_layers
from leakage_audit.equations.network_recovery import NetworkRecoveryOptions
from leakage_audit.equations.recovered_inputs import RecoveredInputEquations
from leakage_audit.layerwise.gram_factors import FactorOptions
from leakage_audit.measures.noise import NoiseOptions, effective_metric
from leakage_audit.measures.security import SecurityOptions, security_metric
from leakage_audit.observation import observe
from leakage_audit.options import Checked

ELSEWHERE = {
    "NoiseOptions": "an argument of `effective_metric`, which no audit calls",
    "TrainingOptions": "an argument of `learn_denoiser`",
    "Recipe": "an argument of the attack itself; its default is the preset's",
}


def options_in(value):
    """The option classes within a value."""
    if is_dataclass(value):
        yield type(value)
        for field in fields(value):
            yield from options_in(getattr(value, field.name))


def descendants(cls):
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_class_of_options_is_reached_from_an_attack_or_the_audit():
    audit = callbacks.LeakageAudit()
    reached = set(options_in(audit.settings.options))
    for attack in ATTACKS.values():
        for value in attack().arguments.values():
            reached |= set(options_in(value))
    known = {cls for cls in descendants(Checked) if cls.__module__.startswith("leakage_audit")}
    assert {cls.__name__ for cls in known - reached} <= set(ELSEWHERE)
    assert {FactorOptions, PeelingOptions, RecoveryOptions, InputOptions, SecurityOptions} <= reached


YAML = """
attacks:
  - class_path: leakage_audit.attacks.RGAP
    init_args: {factor: {rounds: 3}}
  - class_path: leakage_audit.attacks.Hybrid
    init_args: {factor: {clear: 100.0}, terms: [{iterations: 5, mu1: 1.0, mu2: 0.5, mu3: 2.0}]}
  - class_path: leakage_audit.attacks.CosineTV
    init_args:
      recipe: {iterations: 3, restarts: 1, lr: 0.1, tv: 0.2, features: 0.0, decay: steps, sign: hard, start: normal,
               boxed: true, distance: cosine, variation: plain, milestones: [0.5], drop: 0.2}
  - class_path: leakage_audit.attacks.Joint
    init_args:
      options:
        peeling: {replicas: 3, factor: {rounds: 5}}
        recovery: {walk: {guesses: 3, inputs: {determined: 1.0e-3}}}
        autograd: {observed: 1.0e-3}
        solver: {jitters: [1.0e-12], linearization: {flat: 1.0e-5}}
options:
  unknown_share: 0.5
  gradient_check: {bfloat16: 0.02}
  security: {notable: 0.1, factor: {small: 5}}
  limit: {products: 100}
"""


def test_all_of_it_is_set_from_yaml_and_recorded(tmp_path):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(callbacks.LeakageAudit, "audit", instantiate=True)
    config = tmp_path / "audit.yaml"
    config.write_text(YAML)
    audit = parser.instantiate_classes(parser.parse_args([f"--audit={config}"])).audit
    rgap, hybrid, cosine_tv, joint = (
        audit.settings.attacks[name].settings for name in ("rgap", "hybrid", "cosine_tv", "joint")
    )
    json.dumps([rgap, hybrid, cosine_tv, joint])
    assert rgap["factor"]["rounds"] == 3
    assert (hybrid["factor"]["clear"], hybrid["terms"][0]["mu3"], len(hybrid["terms"])) == (100.0, 2.0, 1)
    assert (cosine_tv["recipe"]["drop"], cosine_tv["iterations"]) == (0.2, 3)
    options = joint["options"]
    assert (options["peeling"]["replicas"], options["peeling"]["factor"]["rounds"]) == (3, 5)
    walk = options["recovery"]["walk"]
    assert (walk["guesses"], walk["inputs"]["determined"]) == (3, 1e-3)
    assert options["autograd"]["observed"] == 1e-3
    assert (options["solver"]["jitters"], options["solver"]["linearization"]["flat"]) == ([1e-12], 1e-5)
    own = audit.settings.options
    assert (own.unknown_share, own.gradient_check.bfloat16, own.limit.products) == (0.5, 0.02, 100)
    assert (own.security.notable, own.security.factor.small) == (0.1, 5)


@pytest.mark.parametrize("attack", [RGAP, Hybrid, Joint])
def test_an_attack_can_be_made_again_of_its_arguments(attack):
    assert attack(**attack().arguments).settings == attack().settings
    assert set(inspect.signature(attack).parameters) == set(attack().settings)


def test_rgap_and_hybrid_factor_as_they_are_told():
    seen, x = NETWORKS["one convolution"].observe(0)
    errors = [float((RGAP(factor=FactorOptions(rounds=n))(seen).images - x).abs().max()) for n in (1, 6)]
    assert errors[1] < errors[0] / 2
    first = Hybrid().terms[0]  # of the layer nearest the image, here the only one
    once = Hybrid(terms=[replace(first, iterations=1)], lr=0.1)(seen)
    assert torch.equal(once.images, Hybrid(scale=1e-9, lr=0.1)(seen).images)
    assert Hybrid(terms=[Terms(20, 1.0, 100.0, 0.05)], lr=0.1)(seen).residual > 2 * once.residual
    with pytest.raises(ValueError, match="terms must have a row"):
        Hybrid(terms=[])


def small_chain():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 12, 3, 2), nn.Tanh(), nn.Conv2d(12, 24, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 5)
    )
    return observe(network.double(), torch.rand(3, 7, 7, dtype=torch.float64), 1)


def test_peeling_stops_where_it_is_told():
    seen = small_chain()
    far = peel_layers(seen, 1e-15)
    near = peel_layers(seen, 1e-15, PeelingOptions(largest_system=0))
    assert (len(far.layers), len(near.layers)) == (1, 2)
    joint = Joint(options=JointOptions(peeling=PeelingOptions(largest_system=0)))
    assert joint(seen).details["equations"] == len(near.noise) != Joint()(seen).details["equations"]


def test_recovery_and_cancellation_as_they_are_told():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(27, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 5)
    ).double()
    seen = observe(network, torch.rand(3, 3, 3, dtype=torch.float64), 1)
    assert isinstance(equations_of_one(seen, 1e-15), RecoveredInputEquations)
    none = NetworkRecoveryOptions(walk=RecoveryOptions(inputs=InputOptions(largest=0)))
    assert isinstance(equations_of_one(seen, 1e-15, recovery=none), AutogradEquations)
    every = AutogradEquations(seen, 1e-15)
    fewer = AutogradEquations(seen, 1e-15, options=AutogradOptions(own=0.5, observed=2.0))
    assert every.blocks[0].name == fewer.blocks[0].name == "features"
    assert len(fewer.blocks) < len(every.blocks)
    with pytest.raises(ValueError, match="must be at least 2"):
        RecoveryOptions(guesses=1)


def test_security_and_noise_say_how_they_were_measured():
    seen = small_chain()
    plain = security_metric(seen)
    assert plain.options == replace(SecurityOptions(), tolerance=1e-7)
    blunt = security_metric(seen, options=SecurityOptions(tolerance=0.9, notable=1.0))
    assert blunt.c < plain.c
    assert blunt.as_dict()["options"]["tolerance"] == 0.9
    (found,) = effective_metric(seen, [1e-3], NoiseOptions(spread=0.1))
    assert found.options.spread == 0.1
    assert found.c < effective_metric(seen, [1e-3])[0].c


def test_the_audits_own_numbers_are_checked():
    with pytest.raises(ValueError, match=r"AuditOptions\.unknown_share"):
        AuditOptions(unknown_share=0.0)
