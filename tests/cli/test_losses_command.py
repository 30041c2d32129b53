from PIL import Image

from leakage_audit.cli.command_line import main

LOGGED = "epoch,step,train/loss,val/loss\n0,9,1.0,\n0,10,,0.9\n1,19,0.5,\n1,20,,0.7\n"


def test_plots_what_a_fit_has_logged(tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text(LOGGED)
    figure = tmp_path / "figure4.png"
    assert main(["losses", str(tmp_path), str(figure)]) == 0
    assert str(figure) in capsys.readouterr().out
    with Image.open(figure) as plot:
        assert plot.width > 300


def test_a_loss_that_was_not_logged(tmp_path, capsys):
    (tmp_path / "metrics.csv").write_text(LOGGED)
    assert main(["losses", str(tmp_path), str(tmp_path / "f.png"), "--test=test/loss"]) == 2
    assert "'test/loss' was not logged" in capsys.readouterr().err
