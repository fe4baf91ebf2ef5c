package ai.onnxruntime.genai;

public final class Generator implements AutoCloseable, Iterable<Integer> {
    public Generator(Model model, GeneratorParams generatorParams) throws GenAIException {}

    @Override
    public native java.util.Iterator<Integer> iterator();

    public native boolean isDone();

    public native void appendTokens(int[] inputIDs) throws GenAIException;

    public native void generateNextToken() throws GenAIException;

    public native int[] getSequence(long sequenceIndex) throws GenAIException;

    public native int getLastTokenInSequence(long sequenceIndex) throws GenAIException;

    public native void setActiveAdapter(Adapters adapters, String adapterName) throws GenAIException;

    @Override
    public void close() {}
}
