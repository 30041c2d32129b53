import io

import pytest
from rich.console import Console

from leakage_audit.compare.progress import Bar, TimeLeft

CELLS = [("a", 1, "quick"), ("a", 1, "slow"), ("b", 1, "quick"), ("b", 1, "slow")]


def test_nothing_is_guessed_from_nothing():
    assert TimeLeft(CELLS).seconds("quick", 0.0, 0.0) is None


def test_the_pace_of_the_first_attack_stands_for_all():
    assert TimeLeft(CELLS).seconds("quick", 2.0, 0.5) == pytest.approx(2 + 3 * 4)


def test_each_attack_is_expected_to_last_as_long_as_it_did():
    left = TimeLeft(CELLS)
    left.finish("quick", 1.0)
    assert left.seconds("slow", 0.0, 0.0) == pytest.approx(1 + 2)
    assert left.seconds("slow", 50.0, 0.5) == pytest.approx(50 + 1 + 100)
    left.finish("slow", 100.0)
    assert left.seconds("quick", 0.0, 0.0) == pytest.approx(1 + 100)
    left.finish("quick", 3.0)
    assert left.seconds("slow", 99.0, 0.99) == pytest.approx(1)
    assert left.seconds("slow", 120.0, 0.0) == 0


def test_bar_draws_on_a_terminal_only():
    shown = io.StringIO()
    for bar in (Bar(CELLS, Console(file=shown, force_terminal=True, width=100)), Bar(CELLS)):
        bar.start()
        with bar.cell("a", 1, "quick") as report:
            report("solving", 0.5)
        bar.stop()
    assert "a, image 1" in shown.getvalue()
