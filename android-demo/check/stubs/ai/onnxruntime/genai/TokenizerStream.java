package ai.onnxruntime.genai;

public class TokenizerStream implements AutoCloseable {
    protected TokenizerStream(long tokenizerStreamHandle) {}

    public native String decode(int token) throws GenAIException;

    @Override
    public void close() {}
}
