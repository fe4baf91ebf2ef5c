package ai.onnxruntime.genai;

public class Tokenizer implements AutoCloseable {
    public Tokenizer(Model model) throws GenAIException {}

    public native Sequences encode(String string) throws GenAIException;

    public native String decode(int[] sequence) throws GenAIException;

    public native TokenizerStream createStream() throws GenAIException;

    @Override
    public void close() {}
}
