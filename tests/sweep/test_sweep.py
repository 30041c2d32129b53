"""A sweep's points, its files, its resumption, and each point by itself from its record."""

import csv
import io
import itertools
import json
import os
import signal

import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from leakage_audit.cli.command_line import main
from leakage_audit.data import Synthetic
from leakage_audit.defences import Prune
from leakage_audit.sweep import Recipe, Sweep, run_point, run_sweep, terminal
from leakage_audit.sweep import point as point_module
from leakage_audit.sweep.labels import label_apart
from leakage_audit.sweep.plot import pareto
from leakage_audit.sweep.point import PointRow

FAST = [
    "sweep",
    "--data=synthetic",
    "--image-size=8",
    "--steps=2",
    "--indices=1",
    "--batch-size=8",
    "--network=cnn2_v1",
]

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")


def recipe(**settings):
    data = Synthetic(train_images=40, test_images=20, image_size=8)
    return Recipe(data, "cnn2_v1", **({"steps": 3, "batch_size": 8} | settings))


def rows(folder):
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_resumes_and_each_point_reproduces(tmp_path, capsys, monkeypatch):
    options = [*FAST, f"--output={tmp_path / 'out'}"]
    assert main([*options, '--mechanisms={"prune": [0.3]}']) == 0
    assert [row["mechanism"] for row in rows(tmp_path / "out")] == ["none", "prune"]
    calls = []
    real = point_module.measure_point
    monkeypatch.setattr("leakage_audit.sweep.measure_point", lambda *a: calls.append(a[1]) or real(*a))
    assert main([*options, '--mechanisms={"prune": [0.3], "gaussian": [0.01]}']) == 0
    assert calls == ["gaussian"]  # what was done is not done again
    found = {row["mechanism"]: row for row in rows(tmp_path / "out")}
    assert float(found["none"]["limit"]) > float(found["gaussian"]["limit"])
    assert float(found["none"]["c_epsilon"]) > float(found["gaussian"]["c_epsilon"])
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert "gaussian" in page
    assert (tmp_path / "out" / "pareto.png").stat().st_size > 1000
    capsys.readouterr()
    assert main(["sweep", f"--reproduce={tmp_path / 'out' / 'points' / 'gaussian-0.01.json'}"]) == 0
    assert "the same as in the record" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["terminated", "ctrl-c"])
def test_one_that_is_ended_within_a_point_goes_on_to_the_same_end(number, tmp_path, capsys, monkeypatch):
    """A cluster that takes a machine back sends SIGTERM, which Lightning only takes note of."""
    options = [*FAST, f"--output={tmp_path / 'out'}", '--mechanisms={"gaussian": [0.01], "prune": [0.3]}']
    measured = []

    def measure(recipe, mechanism, *others):
        measured.append(mechanism)
        if measured == ["none", "gaussian"]:
            os.kill(os.getpid(), number)
        return PointRow(mechanism, others[0], accuracy=0.5, limit=20.0, psnr=18.0)

    monkeypatch.setattr("leakage_audit.sweep.measure_point", measure)
    if number == signal.SIGINT:  # a shell's background job ignores it, and so would this process
        signal.signal(number, signal.default_int_handler)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        main(options)
    assert ended.value.code == 128 + number
    assert signal.getsignal(number) == before
    assert "Broken off" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "points").iterdir()] == ["none-0.json"]
    assert main(options) == 0
    assert measured == ["none", "gaussian", "gaussian", "prune"]
    assert [row["mechanism"] for row in rows(tmp_path / "out")] == ["none", "gaussian", "prune"]


def test_of_noise_several_draws_are_averaged(monkeypatch):
    seen = []
    real = point_module.attacked
    monkeypatch.setattr(point_module, "attacked", lambda who, *a: seen.append(who[0].gradients) or real(who, *a))
    sweep = Sweep(recipe(), {"gaussian": [0.05], "prune": [0.3]}, indices=[1], draws=3)
    rows = [run_point(sweep, point) for point in sweep.points]
    assert len(seen) == 1 + 3 + 1  # nothing else has any noise
    assert len({float(gradients["fc.bias"][0]) for gradients in seen[1:4]}) == 3
    noisy = rows[1]
    assert noisy.psnr < noisy.psnr_highest
    assert noisy.psnr == pytest.approx(max(noisy.psnr_knows, noisy.psnr_not_knows), abs=3)
    assert rows[0].psnr == rows[0].psnr_highest
    once = run_point(Sweep(recipe(), {"gaussian": [0.05]}, indices=[1]), ("gaussian", 0.05))
    assert once.limit == noisy.limit
    assert once.psnr == once.psnr_highest


def test_another_recipe_in_the_same_place_is_refused(tmp_path, capsys):
    options = [*FAST, f"--output={tmp_path / 'out'}", '--mechanisms={"prune": [1.0]}']
    assert main(options) == 0
    assert main([*options, "--lr=0.5"]) == 2
    assert "holds another experiment (lr" in capsys.readouterr().err


def test_a_defence_that_is_off_trains_the_same_network():
    bare, off = (recipe().train(*point).network for point in (("none", 0.0), ("prune", 1.0)))
    assert all(torch.equal(p, q) for p, q in zip(bare.parameters(), off.parameters(), strict=True))


def test_dp_sgd_spends_its_epsilon_and_clips_like_opacus():
    opacus = pytest.importorskip("opacus")
    trained = recipe(steps=10).train("dp_sgd", 8.0)
    accountant = opacus.accountants.RDPAccountant()
    count = len(recipe().training[0])
    for _ in range(10):
        accountant.step(noise_multiplier=trained.noise_multiplier, sample_rate=8 / count)
    assert trained.epsilon == pytest.approx(accountant.get_epsilon(1 / count))
    assert 7.9 < trained.epsilon <= 8.01


def test_two_processes_would_share_the_points():
    sweep = Sweep(recipe(), {"prune": [0.5, 0.1], "sign": [1]}, indices=[1])
    assert sweep.points == [("none", 0.0), ("prune", 0.5), ("prune", 0.1), ("sign", 1.0)]


def mine(strength):
    return Prune(strength)


def test_a_mechanism_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_mechanism.py").write_text(
        "from leakage_audit.defences import Prune\ndef mine(strength):\n    return Prune(strength)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = run_sweep(Sweep(recipe(), {"own_mechanism.mine": [0.5], "prune": [0.5]}, indices=[1]), tmp_path / "out")
    own, known = found[1:]
    assert (own.limit, own.psnr) == (known.limit, known.psnr)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (['--mechanisms={"magic": [1]}'], "unknown mechanism 'magic'"),
        (
            ['--mechanisms={"prune": [1.5]}'],
            "prune at strength 1.5 (share of the entries that is kept): share must be above 0 and at most 1",
        ),
        (['--mechanisms={"gaussian": [-1]}'], "noise must be at least 0"),
        (['--mechanisms={"laplace": [-1]}'], "noise must be at least 0 and finite, got -1"),
        (['--mechanisms={"quantize": [2.5]}'], "bits must be a whole number"),
        (['--mechanisms={"partial": [9]}'], "partial shares the last 1 to 2 layers"),
        (['--mechanisms={"dp_sgd": [0]}'], "must be positive"),
        (["--draws=0"], "draws must be at least 1"),
        (['--mechanisms={"no.such.thing": [1]}'], "cannot be imported"),
        (["--indices=99999"], "there is no image 99999"),
        (["--reproduce=none.json"], "none.json"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, options, message):
    assert main([*FAST, f"--output={tmp_path / 'out'}", *options]) == 2
    assert message in capsys.readouterr().err


def test_the_pareto_front():
    points = [
        PointRow("a", 1, accuracy=0.9, limit=30.0, psnr=20.0),
        PointRow("b", 1, accuracy=0.8, limit=20.0, psnr=25.0),  # an attack beyond its limit counts
        PointRow("c", 1, accuracy=0.7, limit=26.0),
        PointRow("d", 1, accuracy=0.6, limit=10.0),
        PointRow("e", 1, accuracy=None, limit=5.0),
    ]
    assert [row.mechanism for row in pareto(points)] == ["a", "b", "d"]


def test_a_record_holds_what_is_needed(tmp_path):
    run_sweep(Sweep(recipe(), {"prune": [0.5]}, indices=[1]), tmp_path / "out", source={"data": "synthetic"})
    record = json.loads((tmp_path / "out" / "points" / "prune-0.5.json").read_text())
    assert record["point"] == {"mechanism": "prune", "strength": 0.5}
    assert {"network", "steps", "seed", "lr", "images", "attacks"} <= record["sweep"].keys()
    assert {"torch", "leakage-audit"} <= record["versions"].keys()


def test_the_terminals_table_fits_80_columns():
    """Every number of every row can be read, and problems stand below in full."""
    wide = {
        "accuracy": 0.8125,
        "epsilon": 49.99,
        "c": -1356.0,
        "c_epsilon": -1356.4,
        "limit": 139.4,
        "chance": 14.7,
        "limit_unknown": 21.0,
    }
    rows = [
        PointRow("percentile", 99, **wide, psnr=100.1, attack="joint", knows=False, status="protected"),
        PointRow("none", 0, **wide | {"c_epsilon": -1e-9}, limit_solved=True, psnr=35.7, attack="joint"),
        PointRow("svt", 0.01, problem="a sentence that is longer than a column of the table " * 2),
    ]
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(terminal.table(rows))
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    for shown in ("percentile 99", "0.812", "49.99", "-1356", "≥ 139.4", "≥ 21.0", "100.1*", "protected", "14.7"):
        assert shown in said
    assert "-0 " not in said
    assert "…" not in said
    assert " ".join(said.split()).count("longer than a column") == 2


def test_labels_lie_neither_on_each_other_nor_on_points():
    axes = Figure(figsize=(4, 3)).add_subplot()
    marks = [(1.0, 1.0, "0.001", "C0"), (1.02, 1.0, "0.001", "C1"), (1.0, 1.01, "50", "C2"), (2.0, 2.0, "8", "C3")]
    axes.plot(*zip(*(mark[:2] for mark in marks), strict=True), "o")
    axes.get_figure().draw_without_rendering()
    label_apart(axes, marks)
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    places = axes.transData.transform([mark[:2] for mark in marks])
    assert not any(box.contains(*place) for box in boxes for place in places)
