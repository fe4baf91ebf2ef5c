package ai.onnxruntime.genai;

/** The runtime's C API, through genai_jni.c; handles are its pointers. Not a part of the real Java API. */
final class Oga {
    private Oga() {}

    static native long createModel(String folder) throws GenAIException;

    static native long createTokenizer(long model) throws GenAIException;

    static native int[] encode(long tokenizer, String text) throws GenAIException;

    static native String decode(long tokenizer, int[] ids) throws GenAIException;

    static native long createStream(long tokenizer) throws GenAIException;

    static native String decodeNext(long stream, int token) throws GenAIException;

    static native long createParams(long model) throws GenAIException;

    static native void setNumber(long params, String name, double value) throws GenAIException;

    static native void setBool(long params, String name, boolean value) throws GenAIException;

    static native long createGenerator(long model, long params) throws GenAIException;

    static native boolean isDone(long generator);

    static native void append(long generator, int[] ids) throws GenAIException;

    static native void next(long generator) throws GenAIException;

    static native int[] sequence(long generator, long index);

    static native long createAdapters(long model) throws GenAIException;

    static native void load(long adapters, String file, String name) throws GenAIException;

    static native void unload(long adapters, String name) throws GenAIException;

    static native void activate(long generator, long adapters, String name) throws GenAIException;

    /** Frees a handle; `kind` is one of the letters in genai_jni.c. */
    static native void destroy(char kind, long handle);

    static {
        String library = System.getProperty("edgeplm.genai");
        if (library == null) throw new UnsatisfiedLinkError("no ONNX Runtime GenAI on this machine");
        System.load(System.getProperty("edgeplm.onnxruntime")); // by its name GenAI finds it then
        System.load(library);
    }
}
