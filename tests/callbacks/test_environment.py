import pytest

from leakage_audit.callbacks import LeakageAudit, LeakageGate
from leakage_audit.callbacks.environment import VARIABLE, from_environment


@pytest.mark.parametrize("value", [None, "", "off", "0"])
def test_nothing_happens_unless_asked(monkeypatch, value):
    monkeypatch.delenv(VARIABLE, raising=False)
    if value is not None:
        monkeypatch.setenv(VARIABLE, value)
    assert from_environment() == []


def test_on_takes_the_defaults(monkeypatch):
    monkeypatch.setenv(VARIABLE, "on")
    (audit,) = from_environment()
    assert isinstance(audit, LeakageAudit)


@pytest.mark.parametrize("as_file", [True, False])
def test_settings_inline_or_in_a_file(monkeypatch, tmp_path, as_file):
    settings = "{attacks: [rgap], samples: 3, gate: {limits: {audit/psnr/*: 25}, action: fail}}"
    (tmp_path / "audit.yaml").write_text(settings)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "audit.yaml") if as_file else settings)
    audit, gate = from_environment()
    assert audit.settings.samples == 3
    assert list(audit.settings.attacks) == ["rgap"]
    assert isinstance(gate, LeakageGate)
    assert gate.action == "fail"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("nowhere.yaml", "there is no such file"),
        ("{every: [", "is not YAML"),
        ("please", "must be 'on', a YAML file, or settings"),
        ("{every: 5}", "unexpected keyword argument 'every'"),
        ("{every_n_steps: 0}", "every_n_steps must be at least 1"),
        ("{attacks: rgap}", "attacks is a list, got 'rgap'"),
        ("{gate: 3}", "gate takes settings like .*, got 3"),
        ("a: b: c", "is not YAML: mapping values are not allowed here in"),
    ],
)
def test_mistakes_are_named(monkeypatch, value, message):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(ValueError, match=message):
        from_environment()


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_every_trainer_of_either_package_asks(package, monkeypatch, tmp_path):
    trainer_class = pytest.importorskip(package).Trainer
    monkeypatch.setenv(VARIABLE, "{every_n_steps: 50, gate: {limits: {audit/psnr/*: 25}}}")
    trainer = trainer_class(accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_checkpointing=False)
    found = [type(callback) for callback in trainer.callbacks]
    assert found.count(LeakageAudit) == found.count(LeakageGate) == 1
