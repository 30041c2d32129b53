import pytest
import torch

# Facts of the machine, of small data and of the modules' own old-fashioned ways, not of the code under test.
EXPECTED = (
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:GPU available but not used",
    "ignore:.*weight_norm.* is deprecated:FutureWarning",
    "ignore:Detected call of `lr_scheduler.step:UserWarning",
    "ignore:Found .* module.s. in eval mode at the start of training",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "zoo" in item.path.parts:
            for warning in EXPECTED:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
