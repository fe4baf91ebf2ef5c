"""Checks the demo where there is neither Gradle nor an Android SDK: `python android-demo/check`.

Plain Kotlin is compiled and tested on the JVM, on bundles that the Python exporters make; the engines are
compiled against the runtimes' API, and the ONNX one is run; an APK of everything but the Compose screens is
built and signed. What could not be had is said and left out; with --strict that counts as a failure. What is
checked and fails ends it with status 1.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from build import Modules, Toolchain
from fetch import MissingError
from package import Platform
from programs import FailedError, run

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run every step that can be run here; 0 if none of them failed."""
    sys.path.insert(0, str(ROOT))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cache", type=Path, help="where fetched packages are kept")
    parser.add_argument("--strict", action="store_true", help="fail if a package cannot be had")
    parser.add_argument("--no-bundles", action="store_true", help="leave out the bundles of the exporters")
    options = parser.parse_args()
    cache = options.cache or _usual_cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="edgeplm-android.") as folder:
        report = Report()
        _check(report, cache, Path(folder), bundles=not options.no_bundles)
    if report.left_out:
        print("Left out: " + "; ".join(report.left_out))
    print(
        "Not checked here: the screens with the real AndroidX, Gradle's build, a phone. See docs/android.md."
    )
    return 1 if report.failed or (options.strict and report.left_out) else 0


class Report:
    """Runs steps and tells of each in a line."""

    def __init__(self) -> None:
        self.failed = False
        self.left_out: list[str] = []

    def step(self, what: str, action: Callable[[], str]) -> bool:
        """Whether `action` went well; what it returns is told with its time."""
        started = time.monotonic()
        print(f"... {what}", flush=True)
        try:
            said = action()
        except MissingError as error:
            self.left_out.append(f"{what} ({error})")
            print(f"LEFT OUT  {what}: {error}", flush=True)
            return False
        except FailedError as error:
            self.failed = True
            print(f"FAILED  {what}\n{error}", flush=True)
            return False
        print(f"ok  {said}  ({time.monotonic() - started:.0f} s)", flush=True)
        return True


def _check(report: Report, cache: Path, out: Path, *, bundles: bool) -> None:
    tools: list[Toolchain] = []
    platform: list[Platform] = []

    def fetch_tools() -> str:
        tools.append(Toolchain.fetch(cache))
        return "Kotlin compiler, JUnit, Gson, ExecuTorch's classes"

    def fetch_platform() -> str:
        platform.append(Platform.fetch(cache))
        return "Android's API 23, dx, aapt2, zipalign, apksigner"

    made = out / "bundles"

    def export() -> str:
        said = run([sys.executable, str(Path(__file__).with_name("bundles.py")), str(made)])
        return f"bundles of a tiny model: {said.splitlines()[-1]}"

    if not report.step("fetching the Kotlin compiler and libraries", fetch_tools):
        return
    modules = Modules(tools[0], out)
    if not (
        report.step("compiling the plain modules", modules.plain) and report.step("compiling", modules.core)
    ):
        return
    exported = bundles and report.step("exporting bundles", export)
    report.step("running the unit tests", lambda: modules.tests(made if exported else None))
    engine = report.step("compiling the engines", modules.engine)
    if engine and exported:
        report.step("running the ONNX engine on its runtime", lambda: modules.engine_tests(made))
    if report.step("fetching Android's packages", fetch_platform) and engine:
        phone = report.step("compiling the app's Android parts", lambda: modules.phone(platform[0].jar))
        if phone:
            report.step("compiling the app's screens", lambda: modules.screens(platform[0].jar))
            report.step("building and signing an APK", lambda: platform[0].apk(modules))


def _usual_cache() -> Path:
    from toolkit.models import cache_folder

    return cache_folder() / "android"


if __name__ == "__main__":
    raise SystemExit(main())
