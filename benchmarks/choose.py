"""Which bundle is meant where a folder holds several: the one for a runtime."""

from pathlib import Path

from exporters.bundle import MANIFEST, read_manifest
from toolkit.errors import BundleError

# As `edgeplm export --runtime` names them, and as the bundle's manifest does.
RUNTIMES = {"onnx": "onnxruntime-genai", "executorch": "executorch"}


def bundle_for(folder: Path, runtime: str) -> Path:
    """The bundle for `runtime` (a key of RUNTIMES): `folder` itself, or the only one directly in it.

    Raises BundleError if `folder` is a bundle for another runtime, or holds none or several for this one.
    """
    if (folder / MANIFEST).is_file() or not folder.is_dir():
        found = read_manifest(folder).runtime.name
        if found != RUNTIMES[runtime]:
            raise BundleError(
                f"this bundle is for {found}, and --runtime asks for {runtime}",
                where=str(folder),
                mend="Leave --runtime out: the bundle's manifest names its runtime",
            )
        return folder
    below = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    names = {path: read_manifest(path).runtime.name for path in below}
    fitting = [path for path, name in names.items() if name == RUNTIMES[runtime]]
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        held = ", ".join(f"{path.name} ({name})" for path, name in names.items())
        raise BundleError(
            f"no bundle for {runtime} in this folder" + (f", only {held}" if held else ""),
            where=str(folder),
            mend=f"Make one: `edgeplm export --runtime {runtime}`",
        )
    listed = ", ".join(path.name for path in fitting)
    raise BundleError(
        f"{len(fitting)} bundles for {runtime} in this folder: {listed}",
        where=str(folder),
        mend="Name the one to measure",
    )
