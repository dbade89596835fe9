"""Memory that task workers share with the driver: found by processes of this machine, and by nobody by mistake."""

import subprocess
import sys

import numpy as np
import pytest

from quadriga.metalearn.board import Board

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create and /proc are Linux's")

FIND = """
import sys
from quadriga.metalearn.board import Address, Board
board = Board.find(Address(*eval(sys.argv[1])))
if board is None:
    sys.exit(3)
board.directions[1] = board.phi * 2
"""


@pytest.fixture
def board():
    made = Board.make(2, 1000)
    yield made
    made.close()


def run_elsewhere(address):
    return subprocess.run([sys.executable, "-c", FIND, repr(tuple(address))], check=False).returncode


def test_another_process_reads_the_weights_and_writes_directions(board):
    board.phi[:] = np.arange(1000)
    assert run_elsewhere(board.address) == 0
    np.testing.assert_array_equal(board.directions[1], 2 * np.arange(1000, dtype=np.float32))
    np.testing.assert_array_equal(board.directions[0], 0)


def test_it_is_not_mistaken_for_another_file_of_the_same_number(board):
    assert run_elsewhere(board.address._replace(token="quadriga-of-another-machine")) == 3


def test_a_process_that_is_not_here_has_none(board):
    assert Board.find(board.address._replace(process=2**22)) is None
    assert Board.find(board.address._replace(file=10**6)) is None
