"""A way to count instructions on a virtual device: in its root, the qemu that takes plugins, and our plugin.

The device says so in /etc/edgeplm-emulated; `runtimes.instructions` starts the agent once more through it.
"""

from pathlib import Path

from emulator import CPU
from packages import run
from tools import QEMU, Tools

PLACE = "/opt/edgeplm"
_SOURCE = Path(__file__).resolve().parents[2] / "runtimes/count/instructions.c"
_PROGRAM = f"""#!/bin/sh
# count-instructions DESCRIPTOR PROGRAM ARGUMENT...: see runtimes/count/instructions.c
descriptor=$1; shift
exec {PLACE}/{QEMU} -cpu {CPU} -plugin {PLACE}/instructions.so,fd="$descriptor" "$@"
"""
EMULATED = f"""emulated=qemu-user {CPU}
count-instructions={PLACE}/count-instructions
"""


def install(root: Path, tools: Tools) -> None:
    """Put the counter into a device's `root`; the plugin is compiled with this machine's compiler."""
    folder = root / PLACE.lstrip("/")
    tools.install_qemu(folder, PLACE)
    library = folder / "instructions.so"
    run("cc", "-std=c11", "-O2", "-Wall", "-Wextra", "-fPIC", "-shared", "-o", str(library), str(_SOURCE))
    (folder / "count-instructions").write_text(_PROGRAM, encoding="utf-8")
    (folder / "count-instructions").chmod(0o755)
    (root / "etc/edgeplm-emulated").write_text(EMULATED, encoding="utf-8")
