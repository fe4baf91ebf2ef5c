package ai.onnxruntime.genai;

public final class Model implements AutoCloseable {
    public Model(String modelPath) throws GenAIException {}

    public Model(Config config) throws GenAIException {}

    @Override
    public void close() {}
}
