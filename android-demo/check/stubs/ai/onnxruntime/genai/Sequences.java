package ai.onnxruntime.genai;

public final class Sequences implements AutoCloseable {
    private final int[] ids;

    Sequences(int[] ids) {
        this.ids = ids;
    }

    public long numSequences() {
        return 1;
    }

    public int[] getSequence(long sequenceIndex) {
        return ids;
    }

    @Override
    public void close() {}
}
