"""An APK without Gradle: Android's platform and tools from Debian."""

import re
import secrets
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from build import DEMO, Modules
from fetch import APK, PLATFORM, PLATFORM_RELEASE, debian_packages, find, find_jar
from programs import JAVA, FailedError, run

_ALIGNMENT = "4"


@dataclass(frozen=True)
class Platform:
    """Android's API and what makes an APK, from Debian."""

    jar: Path
    dx: Path
    tools: Path

    @classmethod
    def fetch(cls, cache: Path) -> "Platform":
        """From the cache or from the registries; raises MissingError."""
        old = debian_packages(cache, PLATFORM, PLATFORM_RELEASE)
        tools = debian_packages(cache, APK)
        return cls(find_jar(old, "com.android.android-23"), find_jar(old, "com.android.dx-10.0.0"), tools)

    def apk(self, modules: Modules) -> str:
        """Build, align and sign an APK of everything but the Compose screens, and verify it."""
        out = modules.out
        unsigned, aligned, signed = (out / f"{name}.apk" for name in ("unsigned", "aligned", "signed"))
        self._link(out, unsigned)
        with zipfile.ZipFile(unsigned, "a", zipfile.ZIP_DEFLATED) as archive:
            archive.write(self._dex(modules), "classes.dex")
        self._native("zipalign", "-f", _ALIGNMENT, str(unsigned), str(aligned))
        key = out / "key.p12"
        key.unlink(missing_ok=True)
        names = ("-alias", "key", "-dname", "CN=EdgePLM check", "-keyalg", "RSA", "-validity", "2")
        password = secrets.token_hex(8)  # of a key that signs this one file
        secret = ("-storetype", "PKCS12", "-keystore", str(key), "-storepass", password)
        run(["keytool", "-genkeypair", *names, *secret])
        apksigner = ["java", "-jar", str(find(self.tools, "apksigner-*.jar"))]
        protected = ("--ks", str(key), "--ks-pass", f"pass:{password}")
        run([*apksigner, "sign", *protected, "--out", str(signed), str(aligned)])
        said = run([*apksigner, "verify", "--verbose", str(signed)])
        schemes = re.findall(r"Verified using (v\d) scheme[^:]*: true", said)
        if "Verifies" not in said or "v2" not in schemes:
            raise FailedError(said)
        return f"APK of {signed.stat().st_size / 1e6:.1f} MB, signed and verified ({', '.join(schemes)})"

    def _link(self, out: Path, apk: Path) -> None:
        """The app's own manifest and resources; Gradle would add the package and the versions."""
        manifest = out / "AndroidManifest.xml"
        text = (DEMO / "app/src/main/AndroidManifest.xml").read_text(encoding="utf-8")
        manifest.write_text(
            text.replace("<manifest ", '<manifest package="org.edgeplm.demo" ', 1), encoding="utf-8"
        )
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
                wanted = [
                    name for name in archive.namelist() if not name.startswith(("META-INF", "module-info"))
                ]
                archive.extractall(classes, [name for name in wanted if name.endswith(".class")])
        dx = [*JAVA, "-cp", str(self.dx), "com.android.dx.command.Main", "--dex"]
        run([*dx, "--min-sdk-version=26", f"--output={dex}", str(classes)])
        return dex

    def _native(self, program: str, *arguments: str) -> None:
        """A program of the unpacked packages with the libraries beside it."""
        folders = {str(path.parent) for path in self.tools.rglob("*.so*")}
        run([str(find(self.tools, program)), *arguments], libraries=sorted(folders))
