import pytest
import torch

# Facts of the machine and of small data, not of the code under test.
EXPECTED = (
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:The number of training batches",
    "ignore:GPU available but not used",
)


def pytest_collection_modifyitems(items):
    for item in items:
        if "callbacks" in item.path.parts:
            for warning in EXPECTED:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower on several threads, many times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
