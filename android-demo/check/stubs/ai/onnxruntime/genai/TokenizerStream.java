package ai.onnxruntime.genai;

public class TokenizerStream implements AutoCloseable {
    private final long handle;

    protected TokenizerStream(long tokenizerStreamHandle) {
        handle = tokenizerStreamHandle;
    }

    public String decode(int token) throws GenAIException {
        return Oga.decodeNext(handle, token);
    }

    @Override
    public void close() {
        Oga.destroy('s', handle);
    }
}
