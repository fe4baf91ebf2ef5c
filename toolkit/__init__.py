"""EdgePLM's toolkit: from one person's examples to a personalised model on a small device."""

import logging
import os

# ONNX Runtime and ONNX Runtime GenAI keep a telemetry store from their import on, unless this is set first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# transformers imports torchao where it is installed, and torchao 0.18 warns of GPU kernels it did not find.
for _chatty in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_chatty).setLevel(logging.ERROR)

__version__ = "0.1.0"
