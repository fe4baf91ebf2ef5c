package ai.onnxruntime.genai;

public class GenAIException extends Exception {
    public GenAIException(String message) {
        super(message);
    }
}
