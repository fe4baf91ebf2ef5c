"""ONNX artifacts for ONNX Runtime GenAI."""
