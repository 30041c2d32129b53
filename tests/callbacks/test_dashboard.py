import json
import re

import pytest
from fits import Grey, Net, fit
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from leakage_audit.callbacks import LeakageAudit, LeakageDashboard
from leakage_audit.callbacks.dashboard import LAYOUT


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
    (event,) = events.Tensors("custom_scalars__config__")
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
    assert found["PSNR above a guess"] == {"audit/psnr/grey", "audit/chance"}
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
    attached, _ = fit(tmp_path, LeakageAudit(attacks=[Grey()]), LeakageDashboard(), max_steps=1)
    assert attached.global_step == 1
