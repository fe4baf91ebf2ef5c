"""The demo app on the phone of `adb_device`: its package, its folders, and what `am` and its kin do to it.

Where a phone's app would run its engine, the agent's own code runs `fake_engine.py`: the app is held to the
same samples by the shared vectors. FAULT is a fault of that engine.
"""

import sys
from pathlib import Path

from adb_device import FakePhone

PACKAGE = "org.edgeplm.demo"
HERE = Path(__file__).parent
PRIVATE = f"/data/data/{PACKAGE}/files"
SHARED = f"/sdcard/Android/data/{PACKAGE}/files"

_PM = f'[ "$1 $2" = "path {PACKAGE}" ] && echo package:/data/app/base.apk'
_RUN_AS = """
shift
cd "$PHONE/data/data/org.edgeplm.demo" && exec "$@"
"""
_RELEASE = 'echo "run-as: package not debuggable: $1" >&2; exit 1'
_PIDOF = """
[ "$1" = org.edgeplm.demo:bench ] && kill -0 "$(cat "$PHONE/app.pid")" 2>/dev/null
"""
# The screens make the folders; the benchmark's one also reads its plan from a file of `plans`.
_AM = f"""
echo "$*" >>"$PHONE/am.log"
stop() {{
  [ ! -f "$PHONE/app.pid" ] || kill -9 "$(cat "$PHONE/app.pid")" 2>/dev/null
  rm -f "$PHONE/app.pid"
}}
case $1 in force-stop) stop; exit 0;; esac
private=false
while [ $# -gt 0 ]; do
  case $1 in
    -n) component=$2;; -S) stop;;
    --es) [ "$2" != plan ] || plan=$3; [ "$2" != result ] || result=$3;;
    --ez) private=$3;;
  esac
  shift
done
echo "Starting: Intent {{ cmp=$component }}"
home=$PHONE{SHARED}; [ "$private" = false ] || home=$PHONE{PRIVATE}
mkdir -p "$home/bundles" "$home/plans" "$home/results"
[ "$component" != {PACKAGE}/.ui.MainActivity ] || {{ echo "Status: ok"; exit 0; }}
[ "$component" = {PACKAGE}/.phone.BenchActivity ] || {{ echo "Error type 3"; exit 0; }}
cd "{HERE}" || exit 1
{sys.executable} demo_app.py "$home" "$plan" "$result" FAULT </dev/null >/dev/null 2>&1 &
echo $! >"$PHONE/app.pid"
echo "Status: ok"
"""


def install(phone: FakePhone, *, debug: bool = True, fault: str = "") -> None:
    """Put the app on the phone: a debug build, or one that `run-as` does not enter."""
    (phone.root / f"data/data/{PACKAGE}").mkdir(parents=True, exist_ok=True)
    phone.program("pm", _PM)
    phone.program("run-as", _RUN_AS if debug else _RELEASE)
    phone.program("pidof", _PIDOF)
    phone.program("am", _AM.replace("FAULT", f"'{fault}'"))
    for name in ("input", "wm", "dumpsys"):
        phone.program(name, "exit 0")


def main(home: str, plan: str, result: str, fault: str) -> None:
    """What the benchmark's screen does: samples into NAME.part, which takes its name at the end."""
    import json
    import os

    from fake_engine import faulty

    from exporters.bundle import read_manifest
    from runtimes.agent import Samples, execute
    from runtimes.plan import plan_from_dict
    from toolkit.errors import EdgePLMError

    os.setsid()
    folder = Path(home)
    growing = folder / "results" / f"{result}.part"
    with growing.open("w") as stream:
        samples = Samples(stream)
        try:
            asked = plan_from_dict(json.loads((folder / "plans" / plan).read_text()))
            read_manifest(folder / "bundles" / asked.bundle)
            execute(asked, samples, faulty(fault))
        except (OSError, EdgePLMError) as problem:
            samples.emit("error", step=samples.step, message=str(problem))
    os.replace(growing, growing.with_suffix(""))


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main(*sys.argv[1:])
