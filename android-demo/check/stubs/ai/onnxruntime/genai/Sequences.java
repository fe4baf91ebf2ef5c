package ai.onnxruntime.genai;

public final class Sequences implements AutoCloseable {
    Sequences(long sequencesHandle) {}

    public native long numSequences();

    public native int[] getSequence(long sequenceIndex);

    @Override
    public void close() {}
}
