"""Compiling, testing and packing without Gradle and without an Android SDK."""

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fetch import APK, JVM, PLATFORM, PLATFORM_RELEASE, Missing, debian_packages, find, npm_package

DEMO = Path(__file__).resolve().parents[1]
_SOURCES = "src/main/kotlin/org/edgeplm"
# dx knows no invokedynamic for lambdas, which D8 (Android's own successor, not to be had here) turns into classes.
_FOR_DX = ("-Xlambdas=class", "-Xsam-conversions=class", "-Xstring-concat=inline")
_JAVA_8 = "-Xjdk-release=8"  # the class library of Android 8, as far as one can be named
# Each program lives for seconds: the second compiler and the parallel collector would cost more than they bring.
_JAVA = ("java", "-Xmx900m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_PARCEL_ALIGNMENT = "4"
_PASSWORD = "android"  # of a key that is made for one run and thrown away


class Failed(Exception):
    """A step that did not succeed; the message is what its program said."""


@dataclass(frozen=True)
class Toolchain:
    """The Kotlin compiler and the libraries that the demo is compiled against."""

    kotlin: Path
    gson: Path
    executorch: Path
    junit: tuple[Path, ...]

    @classmethod
    def fetch(cls, cache: Path) -> "Toolchain":
        """From the cache or from the registries; raises Missing."""
        for program in ("java", "javac"):
            if shutil.which(program) is None:
                raise Missing(f"{program} is not installed; any JDK from 17 on will do")
        jvm = debian_packages(cache, JVM)
        return cls(
            npm_package(cache, "kotlin-compiler", (".jar", "build.txt")) / "package",
            _jar(jvm, "gson"),
            find(npm_package(cache, "react-native-executorch", ("/classes.jar",)), "classes.jar"),
            (_jar(jvm, "junit4"), _jar(jvm, "hamcrest")),
        )

    def library(self, name: str) -> Path:
        """A jar that comes with the compiler."""
        return self.kotlin / "lib" / f"{name}.jar"

    def compile(self, sources: Sequence[Path], out: Path, classpath: Sequence[Path], *options: str) -> Path:
        """Compile Kotlin `sources` into the jar `out`; warnings are errors. Raises Failed."""
        run(
            [
                *(*_JAVA, "-cp", str(self.library("kotlin-preloader"))),
                "org.jetbrains.kotlin.preloading.Preloader",
                *("-cp", str(self.library("kotlin-compiler"))),
                "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler",
                *("-kotlin-home", str(self.kotlin), "-no-reflect", "-jvm-target", "1.8", "-Werror", *options),
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
        self.tools.compile([DEMO / "bundle/src/main"], self.jar("bundle"), [self.tools.gson], _JAVA_8, *_FOR_DX)
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
        self.tools.compile([DEMO / "app" / _SOURCES / "demo/core"], self.jar("core"), classpath, _JAVA_8, *_FOR_DX)
        return "app: the chat without its screen"

    def phone(self, platform: Path) -> str:
        """The app's Android parts without AndroidX."""
        modules = map(self.jar, ("bundle", "bench", "engine", "core"))
        classpath = [self.out / "stubs", self.tools.gson, *modules, self._coroutines, platform]
        self.tools.compile([DEMO / "app" / _SOURCES / "demo/phone"], self.jar("phone"), classpath, *_FOR_DX)
        return "app: storage, file picker, benchmark activity, against Android's API 23"

    def tests(self, bundles: Path | None) -> str:
        """The unit tests, on the JVM; `bundles` are what the Python exporters made."""
        modules = list(map(self.jar, ("bundle", "bench", "core")))
        kotlin_test = [self.tools.library(name) for name in ("kotlin-test", "kotlin-test-junit")]
        classpath = [self.tools.gson, *modules, self._coroutines, *kotlin_test, *self.tools.junit]
        sources = [DEMO / "testing", *(DEMO / name / "src/test/kotlin" for name in ("bundle", "bench", "app"))]
        self.tools.compile(sources, self.jar("tests"), classpath)
        classpath += [self.jar("tests"), self.tools.library("kotlin-stdlib")]
        given = [f"-Dedgeplm.bundles={bundles}"] if bundles else []
        junit = [*_JAVA, *given, "-cp", join(classpath), "org.junit.runner.JUnitCore", *_test_classes(sources)]
        said = run(junit, cwd=DEMO)
        (count,) = re.findall(r"^OK \((\d+) tests?\)", said, re.MULTILINE)
        return f"{count} unit tests on the JVM" + ("" if bundles else ", without exported bundles")

    def jar(self, name: str) -> Path:
        """Where the module `name` is built."""
        return self.out / f"{name}.jar"

    @property
    def _coroutines(self) -> Path:
        return self.tools.library("kotlinx-coroutines-core-jvm")


@dataclass(frozen=True)
class Platform:
    """Android's API and what makes an APK, from Debian."""

    jar: Path
    dx: Path
    tools: Path

    @classmethod
    def fetch(cls, cache: Path) -> "Platform":
        """From the cache or from the registries; raises Missing."""
        old = debian_packages(cache, PLATFORM, PLATFORM_RELEASE)
        tools = debian_packages(cache, APK)
        return cls(_jar(old, "com.android.android-23"), _jar(old, "com.android.dx-10.0.0"), tools)

    def apk(self, modules: Modules) -> str:
        """Build, align and sign an APK of everything but the Compose screens, and verify it."""
        out = modules.out
        unsigned, aligned, signed = (out / f"{name}.apk" for name in ("unsigned", "aligned", "signed"))
        self._link(out, unsigned)
        with zipfile.ZipFile(unsigned, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.write(self._dex(modules), "classes.dex")
        self._native("zipalign", "-f", _PARCEL_ALIGNMENT, str(unsigned), str(aligned))
        key = out / "key.p12"
        key.unlink(missing_ok=True)
        names = ("-alias", "key", "-dname", "CN=EdgePLM check", "-keyalg", "RSA", "-validity", "2")
        secret = ("-storetype", "PKCS12", "-keystore", str(key), "-storepass", _PASSWORD)
        run(["keytool", "-genkeypair", *names, *secret])
        apksigner = ["java", "-jar", str(find(self.tools, "apksigner-*.jar"))]
        protected = ("--ks", str(key), "--ks-pass", f"pass:{_PASSWORD}")
        run([*apksigner, "sign", *protected, "--out", str(signed), str(aligned)])
        said = run([*apksigner, "verify", "--verbose", str(signed)])
        schemes = re.findall(r"Verified using (v\d) scheme[^:]*: true", said)
        if "Verifies" not in said or "v2" not in schemes:
            raise Failed(said)
        return f"APK of {signed.stat().st_size / 1e6:.1f} MB, signed and verified ({', '.join(schemes)})"

    def _link(self, out: Path, apk: Path) -> None:
        """The app's own manifest and resources; Gradle would add the package and the versions."""
        manifest = out / "AndroidManifest.xml"
        text = (DEMO / "app/src/main/AndroidManifest.xml").read_text(encoding="utf-8")
        manifest.write_text(text.replace("<manifest ", '<manifest package="org.edgeplm.demo" ', 1), encoding="utf-8")
        compiled = out / "res.zip"
        self._native("aapt2", "compile", "--dir", str(DEMO / "app/src/main/res"), "-o", str(compiled))
        versions = ("--min-sdk-version", "26", "--target-sdk-version", "26", "--version-code", "1")
        files = ("-I", str(self.jar), "--manifest", str(manifest), "-o", str(apk), str(compiled))
        self._native("aapt2", "link", *versions, "--version-name", "check", *files)

    def _dex(self, modules: Modules) -> Path:
        """All classes in one DEX file; dx takes those of Java 8."""
        classes, dex = modules.out / "classes", modules.out / "classes.dex"
        shutil.rmtree(classes, ignore_errors=True)
        tools = modules.tools
        jars = [modules.jar(name) for name in ("bundle", "bench", "engine", "core", "phone")]
        jars += [tools.gson, tools.executorch]
        jars += [tools.library(name) for name in ("kotlin-stdlib", "kotlinx-coroutines-core-jvm")]
        for jar in jars:
            with zipfile.ZipFile(jar) as archive:
                wanted = [name for name in archive.namelist() if not name.startswith(("META-INF", "module-info"))]
                archive.extractall(classes, [name for name in wanted if name.endswith(".class")])
        dx = [*_JAVA, "-cp", str(self.dx), "com.android.dx.command.Main", "--dex"]
        run([*dx, "--min-sdk-version=26", f"--output={dex}", str(classes)])
        return dex

    def _native(self, program: str, *arguments: str) -> None:
        """A program of the unpacked packages with the libraries beside it."""
        folders = {str(path.parent) for path in self.tools.rglob("*.so*")}
        run([str(find(self.tools, program)), *arguments], libraries=sorted(folders))


def run(command: Sequence[str], *, cwd: Path | None = None, libraries: Sequence[str] = ()) -> str:
    """Standard output of `command`; raises Failed with what it said."""
    environment = {**os.environ}
    if libraries:
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(libraries)
    done = subprocess.run(
        list(command),
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed("\n".join((done.stdout + done.stderr).splitlines()[:60]) or f"status {done.returncode}")
    return done.stdout


def join(paths: Sequence[Path]) -> str:
    """A class path."""
    return os.pathsep.join(map(str, paths))


def _jar(folder: Path, name: str) -> Path:
    """The jar called `name`, links followed: Debian's versions are in the names behind them."""
    for path in sorted(folder.rglob(f"{name}.jar")):
        target = path.resolve()
        if target.is_file():
            return target
    raise Missing(f"{name}.jar is not in {folder.name}")


def _test_classes(sources: Sequence[Path]) -> list[str]:
    """The classes with tests, by their names in the sources."""
    found = []
    for path in sorted(path for folder in sources for path in folder.rglob("*.kt")):
        text = path.read_text(encoding="utf-8")
        package = re.search(r"^package (\S+)", text, re.MULTILINE)
        found += [f"{package[1]}.{name}" for name in re.findall(r"^class (\w+Test)\b", text, re.MULTILINE) if package]
    return found
