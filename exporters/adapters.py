"""People's adapters in a bundle whose base has LoRA slots: put in, listed, taken out; the base is untouched.

The manifest is the truth: a file is in place before the manifest names it and goes only once the manifest no
longer does, so that a killed process leaves a bundle that opens.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from exporters.bundle import (
    GENAI_CONFIG,
    MANIFEST,
    AdapterInfo,
    BundleFile,
    Manifest,
    read_manifest,
    safe_path,
    write_manifest,
)
from exporters.merge import check_base, read_adapter
from exporters.onnx.adapter_file import read_low_rank, write_adapter
from toolkit.errors import AdapterError, BundleError
from toolkit.files import sha256_of

ATTACHED = "attached"
FOLDER = "adapters"
_LONGEST = 100  # bytes of a name, so that file systems take it with the suffix


def add_adapter(bundle: Path, name: str, peft_folder: Path, *, force: bool = False) -> AdapterInfo:
    """Put the LoRA adapter in `peft_folder` into `bundle` as `name`; it takes well under a second.

    Raises BundleError for a bundle whose base has no slots, AdapterError for a name that cannot be used or is
    taken (unless `force`), and for an adapter that is not plain LoRA, is of another base, does not fit the
    slots, or changes nothing.
    """
    check_name(name)
    with _locked(bundle):
        manifest = read_manifest(bundle)
        suffix, write = _writer(bundle, manifest)
        _check_free(name, manifest, bundle, force)
        facts = read_adapter(peft_folder)
        check_base(facts, peft_folder, manifest.base_model.source, manifest.base_model.sha256)
        file = f"{FOLDER}/{name}{suffix}"
        path = safe_path(bundle, file, where=str(bundle))
        fresh = path.with_name(f".{name}.new{suffix}")
        try:
            write(peft_folder, fresh)
            entry = BundleFile(file, fresh.stat().st_size, sha256_of(fresh))
            if any(adapter.name == name for adapter in manifest.adapters):
                manifest = _without(manifest, name)
                write_manifest(bundle, manifest)
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)
        info = AdapterInfo(
            name,
            ATTACHED,
            facts.sha256,
            facts.rank,
            facts.alpha,
            facts.targets,
            file,
            facts.history_in_prompt,
        )
        write_manifest(
            bundle,
            replace(
                manifest,
                adapters=[*manifest.adapters, info],
                files=sorted([*manifest.files, entry], key=lambda file: file.path),
            ),
        )
    return info


def list_adapters(bundle: Path) -> list[AdapterInfo]:
    """The adapters that the bundle's manifest names, merged ones too. Raises BundleError if there is none."""
    return read_manifest(bundle).adapters


def remove_adapter(bundle: Path, name: str) -> AdapterInfo:
    """Take the attached adapter `name` out of `bundle`.

    Raises AdapterError if the bundle has none of that name, or has it merged into its weights.
    """
    with _locked(bundle):
        manifest = read_manifest(bundle)
        found = next((adapter for adapter in manifest.adapters if adapter.name == name), None)
        if found is None:
            names = ", ".join(adapter.name for adapter in manifest.adapters) or "none"
            raise AdapterError(f"has no adapter {name!r}", where=str(bundle), mend=f"It has: {names}")
        if found.kind != ATTACHED or found.file is None:
            raise AdapterError(
                f"{name!r} is {found.kind} into its weights and cannot be taken out",
                where=str(bundle),
                mend="Export the base without it",
            )
        path = safe_path(bundle, found.file, where=str(bundle / MANIFEST))
        write_manifest(bundle, _without(manifest, name))
        path.unlink(missing_ok=True)
    return found


def check_name(name: str) -> None:
    """AdapterError unless `name` can be a file's name on every system."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair
        size = 0
    plain = name.isprintable() and not set(name) & set('/\\:*?"<>|')
    if not plain or not 0 < size <= _LONGEST or name.startswith(".") or name != name.strip(" ."):
        raise AdapterError(
            f"{name!r:.60} cannot be an adapter's name",
            mend=f'Up to {_LONGEST} bytes, none of / \\ : * ? " < > |, no dot or blank at its ends',
        )


def _check_free(name: str, manifest: Manifest, bundle: Path, force: bool) -> None:
    """Names that differ in case only would be one file on some systems."""
    for adapter in manifest.adapters:
        if adapter.name.casefold() != name.casefold():
            continue
        if adapter.kind == ATTACHED and adapter.name == name and force:
            continue
        attached = adapter.kind == ATTACHED and adapter.name == name
        raise AdapterError(
            f"there is an adapter {adapter.name!r} already",
            where=str(bundle),
            mend="Choose another name" + (", or add --force to replace it" if attached else ""),
        )


def _without(manifest: Manifest, name: str) -> Manifest:
    gone = {adapter.file for adapter in manifest.adapters if adapter.name == name}
    return replace(
        manifest,
        adapters=[adapter for adapter in manifest.adapters if adapter.name != name],
        files=[file for file in manifest.files if file.path not in gone],
    )


def _writer(bundle: Path, manifest: Manifest) -> tuple[str, Callable[[Path, Path], None]]:
    """How the bundle's runtime keeps an adapter: the file's suffix, and what writes it from PEFT's folder.

    Raises BundleError if the base has no slots.
    """
    if manifest.runtime.name == "executorch":
        from exporters.executorch.slots import read_slots as read_programs_slots
        from exporters.executorch.slots import write_person

        read_programs_slots(bundle)
        return ".pte", lambda folder, out: write_person(bundle, read_low_rank(folder), out)
    from exporters.onnx.slots import read_slots

    slots = read_slots(_graph(bundle))
    return ".onnx_adapter", lambda folder, out: write_adapter(folder, slots, out)


def _graph(bundle: Path) -> Path:
    """The decoder's graph, as the runtime's configuration names it."""
    config = bundle / GENAI_CONFIG
    try:
        name = json.loads(config.read_text(encoding="utf-8"))["model"]["decoder"]["filename"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"does not name the decoder's graph ({error!r})", where=str(config), mend="Export it again"
        ) from error
    return safe_path(bundle, str(name), where=str(config))


@contextmanager
def _locked(bundle: Path) -> Iterator[None]:
    """Two processes that add at once must not lose one another's entry: the folder is locked meanwhile."""
    try:
        descriptor = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        read_manifest(bundle)  # says what is wrong with it
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
