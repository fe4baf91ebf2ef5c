package ai.onnxruntime.genai;

public final class GeneratorParams implements AutoCloseable {
    final long handle;

    public GeneratorParams(Model model) throws GenAIException {
        handle = Oga.createParams(model.handle);
    }

    public void setSearchOption(String optionName, double value) throws GenAIException {
        Oga.setNumber(handle, optionName, value);
    }

    public void setSearchOption(String optionName, boolean value) throws GenAIException {
        Oga.setBool(handle, optionName, value);
    }

    @Override
    public void close() {
        Oga.destroy('p', handle);
    }
}
