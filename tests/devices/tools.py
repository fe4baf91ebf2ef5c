"""Programs for this machine that it need not have installed: patchelf, and the qemu that takes plugins.

Debian's static qemu, which runs the devices, takes none. Both come from the mirror and stay in a folder.
"""

import shutil
from pathlib import Path

from packages import Archive, codename, run, unpack

QEMU = "qemu-aarch64"
PACKAGES = ("patchelf", "qemu-user")


class Tools:
    """The programs unpacked in `folder`, which is made if it is not there."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self._root = folder
        self._patchelf = str(folder / "usr/bin/patchelf")
        if not folder.exists():
            archive = Archive(packages, codename(), run("dpkg", "--print-architecture").strip())
            archive.prepare()
            fresh = folder.with_name(f"{folder.name}.building")
            shutil.rmtree(fresh, ignore_errors=True)
            unpack(archive.fetch(PACKAGES), fresh)
            fresh.rename(folder)

    def install_qemu(self, target: Path, place: str) -> None:
        """Have the qemu that takes plugins in `target`; see `install`."""
        self.install(self._root / "usr/bin" / QEMU, self._root, target, place)

    def install(self, program: Path, root: Path, target: Path, place: str) -> None:
        """Copy an ELF program with its loader and libraries, from the unpacked `root`, into the folder
        `target`, which a device knows as `place`: so it runs without a loader in the usual folder."""
        target.mkdir(parents=True, exist_ok=True)
        self.copy_libraries(program, root, target)
        shutil.copy(program, target / program.name)
        # A RUNPATH, patchelf's own choice, is not searched for what the libraries need in turn.
        rpath = ("--force-rpath", "--set-rpath", place)
        run(self._patchelf, "--set-interpreter", f"{place}/ld.so", *rpath, str(target / program.name))

    def copy_libraries(self, program: Path, root: Path, target: Path) -> None:
        """Copy what an ELF program needs from the unpacked `root` into `target`, its loader as ld.so."""
        libraries = next((root / "usr/lib").glob("*-linux-gnu"))
        found = {path.name: path for path in (*libraries.glob("*.so*"), *libraries.glob("android/*.so*"))}
        waiting, seen = [program], set()
        while waiting:
            for name in run(self._patchelf, "--print-needed", str(waiting.pop())).split():
                if name in seen:
                    continue
                seen.add(name)
                waiting.append(found[name])
                copy = target / ("ld.so" if name.startswith("ld-linux") else name)
                shutil.copy(found[name], copy)
                if run(self._patchelf, "--print-rpath", str(copy)).strip():
                    # It would be searched in place of the program's.
                    run(self._patchelf, "--remove-rpath", str(copy))
