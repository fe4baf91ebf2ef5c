package ai.onnxruntime.genai;

public class GenAIException extends Exception {}
