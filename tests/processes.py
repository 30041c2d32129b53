"""Processes that have everything imported: forked from a server that has, in a fraction of the seconds of a start."""

import os
import socket
from multiprocessing import get_all_start_methods, get_context

import torch

IMPORTED = ["leakage_audit.callbacks"]
SERVED = "forkserver" in get_all_start_methods()  # elsewhere each process imports for itself


def context():
    """Of `multiprocessing`; what it starts inherits neither threads nor the state of this process."""
    found = get_context("forkserver" if SERVED else "spawn")
    if SERVED:
        found.set_forkserver_preload(IMPORTED)
    return found


def on_two_ranks(work, folder, *arguments, seconds=120):
    """`work(folder, *arguments)` on two processes, in the environment that torchrun would give them.

    What they say goes to `rank_0.txt` and `rank_1.txt` in the folder, and is told where one of them fails or takes
    longer than it may.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    ranks = [context().Process(target=_rank, args=(rank, port, work, folder, arguments)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    try:
        for rank, process in enumerate(ranks):
            process.join(seconds)
            assert process.exitcode == 0, (folder / f"rank_{rank}.txt").read_text()
    finally:
        for process in ranks:
            process.kill()
            process.join()


def _rank(rank, port, work, folder, arguments):
    with (folder / f"rank_{rank}.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {"WORLD_SIZE": "2", "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    work(folder, *arguments)
