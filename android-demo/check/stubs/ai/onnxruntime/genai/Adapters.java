package ai.onnxruntime.genai;

public final class Adapters implements AutoCloseable {
    public Adapters(Model model) throws GenAIException {}

    public native void loadAdapter(String adapterFilePath, String adapterName) throws GenAIException;

    public native void unloadAdapter(String adapterName) throws GenAIException;

    @Override
    public void close() {}
}
