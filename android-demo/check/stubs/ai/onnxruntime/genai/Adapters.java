package ai.onnxruntime.genai;

public final class Adapters implements AutoCloseable {
    final long handle;

    public Adapters(Model model) throws GenAIException {
        handle = Oga.createAdapters(model.handle);
    }

    public void loadAdapter(String adapterFilePath, String adapterName) throws GenAIException {
        Oga.load(handle, adapterFilePath, adapterName);
    }

    public void unloadAdapter(String adapterName) throws GenAIException {
        Oga.unload(handle, adapterName);
    }

    @Override
    public void close() {
        Oga.destroy('a', handle);
    }
}
