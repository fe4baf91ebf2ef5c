"""A task adapter first, the person's on top (as in OPPU, Tan et al., 2024, arXiv 2402.04401).

The task adapter is merged into the float base, and what comes out is a base model like any other: the
person's adapter is trained on it, compared with it, merged into it or attached to it. So whatever is shipped
holds both.
"""

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from exporters.merge import check_base, merge_adapter, read_adapter
from toolkit.errors import ModelError
from toolkit.files import keep_newest, staged_directory
from toolkit.models import (
    BaseModel,
    load_model,
    load_tokenizer,
    resolve_model,
    write_plain_rope_theta,
)
from toolkit.progress import SILENT, Progress

KEPT = 3  # task bases in the cache; half a gigabyte each for a small model


def with_task_adapter(
    base: BaseModel, adapter: Path | None, cache: Path, progress: Progress = SILENT
) -> BaseModel:
    """`base` with the PEFT adapter in the folder `adapter` merged into its weights; `base` itself for None.

    The merged model is kept in `cache`. Raises AdapterError for an adapter that cannot be merged into it.
    """
    if adapter is None:
        return base
    facts = read_adapter(adapter)
    check_base(facts, adapter, base.source, base.sha256)
    config = (adapter / "adapter_config.json").read_bytes()
    key = hashlib.sha256(f"{base.sha256} {facts.sha256} ".encode() + config).hexdigest()
    target = cache / "task-bases" / key[:32]
    try:
        merged = resolve_model(str(target))
        os.utime(target)
    except ModelError:
        with progress.step(f"Merging the task adapter {adapter.name} into the base (once)"):
            _write(base, adapter, target)
        keep_newest(target.parent, KEPT)
        merged = resolve_model(str(target))
    return replace(merged, source=base.source, licence=base.licence, task_adapter=facts.sha256)


def _write(base: BaseModel, adapter: Path, target: Path) -> None:
    model = merge_adapter(load_model(base), adapter)
    with staged_directory(target, force=True) as staging:
        model.save_pretrained(staging)
        load_tokenizer(base).save_pretrained(staging)
        write_plain_rope_theta(staging)
