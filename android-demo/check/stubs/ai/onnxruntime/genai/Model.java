package ai.onnxruntime.genai;

public final class Model implements AutoCloseable {
    final long handle;

    public Model(String modelPath) throws GenAIException {
        handle = Oga.createModel(modelPath);
    }

    @Override
    public void close() {
        Oga.destroy('m', handle);
    }
}
