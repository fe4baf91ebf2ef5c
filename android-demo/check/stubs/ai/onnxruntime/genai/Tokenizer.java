package ai.onnxruntime.genai;

public class Tokenizer implements AutoCloseable {
    private final long handle;

    public Tokenizer(Model model) throws GenAIException {
        handle = Oga.createTokenizer(model.handle);
    }

    public Sequences encode(String string) throws GenAIException {
        return new Sequences(Oga.encode(handle, string));
    }

    public String decode(int[] sequence) throws GenAIException {
        return Oga.decode(handle, sequence);
    }

    public TokenizerStream createStream() throws GenAIException {
        return new TokenizerStream(Oga.createStream(handle));
    }

    @Override
    public void close() {
        Oga.destroy('t', handle);
    }
}
