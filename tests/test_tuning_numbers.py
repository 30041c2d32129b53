"""No number that somebody may want to change is out of reach: each is a field or an argument, or stands here and why.

Two kinds are looked for: numbers that a module keeps under a name of its own, and small numbers (tolerances, as a
rule) within the code of a function. Defaults of arguments and of dataclasses' fields are reachable and not looked at.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYOUT = "pixels, letters and lines of a page or picture"
ROUNDING = "rounding of float64, or a guard against dividing by zero"
DEFINITION = "part of a definition: another number would be another quantity"
BOUND = "a time limit must be positive"

# Numbers under a name of their own, and why they are no option.
NAMED = {
    "attacks/dlg HISTORY": "PyTorch's own default",
    "attacks/dlg VECTORS": "an estimate of memory, counted in the code",
    "attacks/first_order_start COMPARED": "time kept back for a comparison, counted in the code",
    "attacks/joint NETWORKS": "an estimate of memory, counted in the code",
    "attacks/joint_solver VECTORS": "an estimate of memory, counted in the code",
    "solvers/expectation_propagation LEAST": ROUNDING,
    "solvers/expectation_propagation TINY": ROUNDING,
    "callbacks/evaluation/background POLL": "how often a wait looks at the clock; no result depends on it",
    "callbacks/limits_of_audit START_OR_END": "what a process takes before and after its clock; `grace` is the option",
    "callbacks/capture/gradient_check PIECE": "memory against calls; no result depends on it",
    "callbacks/capture/listening _ALONE": "a reading's empty arguments",
    "callbacks/capture/loss_lookup _USUAL": "PyTorch's own defaults",
    "callbacks/capture/step_reader FORWARD": "an estimate of time, counted in passes",
    "callbacks/capture/step_copies COPIES": "an estimate of memory, counted in the code",
    "callbacks/capture/step_copies GRADIENTS": "an estimate of memory, counted in the code",
    "callbacks/output/progress_bar NUMBERS": "columns of a terminal, a matter of layout",
    "callbacks/output/progress_bar WIDE": "columns of a terminal, a matter of layout",
    "callbacks/output/image_grid COLUMNS": LAYOUT,
    "report/page NARROW": LAYOUT,
    "report/page PAIRED": LAYOUT,
    "callbacks/output/image_grid REASON": LAYOUT,
    "compare/progress MEASURABLE": "when an estimate of the time left is shown; no result depends on it",
    "compare/table TABLE_3": "the paper's figures",
    "data/pictures KEPT_BYTES": "memory against reading again; no result depends on it",
    "data/synthetic/__init__ SMALLEST": DEFINITION,
    "data/synthetic/__init__ _AT_ONCE": "the processor's cache; no result depends on it",
    "data/synthetic/canvas OVERSAMPLING": DEFINITION,
    "equations/convolution_separation LEAST_SQUARES": "an estimate of time, from LAPACK's speeds",
    "equations/input_from_gradient COPIES": "an estimate of memory, counted in the code",
    "equations/input_from_gradient EIGEN": "an estimate of time, from LAPACK's speeds",
    "equations/smoothed_kinks LEAST": ROUNDING,
    "equations/switches SLOPE": "PyTorch's own default",
    "equations/smoothed_kinks ODDS": "the logistic distribution closest to a Gaussian",
    "equations/sparsest_basis STEPS_KEPT": "an estimate of memory, counted in the code",
    "figures/sheet BETWEEN": LAYOUT,
    "figures/sheet MARGIN": LAYOUT,
    "figures/sheet TEXT": LAYOUT,
    "layerwise/factor_cost PIVOTED": "an estimate of time, from LAPACK's speeds",
    "layerwise/factor_cost SPARSE": "an estimate of memory, counted in the code",
    "layerwise/factorization TOLERANCE": "the one default of `tolerance` in RGAP, Hybrid, PeelingOptions, NoiseOptions",
    "models VARIANTS": "the paper's networks",
    "networks/activations _TABLE": "PyTorch's own defaults",
    "measures/limit/__init__ LINEARIZED": "when the time is asked; no result depends on it",
    "priors/base GREY": DEFINITION,
    "priors/precision_operator FIRST": "a difference's stencil",
    "priors/precision_operator SECOND": "a difference's stencil",
    "priors/total_variation OPPONENT": "an orthonormal basis of colours",
    "priors/unet MULTIPLE": "the network's two halvings",
    "report/charts DOTS": LAYOUT,
    "report/course CURVES": LAYOUT,
    "report/curves POINTS": LAYOUT,
    "report/records/audit_lines SCHEMA": "the form's number",
    "report/records/report_file SCHEMA": "the form's number",
    "report/run WRONG": LAYOUT,
    "report/sections REASONS": LAYOUT,
    "report/verdict REASONS": LAYOUT,
    "scores/metrics PSNR_CAP": DEFINITION,
    "scores/metrics WORST_MSE": DEFINITION,
    "scores/metrics PEAK_255": "a conversion of units",
    "scores/severity EXACT_PSNR": DEFINITION,
    "scores/severity GAIN": DEFINITION,
    "scores/severity SHARE": DEFINITION,
    "sweep/labels AWAY": LAYOUT,
    "sweep/labels DIRECTIONS": LAYOUT,
    "sweep/labels SIZE": LAYOUT,
    "sweep/experiment DEFAULT": "the strengths that a configuration replaces",
    "sweep/filter DRAWS": "how often a filter is called to tell whether it is random; twice would do",
    "sweep/filter EXACT": ROUNDING,
    "sweep/filter TRIED_ON": "drawn images whose gradients show what a filter does; an average over entries",
    "sweep/mechanisms BOUND": DEFINITION,
    "sweep/point LEAST_EPSILON": ROUNDING,
}

# Small numbers in functions' bodies, and why they are no option.
UNNAMED = {
    "callbacks/capture/gradient_check": ({1e-300}, ROUNDING),
    "data/synthetic/canvas": ({1e-6}, DEFINITION),
    "data/synthetic/subjects": ({1e-4, 4e-4}, DEFINITION),
    "equations/batch_separation": ({1e-15}, ROUNDING),
    "equations/convolution_certificate": ({1e-9, 1e-5, 2e-5}, "a central difference's step, and where steps end"),
    "equations/convolution_range": ({1e-18, 1e-16, 1e-13, 1e-8}, ROUNDING),
    "equations/forgotten_by_statistics": (
        {1e-300, 1e-3},
        "rounding, and sums too small to divide by beside the largest",
    ),
    "equations/gradient_range": ({1e-16}, ROUNDING),
    "equations/hidden_separation": (
        {1e-300, 1e-9, 1e-7, 1e-6, 1e-5},
        "rounding: of float64, of its square root in 1 − cos² (1e-7), of outputs carried from float32 gradients (1e-5)",
    ),
    "equations/network_above": ({1e-9, 1e-6}, "rounding of the same network run on fewer images"),
    "equations/nonnegative_rays": ({1e-3}, "length beside the others' span at which a unit vector is new"),
    "equations/sparsest_basis": ({1e-300, 1e-13}, ROUNDING),
    "layerwise/fully_connected": ({8.9e-16, 1e-14}, ROUNDING),
    "priors/denoiser": ({1e-9}, ROUNDING),
    "report/charts": ({1e-9, 1e-6}, LAYOUT),
    "runtime": ({1e-9, 1e-6}, BOUND),
}

FILES = sorted([*(ROOT / "leakage_audit").rglob("*.py"), *(ROOT / "callbacks").rglob("*.py")])
SMALL = 1e-2


def name_of(path):
    return str(path.relative_to(ROOT)).removeprefix("leakage_audit/").removesuffix(".py")


def numbers(node):
    """The numbers of a literal, or of what arithmetic makes of literals; nothing of anything else."""
    match node:
        case ast.Constant(value=bool()):
            return []
        case ast.Constant(value=int() | float() as value):
            return [value]
        case ast.UnaryOp(operand=inner):
            return numbers(inner)
        case ast.BinOp(left=left, right=right):
            return numbers(left) + numbers(right)
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts) | ast.Dict(values=parts):
            return [value for part in parts for value in numbers(part)]
    return []


def kept(tree):
    """The names under which a module keeps numbers."""
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
                pass
            case _:
                continue
        if numbers(value):
            yield name


def small(tree):
    """The small numbers in functions' bodies."""
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for statement in function.body:
                for node in ast.walk(statement):
                    if isinstance(node, ast.arguments):  # of an inner function or a lambda: defaults
                        continue
                    if isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < node.value < SMALL:
                        yield node.value


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_number_can_be_reached_or_says_why_not(path):
    tree = ast.parse(path.read_text())
    assert {f"{name_of(path)} {name}" for name in kept(tree)} <= set(NAMED)
    assert set(small(tree)) <= UNNAMED.get(name_of(path), (set(), ""))[0]


def test_the_lists_hold_nothing_that_is_gone():
    trees = {name_of(path): ast.parse(path.read_text()) for path in FILES}
    assert set(NAMED) == {f"{file} {name}" for file, tree in trees.items() for name in kept(tree)}
    assert {file: numbers for file, (numbers, _) in UNNAMED.items()} == {
        file: found for file, tree in trees.items() if (found := set(small(tree)))
    }


@pytest.mark.parametrize(
    ("code", "named", "unnamed"),
    [
        ("TRUST = 0.3", ["TRUST"], []),
        ("_steps: int = 2 * 5", ["_steps"], []),
        ("SHARES = {'a': (1, -2.0)}", ["SHARES"], []),
        ("NAMES = ('a', 'b')\nON = True", [], []),
        ("def f(x, tolerance=1e-6):\n    return x < 1e-7 or x < tolerance", [], [1e-7]),
        ("class C:\n    a: float = 1e-4\n    def f(self):\n        return lambda y: y > 1e-5", [], [1e-5]),
    ],
)
def test_what_is_looked_for_is_found(code, named, unnamed):
    tree = ast.parse(code)
    assert (list(kept(tree)), list(small(tree))) == (named, unnamed)
