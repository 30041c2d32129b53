import json
from pathlib import Path

import jsonschema
import pytest
from fits import Grey, fit, images, lines
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import TensorDataset

from leakage_audit.callbacks import LeakageAudit


class Grey2(Grey):
    name = "grey2"


class TestLogs:
    def test_tensorboard_has_scalars_pictures_and_text(self, tmp_path):
        logger = TensorBoardLogger(tmp_path, name="tb")
        audit = LeakageAudit(every_n_steps=2, attacks=[Grey(), Grey2(0.2)])
        fit(tmp_path, audit, logger=logger)
        events = EventAccumulator(logger.log_dir, size_guidance={"images": 0, "scalars": 0, "tensors": 0})
        events.Reload()
        names = {
            "audit/c",
            "audit/chance",
            "audit/joint_deficiency",
            "audit/seconds",
            "audit/psnr/grey",
            "audit/ssim/grey",
            "audit/limit",
            "audit/limit_others_known",
            "audit/gap",
        }
        names |= {"audit/limit_mean", "audit/recognisable_limit"}
        names |= {f"audit/{what}/{name}" for what in ("psnr_least", "recognisable") for name in ("grey", "grey2")}
        names |= {"audit/psnr/grey2", "audit/ssim/grey2", "audit/psnr_mean/grey", "audit/psnr_mean/grey2"}
        names |= {f"audit/layer/{layer}/{what}" for layer in "02" for what in ("deficiency", "condition")}
        assert names == {tag for tag in events.Tags()["scalars"] if tag.startswith("audit/")}
        for name in names:
            assert [event.step for event in events.Scalars(name)] == [0, 2, 4], name
        assert [event.step for event in events.Images("audit/images")] == [0, 2, 4]
        assert len(events.Tensors("audit/summary/text_summary")) == 3
        assert events.Scalars("audit/joint_deficiency")[0].value == -7

    def test_several_loggers_at_once_and_none(self, tmp_path):
        tb, csv = TensorBoardLogger(tmp_path, name="tb"), CSVLogger(tmp_path, name="csv")
        fit(tmp_path, LeakageAudit(every_n_steps=5, attacks=[Grey()], limit=0), logger=[csv, tb])
        assert "audit/psnr/grey" in (tmp_path / "csv/version_0/metrics.csv").read_text()
        assert (tmp_path / "csv/version_0/audit.jsonl").is_file()
        assert not list(tmp_path.rglob("*.png"))  # TensorBoard took the pictures
        fit(tmp_path / "none", LeakageAudit(every_n_steps=5, attacks=[Grey()], limit=0))
        assert sorted(path.name for path in (tmp_path / "none").rglob("*.png")) == [
            "step_000000.png",
            "step_000005.png",
        ]

    def test_other_callbacks_can_monitor_the_numbers(self, tmp_path):
        best = ModelCheckpoint(tmp_path, monitor="audit/psnr/grey", mode="min", every_n_train_steps=1)
        attached, _ = fit(
            tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0), best, enable_checkpointing=True
        )
        assert best.best_model_score == attached.callback_metrics["audit/psnr/grey"]

    def test_the_record_says_everything_needed_to_run_it_again(self, tmp_path):
        fit(tmp_path, LeakageAudit(every_n_steps=5, attacks=[Grey(0.1)], samples=3, seed=4, limit=0))
        record = lines(tmp_path)[0]
        assert record["schema"] == 1
        assert record["seed"] == 4
        assert record["verified"]["error"] < record["verified"]["tolerance"]
        assert [layer["name"] for layer in record["layers"]] == ["0", "2"]
        assert len(record["samples"]) == 3
        attack = record["samples"][0]["attacks"]["grey"]
        assert attack["settings"] == {"shift": 0.1}
        assert {"psnr", "psnr_255", "ssim", "mse", "seconds", "converged", "ended", "residual"} <= attack.keys()
        means = [sample["attacks"]["grey"]["psnr"][0] for sample in record["samples"]]
        assert record["metrics"]["audit/psnr_mean/grey"] == pytest.approx(sum(means) / 3)
        assert record["metrics"]["audit/psnr/grey"] in means
        schema = json.loads((Path(__file__).parents[2] / "docs/audit.schema.json").read_text(encoding="utf-8"))
        jsonschema.Draft202012Validator(schema).validate(record)
        assert set(record) <= set(schema["$defs"]["AuditLine"]["properties"])
        assert (record["status"], record["samples"][0]["status"]) == ("unknown", ["unknown"])
        assert set(record["versions"]) == {"leakage-audit", "torch", "lightning", "scipy"}

    def test_a_step_s_audit_speaks_of_its_whole_batch(self, tmp_path):
        fit(tmp_path, LeakageAudit(every_n_steps=5, attacks=[Grey()], gradient="step", limit=0))
        record = lines(tmp_path)[0]
        (sample,) = record["samples"]
        grey = sample["attacks"]["grey"]
        psnr, words = grey["psnr"], grey["meaning"]
        assert len(psnr) > 1
        gains = [p - sample["floor"]["psnr"][i] for p, i in zip(psnr, grey["order"], strict=True)]
        assert set(words) == {"unrecognisable"}
        assert record["metrics"]["audit/psnr_least/grey"] == psnr[gains.index(min(gains))]
        share = sum(word in ("recognisable", "exact") for word in words) / len(psnr)
        assert record["metrics"]["audit/recognisable/grey"] == share

    def test_a_dry_run_audits_and_writes_nothing(self, tmp_path):
        audit = LeakageAudit(every_n_steps=1, attacks=[Grey()], limit=0)
        fit(tmp_path, audit, fast_dev_run=True)
        assert audit.latest.metrics["audit/psnr/grey"] > 0
        assert not list(tmp_path.rglob("*"))

    def test_scores_are_those_of_images_in_0_1(self, tmp_path):
        """The same images, as values in [0, 1] and normalised to [-1, 1]: the same scores."""
        data = images()
        normalised = TensorDataset((data.tensors[0] - 0.5) / 0.5, data.tensors[1])
        plain, given = (
            LeakageAudit(attacks=[Grey()], limit=0),
            LeakageAudit(attacks=[Grey()], limit=0, mean=0.5, std=0.5),
        )
        bytes_ = LeakageAudit(attacks=[Grey(127.0)], limit=0, value_range=(0.0, 255.0))
        fit(tmp_path, plain, data=data, max_steps=1)
        fit(tmp_path, given, data=normalised, max_steps=1)
        fit(tmp_path, bytes_, data=TensorDataset(255 * data.tensors[0], data.tensors[1]), max_steps=1)
        expected = plain.latest.metrics["audit/psnr/grey"]
        assert given.latest.metrics["audit/psnr/grey"] == pytest.approx(expected, abs=1e-4)
        assert bytes_.latest.metrics["audit/psnr/grey"] == pytest.approx(expected, abs=1e-4)
