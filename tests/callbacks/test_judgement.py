"""One audit against one limit, case by case; no failure counts as kept."""

import logging
import math
import time

import pytest
from fits import Grey, Net, Raises, Sleeps, fit, lines
from torch import nn

from leakage_audit.callbacks import Audit, GradientDefence, LeakageAudit, LeakageGate, LeakageLimitExceeded
from leakage_audit.callbacks.judgement import judge
from leakage_audit.callbacks.output import loggers
from leakage_audit.defences import GaussianNoise, Prune
from leakage_audit.readings.reading import Status


def audit(metrics=None, no_results=None):
    return Audit(0, 0, metrics or {}, None, {}, Status.UNKNOWN, no_results or {})


OUT = {"a": (13.0, "out of time")}


@pytest.mark.parametrize(
    ("pattern", "found", "states"),
    [
        ("audit/psnr/*", audit({"audit/psnr/a": 13.0}), ["kept"]),
        ("audit/psnr/*", audit({"audit/psnr/a": 26.0}), ["above"]),
        ("audit/psnr/*", audit({}, OUT), ["unknown"]),
        ("audit/psnr/*", audit({}, {"a": (30.0, "out of time")}), ["above"]),  # what was reached is proven
        ("audit/psnr_mean/a", audit({}, {"a": (30.0, "out of time")}), ["unknown"]),
        ("audit/psnr/*", audit({"audit/limit": 20.0}, OUT), ["kept"]),
        ("audit/psnr/*", audit({"audit/limit": 40.0}, OUT), ["unknown"]),
        ("audit/psnr/*", audit({"audit/psnr/b": 13.0}, OUT), ["kept", "unknown"]),
        ("audit/limit", audit({"audit/limit": 20.0}), ["kept"]),
        ("audit/limit", audit({"audit/limit": 30.0}), ["above"]),
        ("audit/limit", audit(), ["unknown"]),
        (
            "audit/psnr/*",
            audit({"audit/psnr/a": 13.0}, {"limit": (float("-inf"), "out of time")}),
            ["kept"],
        ),  # no attack
        ("audit/c", audit({"audit/psnr/a": 13.0}), []),
    ],
)
def test_each_case(pattern, found, states):
    assert [finding.state for finding in judge(pattern, 25.0, found)] == states


@pytest.mark.parametrize(
    ("pattern", "found", "states"),
    [
        ("audit/recognisable/*", audit({"audit/recognisable/a": 0.25}), ["above"]),
        ("audit/recognisable/*", audit({"audit/recognisable/a": 0.0}), ["kept"]),
        ("audit/recognisable/*", audit({"audit/limit": 0.05}, OUT), ["unknown"]),  # decibels bound no share
        ("audit/recognisable/*", audit({"audit/recognisable_limit": 0.0}, OUT), ["kept"]),
        ("audit/recognisable_limit", audit({"audit/recognisable_limit": 0.5}), ["above"]),
        ("audit/recognisable_limit", audit(), ["unknown"]),
        ("audit/limit_mean", audit(), ["unknown"]),
    ],
    ids=["above", "kept", "not by the limit", "by what is determined", "determined", "no share", "no mean"],
)
def test_shares_of_a_batch(pattern, found, states):
    assert [finding.state for finding in judge(pattern, 0.1, found)] == states


@pytest.mark.parametrize("name", ["psnr_mean", "psnr_least", "recognisable"])
def test_what_needs_every_image_is_unknown_where_an_attack_ended_on_some(name):
    some = Audit(0, 0, {"audit/psnr/a": 60.0}, None, {"a": "exact"}, Status.LEAKS, {})
    assert [finding.state for finding in judge(f"audit/{name}/*", 100.0, some)] == ["unknown"]
    assert [finding.state for finding in judge("audit/psnr/*", 100.0, some)] == ["kept"]


def test_a_limit_without_a_number_says_why():
    (finding,) = judge("audit/limit", 25.0, audit({}, {"limit": (-math.inf, "out of memory")}))
    assert (finding.state, finding.reason) == ("unknown", "out of memory")


def slept(**settings):
    return LeakageAudit(
        **({"every_n_steps": 3, "attacks": [Sleeps()], "samples": 1, "max_seconds": 0.4, "limit": 0} | settings)
    )


def gated(folder, audit=None, **settings):
    gate = LeakageGate({"audit/psnr/*": 25.0}, **settings)
    return gate, fit(folder, gate, audit or slept())


class TestOutOfTime:
    """A limit of 25 dB that a grey picture would keep, if it were a result."""

    def test_fails_where_the_gate_may_fail(self, tmp_path):
        with pytest.raises(LeakageLimitExceeded, match=r"audit/psnr/sleeps is unknown \(out of time\)"):
            gated(tmp_path, action="fail")
        (violation,) = lines(tmp_path)[-1]["violations"]
        assert violation["unknown"] == "out of time"

    @pytest.mark.parametrize(("settings", "message"), [({}, "is unknown: out of time"), ({"unknown": "ignore"}, None)])
    def test_is_never_a_pass(self, tmp_path, caplog, settings, message):
        with caplog.at_level(logging.WARNING, "leakage_audit"):
            gate, _ = gated(tmp_path, **settings)
        assert gate.verdict == "unjudged"
        said = [record.message for record in caplog.records if "LeakageGate" in record.message]
        assert len(said) == (message is not None)
        assert all(message in sentence for sentence in said)

    def test_is_no_point_at_no_violations(self, tmp_path, monkeypatch):
        logged = []
        log = loggers.log_scalars
        monkeypatch.setattr(loggers, "log_scalars", lambda *found: logged.extend(found[1]) or log(*found))
        gate, (attached, _) = gated(tmp_path)
        assert not gate.violations
        assert attached.callback_metrics["audit/violations"] == 1  # a monitor sees the worst
        assert "audit/seconds" in logged
        assert "audit/violations" not in logged

    def test_fails_at_the_end_where_it_may_only_be_warned_of(self, tmp_path):
        with pytest.raises(LeakageLimitExceeded, match="could not be judged: out of time"):
            gated(tmp_path, action="fail", unknown="warn")

    def test_so_does_an_attack_that_breaks_beside_one_that_ends(self, tmp_path):
        with pytest.raises(LeakageLimitExceeded, match="raises is unknown"):
            gated(tmp_path, slept(attacks=[Grey(), Raises()], max_seconds=9.0), action="fail")

    def test_but_not_one_that_does_not_apply_to_the_network(self, tmp_path):
        gate = LeakageGate({"audit/psnr/*": 25.0}, action="fail")
        fit(tmp_path, gate, slept(attacks=["rgap", Grey()], max_seconds=None), module=lambda: Net(nn.BatchNorm2d(4)))
        assert gate.verdict == "passed"

    def test_nothing_is_logged_shown_or_said_as_if_it_were_a_result(self, tmp_path):
        audit = slept()
        attached, _ = fit(tmp_path, audit)
        record = lines(tmp_path)[0]
        assert not {name for name in audit.latest.metrics if "sleeps" in name}
        assert (record["status"], record["no_result"]) == ("unknown", {"sleeps": "out of time"})
        assert record["samples"][0]["attacks"]["sleeps"]["meaning"] == ["no result: out of time"]
        assert attached.progress_bar_metrics["unknown"] == "no result"


class Averages(Net):
    """Shares the gradient of a network that sees the average colour and nothing else."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))


class TestTheSameGateInAnyTime:
    """With no time it fails whatever there is to find; with enough of it, as measured."""

    def gated(self, folder, seconds, module):
        gate = LeakageGate({"audit/psnr/*": 25.0, "audit/limit": 25.0}, action="fail")
        fit(
            folder,
            gate,
            LeakageAudit(every_n_steps=9, attacks=["joint"], samples=1, max_seconds=seconds),
            module=module,
        )
        return gate

    @pytest.mark.parametrize("module", [Net, Averages])
    @pytest.mark.parametrize("seconds", [1e-4, 1e-3])
    def test_fails_where_there_was_no_time(self, tmp_path, seconds, module):
        unknown = r"audit/psnr/joint is unknown \(out of time\).*audit/limit is unknown"
        both = rf"{unknown}|audit/psnr/\*, audit/limit could not be judged"
        with pytest.raises(LeakageLimitExceeded, match=both):
            self.gated(tmp_path, seconds, module)

    def test_fails_as_measured_where_the_image_leaks(self, tmp_path):
        with pytest.raises(
            LeakageLimitExceeded, match=r"audit/psnr/joint = [\d.]+ is above 25, audit/limit = [\d.]+ is"
        ):
            self.gated(tmp_path, None, Net)

    def test_passes_as_measured_where_it_cannot(self, tmp_path):
        assert self.gated(tmp_path, None, Averages).verdict == "passed"
        assert lines(tmp_path)[0]["status"] == "protected"


def test_only_what_grows_with_leakage_can_be_limited(tmp_path):
    from lightning.pytorch.utilities.exceptions import MisconfigurationException

    for name in ("audit/gap", "audit/seconds", "audit/layer/*/condition"):
        with pytest.raises(MisconfigurationException, match="does not grow with leakage"):
            fit(tmp_path, LeakageGate({name: 1.0}), LeakageAudit(attacks=[Grey()], limit=0))


@pytest.mark.parametrize(
    ("mechanism", "status"), [(Prune(0.001), Status.UNKNOWN), (GaussianNoise(10.0), Status.PROTECTED)]
)
def test_only_noise_protects_by_a_limit(tmp_path, mechanism, status):
    """Where entries are left out, or rounded, an attack may get more than the limit says."""
    audit = LeakageAudit(attacks=[Grey()], samples=1, max_seconds=30)
    fit(tmp_path, audit, GradientDefence(mechanisms=[mechanism]), max_steps=1)
    assert audit.latest.status == status


def test_what_unknown_means_is_checked_at_construction():
    with pytest.raises(ValueError, match="unknown must be one of"):
        LeakageGate({"audit/c": 0.0}, unknown="pass")


class SometimesSleeps(Grey):
    """Ends by itself the first time only."""

    name = "sometimes"
    calls = 0

    def reconstruct(self, seen, budget):
        SometimesSleeps.calls += 1
        if SometimesSleeps.calls > 1:
            for _ in budget.steps(6000, "sleeping"):
                time.sleep(0.01)
        return super().reconstruct(seen, budget)


def test_a_number_of_an_audit_before_does_not_stand_for_one_without_a_result(tmp_path):
    SometimesSleeps.calls = 0
    audit = slept(attacks=[SometimesSleeps()], every_n_steps=4, limit=0)
    attached, _ = fit(tmp_path, audit)
    assert [line["no_result"] for line in lines(tmp_path)] == [{}, {"sometimes": "out of time"}]
    assert lines(tmp_path)[0]["metrics"]["audit/psnr/sometimes"] < 20
    assert attached.callback_metrics["audit/psnr/sometimes"] == 300.0  # what monitors count as the worst
    assert attached.callback_metrics["audit/ssim/sometimes"] == 1.0
