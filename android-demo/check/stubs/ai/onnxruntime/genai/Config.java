package ai.onnxruntime.genai;

public final class Config implements AutoCloseable {
    public Config(String modelPath) throws GenAIException {}

    @Override
    public void close() {}
}
