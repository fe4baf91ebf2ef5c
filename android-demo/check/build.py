"""Compiling and testing without Gradle and without an Android SDK."""

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fetch import JVM, MissingError, debian_packages, find, find_jar, npm_package
from programs import JAVA, FailedError, join, run

DEMO = Path(__file__).resolve().parents[1]
_SOURCES = "src/main/kotlin/org/edgeplm"
# dx knows no invokedynamic for lambdas; D8, its successor, would turn them into classes by itself.
_FOR_DX = ("-Xlambdas=class", "-Xsam-conversions=class", "-Xstring-concat=inline")
_JAVA_8 = "-Xjdk-release=8"  # the class library of Android 8, as far as one can be named


@dataclass(frozen=True)
class Toolchain:
    """The Kotlin compiler and the libraries that the demo is compiled against."""

    kotlin: Path
    gson: Path
    executorch: Path
    junit: tuple[Path, ...]

    @classmethod
    def fetch(cls, cache: Path) -> "Toolchain":
        """From the cache or from the registries; raises MissingError."""
        for program in ("java", "javac"):
            if shutil.which(program) is None:
                raise MissingError(f"{program} is not installed; any JDK from 17 on will do")
        jvm = debian_packages(cache, JVM)
        return cls(
            npm_package(cache, "kotlin-compiler", (".jar", "build.txt")) / "package",
            find_jar(jvm, "gson"),
            find(npm_package(cache, "react-native-executorch", ("/classes.jar",)), "classes.jar"),
            (find_jar(jvm, "junit4"), find_jar(jvm, "hamcrest")),
        )

    def library(self, name: str) -> Path:
        """A jar that comes with the compiler."""
        return self.kotlin / "lib" / f"{name}.jar"

    def compile(
        self,
        sources: Sequence[Path],
        out: Path,
        classpath: Sequence[Path],
        *options: str,
        warnings: bool = False,
    ) -> Path:
        """Compile Kotlin `sources` into the jar `out`. Raises FailedError; for warnings too, unless told."""
        run(
            [
                *(*JAVA, "-cp", str(self.library("kotlin-preloader"))),
                "org.jetbrains.kotlin.preloading.Preloader",
                *("-cp", str(self.library("kotlin-compiler"))),
                "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
                *("-kotlin-home", str(self.kotlin), "-no-reflect", "-jvm-target", "1.8", *options),
                *(() if warnings else ("-Werror",)),
                *("-cp", join(classpath), "-d", str(out), *map(str, sources)),
            ]
        )
        return out


@dataclass(frozen=True)
class Modules:
    """What the steps have built so far."""

    tools: Toolchain
    out: Path

    def plain(self) -> str:
        """bundle and bench, which know nothing of Android."""
        self.tools.compile(
            [DEMO / "bundle/src/main"], self.jar("bundle"), [self.tools.gson], _JAVA_8, *_FOR_DX
        )
        bench = [self.tools.gson, self.jar("bundle")]
        self.tools.compile([DEMO / "bench/src/main"], self.jar("bench"), bench, _JAVA_8, *_FOR_DX)
        return "bundle, bench"

    def engine(self) -> str:
        """engine, against the real ExecuTorch classes and stubs of GenAI's and Android's."""
        stubs = self.out / "stubs"
        sources = [str(path) for path in sorted((DEMO / "check/stubs").rglob("*.java"))]
        run(["javac", "--release", "8", "-Xlint:-options", "-d", str(stubs), *sources])
        classpath = [self.tools.gson, self.jar("bundle"), self.tools.executorch, stubs]
        self.tools.compile([DEMO / "engine/src/main/kotlin"], self.jar("engine"), classpath, *_FOR_DX)
        return "engine, against org.pytorch.executorch and stubs of ai.onnxruntime.genai"

    def core(self) -> str:
        """The app's logic, which knows nothing of Android either."""
        classpath = [self.tools.gson, *map(self.jar, ("bundle", "bench")), self._coroutines]
        self.tools.compile(
            [DEMO / "app" / _SOURCES / "demo/core"], self.jar("core"), classpath, _JAVA_8, *_FOR_DX
        )
        return "app: the chat without its screen"

    def phone(self, platform: Path) -> str:
        """The app's Android parts without AndroidX."""
        modules = map(self.jar, ("bundle", "bench", "engine", "core"))
        classpath = [self.out / "stubs", self.tools.gson, *modules, self._coroutines, platform]
        self.tools.compile([DEMO / "app" / _SOURCES / "demo/phone"], self.jar("phone"), classpath, *_FOR_DX)
        return "app: storage, file picker, benchmark activity, against Android's API 23"

    def screens(self, platform: Path) -> str:
        """The Compose screens, against hand-written declarations of AndroidX: our own mistakes show."""
        modules = list(map(self.jar, ("bundle", "bench", "engine", "core", "phone")))
        classpath = [self.out / "stubs", self.tools.gson, *modules, self._coroutines, platform]
        # The declarations themselves may have unused parts; a warning in them says nothing.
        declared = self.tools.compile(
            [DEMO / "check/androidx"], self.jar("androidx"), classpath, warnings=True
        )
        self.tools.compile([DEMO / "app" / _SOURCES / "demo/ui"], self.jar("ui"), [*classpath, declared])
        return "app: the Compose screens, against hand-written declarations of AndroidX"

    def genai(self) -> list[str]:
        """Options that give Java the ONNX Runtime GenAI of the Python wheel; raises MissingError."""
        if sys.platform != "linux" or shutil.which("cc") is None:
            raise MissingError("the bridge to the wheel's library needs Linux and a C compiler")
        runtime = _in_package("onnxruntime_genai", "libonnxruntime-genai.so")
        onnxruntime = _in_package("onnxruntime", "capi/libonnxruntime.so.*")
        settings = run(["java", "-XshowSettings:properties", "-version"], errors=True)
        java = Path(re.findall(r"java\.home = (.+)", settings)[0].strip())
        headers = java / "include"
        if not (headers / "jni.h").is_file():
            raise MissingError(f"{java} has no jni.h (a JRE, not a JDK)")
        library = self.out / "libgenai_jni.so"
        includes = (f"-I{headers}", f"-I{headers / 'linux'}")
        linked = (str(runtime), f"-Wl,-rpath,{runtime.parent}", "-Wl,--no-undefined")
        run(
            [
                "cc",
                "-shared",
                "-fPIC",
                "-Wall",
                *includes,
                "-o",
                str(library),
                str(DEMO / "check/genai_jni.c"),
                *linked,
            ]
        )
        return [f"-Dedgeplm.genai={library}", f"-Dedgeplm.onnxruntime={onnxruntime}"]

    def engine_tests(self, bundles: Path) -> str:
        """The ONNX engine with the real runtime on the exporters' bundle; Python reads its samples."""
        samples = self.out / "samples.jsonl"
        given = [*self.genai(), f"-Dedgeplm.bundles={bundles}", f"-Dedgeplm.samples={samples}"]
        modules = [*map(self.jar, ("bundle", "bench", "engine")), self.out / "stubs", self.tools.executorch]
        sources = [DEMO / "testing", DEMO / "check/kotlin"]
        count = self._junit("engine-tests", sources, modules, given)
        return (
            f"{count} tests of the ONNX engine with the real runtime; its samples give {_statistics(samples)}"
        )

    def tests(self, bundles: Path | None) -> str:
        """The unit tests, on the JVM; `bundles` are what the Python exporters made."""
        modules = [*map(self.jar, ("bundle", "bench", "core")), self._coroutines]
        sources = [
            DEMO / "testing",
            *(DEMO / name / "src/test/kotlin" for name in ("bundle", "bench", "app")),
        ]
        count = self._junit("tests", sources, modules, [f"-Dedgeplm.bundles={bundles}"] if bundles else [])
        return f"{count} unit tests on the JVM" + ("" if bundles else ", without exported bundles")

    def _junit(
        self, name: str, sources: Sequence[Path], modules: Sequence[Path], options: Sequence[str]
    ) -> int:
        """Compile and run tests; returns how many there were."""
        kotlin_test = [self.tools.library(each) for each in ("kotlin-test", "kotlin-test-junit")]
        classpath = [self.tools.gson, *modules, *kotlin_test, *self.tools.junit]
        # As in Gradle's build, the tests see what is internal to the modules that they test.
        friends = f"-Xfriend-paths={','.join(map(str, modules))}"
        self.tools.compile(sources, self.jar(name), classpath, friends)
        classpath += [self.jar(name), self.tools.library("kotlin-stdlib")]
        junit = [
            *JAVA,
            *options,
            "-cp",
            join(classpath),
            "org.junit.runner.JUnitCore",
            *_test_classes(sources),
        ]
        (count,) = re.findall(r"^OK \((\d+) tests?\)", run(junit, cwd=DEMO), re.MULTILINE)
        return int(count)

    def jar(self, name: str) -> Path:
        """Where the module `name` is built."""
        return self.out / f"{name}.jar"

    @property
    def _coroutines(self) -> Path:
        return self.tools.library("kotlinx-coroutines-core-jvm")


def _statistics(samples: Path) -> str:
    """The names of what the host derives from samples that Kotlin wrote; raises FailedError if it cannot."""
    from benchmarks.results import derive
    from benchmarks.validity import judge

    read = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    names = sorted(derive(read))
    reasons = judge(read).reasons
    if "Android's thermal status was 3 (severe)" not in reasons:
        raise FailedError(f"the host does not see that the phone throttled, only: {'; '.join(reasons)}")
    minutes = [sample for sample in read if sample["kind"] == "sustained"]
    if [sample["minute"] for sample in minutes] != [1, 2]:
        raise FailedError(f"{len(minutes)} minutes of sustained decode, where two were asked for")
    if read[-1]["kind"] != "done" or not {
        "load_cold",
        "load_warm",
        "ttft",
        "decode_rate_at_30",
        "pss",
    } <= set(names):
        raise FailedError(f"the host derives only {', '.join(names)}")
    return f"{len(names)} statistics in Python"


def _in_package(package: str, pattern: str) -> Path:
    """A file of an installed Python package."""
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob(pattern))]
    if not found:
        raise MissingError(f"the Python package {package} has no {pattern}")
    return found[0]


def _test_classes(sources: Sequence[Path]) -> list[str]:
    """The classes with tests, by their names in the sources."""
    found = []
    for path in sorted(path for folder in sources for path in folder.rglob("*.kt")):
        text = path.read_text(encoding="utf-8")
        package = re.search(r"^package (\S+)", text, re.MULTILINE)
        found += [
            f"{package[1]}.{name}"
            for name in re.findall(r"^class (\w+Test)\b", text, re.MULTILINE)
            if package
        ]
    return found
