package ai.onnxruntime.genai;

public final class Generator implements AutoCloseable {
    private final long handle;

    public Generator(Model model, GeneratorParams generatorParams) throws GenAIException {
        handle = Oga.createGenerator(model.handle, generatorParams.handle);
    }

    public boolean isDone() {
        return Oga.isDone(handle);
    }

    public void appendTokens(int[] inputIDs) throws GenAIException {
        Oga.append(handle, inputIDs);
    }

    public void generateNextToken() throws GenAIException {
        Oga.next(handle);
    }

    public int[] getSequence(long sequenceIndex) throws GenAIException {
        return Oga.sequence(handle, sequenceIndex);
    }

    public int getLastTokenInSequence(long sequenceIndex) throws GenAIException {
        int[] ids = Oga.sequence(handle, sequenceIndex);
        return ids[ids.length - 1];
    }

    public void setActiveAdapter(Adapters adapters, String adapterName) throws GenAIException {
        Oga.activate(handle, adapters.handle, adapterName);
    }

    @Override
    public void close() {
        Oga.destroy('g', handle);
    }
}
