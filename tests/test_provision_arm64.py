"""The real wheels and Debian's real Python for aarch64, run by qemu."""

import arm64
import pytest
from provision_kit import Board

from runtimes.package import agent_package
from runtimes.provision.base import debian_base
from runtimes.provision.debian import debian_release
from runtimes.provision.pins import MACHINES
from toolkit.errors import DeviceError
from toolkit.progress import SILENT

pytestmark = pytest.mark.slow
AARCH64 = MACHINES["aarch64"]


@pytest.fixture
def board(tmp_path):
    """An aarch64 device without any Python."""
    try:
        debian_release()
    except DeviceError as fault:
        pytest.skip(str(fault))
    board = Board(tmp_path / "board", **arm64.variables(tmp_path / "prefix"))
    board.tool("uname", "case $1 in -s) echo Linux;; -m) echo aarch64;; esac")
    board.tool("getconf", "exit 1")
    board.tool("ldd", "echo 'musl libc (aarch64)'")
    for program in board.bin.glob("python3*"):
        board.tool(program.name, "exit 127")
    return board


def run(board, name, program):
    """Words that the Python text `program` prints in the environment; its argument is the agent's zipapp."""
    agent = board.home / "agent.pyz"
    agent.write_bytes(agent_package().content)
    python = f"{board.root}/environments/{name}/python"
    output = board.shell.run('sh "$1" -c "$2" "$3"', python, program, str(agent), step="run", timeout=600)
    assert output.status == 0, output.stderr
    return output.text.split()


RUN = """
import platform, sys
sys.path.insert(0, sys.argv[1])
import numpy, onnxruntime_genai
import runtimes.agent, runtimes.genai
print(platform.machine(), numpy.dot([1, 2], [3, 4]), onnxruntime_genai.__version__, sys.executable)
"""


def test_a_device_without_python_gets_one_that_runs_onnxruntime(board):
    report = board.prepare()
    made = report.environments[0]
    assert made.self_contained
    assert report.libc.startswith("musl")
    machine, product, version, executable = run(
        board, made.name, RUN.replace("sys.executable", "sys.executable[-6:]")
    )
    assert (machine, product, version) == ("aarch64", "11", made.versions["onnxruntime-genai"])
    # A process that starts itself again goes through the launcher, not past the loader.
    assert executable == "python"
    assert made.unpacked_bytes < 140e6
    assert board.prepare().nothing_to_do


def test_a_device_with_debians_python_gets_the_wheels_for_it(board, tmp_path):
    base = debian_base(AARCH64)
    (tmp_path / "scratch").mkdir()
    base.fill(tmp_path / "debian", tmp_path / "scratch", "executorch", SILENT)
    start = (
        f"PYTHONHOME={tmp_path}/debian exec {tmp_path}/debian/lib/{AARCH64.loader} "
        f'--library-path {tmp_path}/debian/lib {tmp_path}/debian/bin/python{base.version} "$@"'
    )
    for name in ("python3", f"python{base.version}"):
        board.tool(name, start)
    made = board.prepare().environments[0]
    assert not made.self_contained
    machine, product, version, _ = run(board, made.name, RUN.replace("sys.executable", "0"))
    assert (machine, product, version) == ("aarch64", "11", made.versions["onnxruntime-genai"])
