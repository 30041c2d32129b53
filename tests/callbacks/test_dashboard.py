import json
import re

import pytest
from fits import Grey, Net, fit
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from leakage_audit.callbacks import LeakageAudit, LeakageDashboard
from leakage_audit.callbacks.output.chart_layout import BY_DEFAULT, LAYOUT


class Tuned(Net):
    def __init__(self):
        super().__init__()
        self.save_hyperparameters({"width": 4, "shape": [1, 2]})


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    logger = TensorBoardLogger(tmp_path_factory.mktemp("tb"), name="tb")
    audit = LeakageAudit(every_n_steps=2, attacks=[Grey()])
    fit(logger.save_dir, audit, LeakageDashboard(), module=Tuned, logger=logger)
    return EventAccumulator(logger.log_dir, size_guidance={"tensors": 0}).Reload()


def test_the_layout_sets_leakage_over_loss(events):
    event = events.Tensors("custom_scalars__config__")[-1]  # the one that TensorBoard shows
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == list(LAYOUT)
    assert [chart.title for chart in layout.category[0].chart] == ["PSNR above a guess", "SSIM", "Loss", "Accuracy"]


def test_every_pattern_finds_what_it_is_for(events):
    tags = events.Tags()["scalars"]
    found = {
        title: {tag for tag in tags for pattern in chart[1] if re.match(pattern, tag)}
        for charts in LAYOUT.values()
        for title, chart in charts.items()
    }
    limits = {"audit/limit", "audit/limit_others_known"}
    assert found["PSNR above a guess"] == {"audit/psnr/grey", "audit/chance", *limits}
    assert found["Loss"] == {"train/loss"}
    assert found["c(M) and joint deficiency, 0 is worst"] == {"audit/c", "audit/joint_deficiency"}
    assert found["Deficiency by layer"] == {"audit/layer/0/deficiency", "audit/layer/2/deficiency"}


def test_hyperparameters_of_module_and_audit_stand_before_lightnings_own(events):
    metadata = events.SummaryMetadata("_hparams_/session_start_info")
    given = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert given["audit/attacks"].string_value == "grey"
    assert given["width"].number_value == 4
    assert json.loads(given["shape"].string_value) == [1, 2]


def test_other_loggers_are_left_alone(tmp_path):
    attached, _ = fit(tmp_path, LeakageAudit(attacks=[Grey()], limit=0), LeakageDashboard(), max_steps=1)
    assert attached.global_step == 1


def layouts(folder):
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    events = found.Tensors("custom_scalars__config__")
    return [Layout.FromString(event.tensor_proto.string_val[0]).category[0].title for event in events], found


def test_an_audit_alone_shows_leakage_limit_and_guess_in_one_chart_and_describes_its_tags(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()]), logger=logger)
    titles, found = layouts(logger.log_dir)
    assert titles == list(BY_DEFAULT)
    (((_, patterns),),) = [list(charts.values()) for charts in BY_DEFAULT.values()]
    shown = {tag for tag in found.Tags()["scalars"] for p in patterns if re.match(p, tag)}
    assert shown == {"audit/psnr/grey", "audit/chance", "audit/limit", "audit/limit_others_known"}
    assert "image of which the attack got most" in found.SummaryMetadata("audit/psnr/grey").summary_description


def test_a_layout_of_ones_own_is_left_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    logger.experiment.add_custom_scalars({"Mine": {"loss": ["Multiline", ["train/loss"]]}})
    fit(tmp_path, LeakageAudit(every_n_steps=2, attacks=[Grey()], limit=0), logger=logger)
    assert layouts(logger.log_dir)[0] == ["Mine"]
