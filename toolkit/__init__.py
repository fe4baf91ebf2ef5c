"""EdgePLM's toolkit: from one person's examples to a personalised model on a small device."""

import os

# ONNX Runtime and ONNX Runtime GenAI keep a telemetry store from their import on, unless this is set first.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
