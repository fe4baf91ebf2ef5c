/* ONNX Runtime GenAI's C API for the JVM, as far as the demo's engine calls the Java API: so that the engine is
   tested with the real runtime, the library in the Python wheel, whose Java half is to be had for Android only. */
#include <jni.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

typedef void Handle;
typedef void Result;

const char *OgaResultGetError(const Result *result);
void OgaDestroyResult(Result *result);
void OgaDestroyString(const char *text);
Result *OgaCreateModel(const char *folder, Handle **out);
Result *OgaCreateTokenizer(const Handle *model, Handle **out);
Result *OgaCreateSequences(Handle **out);
Result *OgaTokenizerEncode(const Handle *tokenizer, const char *text, Handle *sequences);
Result *OgaTokenizerDecode(const Handle *tokenizer, const int32_t *ids, size_t count, const char **out);
Result *OgaCreateTokenizerStream(const Handle *tokenizer, Handle **out);
Result *OgaTokenizerStreamDecode(Handle *stream, int32_t token, const char **out);
size_t OgaSequencesGetSequenceCount(const Handle *sequences, size_t index);
const int32_t *OgaSequencesGetSequenceData(const Handle *sequences, size_t index);
Result *OgaCreateGeneratorParams(const Handle *model, Handle **out);
Result *OgaGeneratorParamsSetSearchNumber(Handle *params, const char *name, double value);
Result *OgaGeneratorParamsSetSearchBool(Handle *params, const char *name, bool value);
Result *OgaCreateGenerator(const Handle *model, const Handle *params, Handle **out);
bool OgaGenerator_IsDone(Handle *generator);
Result *OgaGenerator_AppendTokens(Handle *generator, const int32_t *ids, size_t count);
Result *OgaGenerator_GenerateNextToken(Handle *generator);
size_t OgaGenerator_GetSequenceCount(const Handle *generator, size_t index);
const int32_t *OgaGenerator_GetSequenceData(const Handle *generator, size_t index);
Result *OgaCreateAdapters(const Handle *model, Handle **out);
Result *OgaLoadAdapter(Handle *adapters, const char *file, const char *name);
Result *OgaUnloadAdapter(Handle *adapters, const char *name);
Result *OgaSetActiveAdapter(Handle *generator, Handle *adapters, const char *name);
void OgaDestroyModel(Handle *handle);
void OgaDestroyTokenizer(Handle *handle);
void OgaDestroyTokenizerStream(Handle *handle);
void OgaDestroySequences(Handle *handle);
void OgaDestroyGeneratorParams(Handle *handle);
void OgaDestroyGenerator(Handle *handle);
void OgaDestroyAdapters(Handle *handle);

#define OGA(type, name) JNIEXPORT type JNICALL Java_ai_onnxruntime_genai_Oga_##name
#define POINTER(handle) ((Handle *)(intptr_t)(handle))

static void check(JNIEnv *env, Result *result) {
    if (result == NULL) return;
    jclass kind = (*env)->FindClass(env, "ai/onnxruntime/genai/GenAIException");
    (*env)->ThrowNew(env, kind, OgaResultGetError(result));
    OgaDestroyResult(result);
}

/* UTF-8 as the C API takes it; JNI's own form differs beyond the basic plane. The caller frees it. */
static char *utf8(JNIEnv *env, jstring text) {
    jclass kind = (*env)->FindClass(env, "java/lang/String");
    jmethodID encode = (*env)->GetMethodID(env, kind, "getBytes", "(Ljava/lang/String;)[B");
    jbyteArray bytes = (*env)->CallObjectMethod(env, text, encode, (*env)->NewStringUTF(env, "UTF-8"));
    jsize size = (*env)->GetArrayLength(env, bytes);
    char *out = calloc(size + 1, 1);
    (*env)->GetByteArrayRegion(env, bytes, 0, size, (jbyte *)out);
    return out;
}

static jstring from_utf8(JNIEnv *env, const char *text) {
    jsize size = 0;
    while (text[size]) size++;
    jbyteArray bytes = (*env)->NewByteArray(env, size);
    (*env)->SetByteArrayRegion(env, bytes, 0, size, (const jbyte *)text);
    jclass kind = (*env)->FindClass(env, "java/lang/String");
    jmethodID make = (*env)->GetMethodID(env, kind, "<init>", "([BLjava/lang/String;)V");
    return (*env)->NewObject(env, kind, make, bytes, (*env)->NewStringUTF(env, "UTF-8"));
}

static jintArray ids_of(JNIEnv *env, const int32_t *data, size_t count) {
    jintArray ids = (*env)->NewIntArray(env, (jsize)count);
    (*env)->SetIntArrayRegion(env, ids, 0, (jsize)count, (const jint *)data);
    return ids;
}

OGA(jlong, createModel)(JNIEnv *env, jclass c, jstring folder) {
    Handle *out = NULL;
    char *path = utf8(env, folder);
    check(env, OgaCreateModel(path, &out));
    free(path);
    return (jlong)(intptr_t)out;
}

#define CREATE(name, function)                                 \
    OGA(jlong, name)(JNIEnv *env, jclass c, jlong from) {      \
        Handle *out = NULL;                                    \
        check(env, function(POINTER(from), &out));             \
        return (jlong)(intptr_t)out;                           \
    }

CREATE(createTokenizer, OgaCreateTokenizer)
CREATE(createStream, OgaCreateTokenizerStream)
CREATE(createParams, OgaCreateGeneratorParams)
CREATE(createAdapters, OgaCreateAdapters)

OGA(jlong, createGenerator)(JNIEnv *env, jclass c, jlong model, jlong params) {
    Handle *out = NULL;
    check(env, OgaCreateGenerator(POINTER(model), POINTER(params), &out));
    return (jlong)(intptr_t)out;
}

OGA(jintArray, encode)(JNIEnv *env, jclass c, jlong tokenizer, jstring text) {
    Handle *sequences = NULL;
    check(env, OgaCreateSequences(&sequences));
    char *bytes = utf8(env, text);
    check(env, OgaTokenizerEncode(POINTER(tokenizer), bytes, sequences));
    free(bytes);
    if ((*env)->ExceptionCheck(env)) return NULL;
    jintArray ids = ids_of(env, OgaSequencesGetSequenceData(sequences, 0), OgaSequencesGetSequenceCount(sequences, 0));
    OgaDestroySequences(sequences);
    return ids;
}

OGA(jstring, decode)(JNIEnv *env, jclass c, jlong tokenizer, jintArray ids) {
    const char *text = NULL;
    jint *data = (*env)->GetIntArrayElements(env, ids, NULL);
    check(env, OgaTokenizerDecode(POINTER(tokenizer), (int32_t *)data, (*env)->GetArrayLength(env, ids), &text));
    (*env)->ReleaseIntArrayElements(env, ids, data, JNI_ABORT);
    if (text == NULL) return NULL;
    jstring out = from_utf8(env, text);
    OgaDestroyString(text);
    return out;
}

OGA(jstring, decodeNext)(JNIEnv *env, jclass c, jlong stream, jint token) {
    const char *text = NULL; /* the stream's own */
    check(env, OgaTokenizerStreamDecode(POINTER(stream), token, &text));
    return text == NULL ? NULL : from_utf8(env, text);
}

OGA(void, setNumber)(JNIEnv *env, jclass c, jlong params, jstring name, jdouble value) {
    char *option = utf8(env, name);
    check(env, OgaGeneratorParamsSetSearchNumber(POINTER(params), option, value));
    free(option);
}

OGA(void, setBool)(JNIEnv *env, jclass c, jlong params, jstring name, jboolean value) {
    char *option = utf8(env, name);
    check(env, OgaGeneratorParamsSetSearchBool(POINTER(params), option, value));
    free(option);
}

OGA(jboolean, isDone)(JNIEnv *env, jclass c, jlong generator) { return OgaGenerator_IsDone(POINTER(generator)); }

OGA(void, append)(JNIEnv *env, jclass c, jlong generator, jintArray ids) {
    jint *data = (*env)->GetIntArrayElements(env, ids, NULL);
    check(env, OgaGenerator_AppendTokens(POINTER(generator), (int32_t *)data, (*env)->GetArrayLength(env, ids)));
    (*env)->ReleaseIntArrayElements(env, ids, data, JNI_ABORT);
}

OGA(void, next)(JNIEnv *env, jclass c, jlong generator) {
    check(env, OgaGenerator_GenerateNextToken(POINTER(generator)));
}

OGA(jintArray, sequence)(JNIEnv *env, jclass c, jlong generator, jlong index) {
    Handle *from = POINTER(generator);
    return ids_of(env, OgaGenerator_GetSequenceData(from, index), OgaGenerator_GetSequenceCount(from, index));
}

OGA(void, load)(JNIEnv *env, jclass c, jlong adapters, jstring file, jstring name) {
    char *path = utf8(env, file), *person = utf8(env, name);
    check(env, OgaLoadAdapter(POINTER(adapters), path, person));
    free(path);
    free(person);
}

OGA(void, unload)(JNIEnv *env, jclass c, jlong adapters, jstring name) {
    char *person = utf8(env, name);
    check(env, OgaUnloadAdapter(POINTER(adapters), person));
    free(person);
}

OGA(void, activate)(JNIEnv *env, jclass c, jlong generator, jlong adapters, jstring name) {
    char *person = utf8(env, name);
    check(env, OgaSetActiveAdapter(POINTER(generator), POINTER(adapters), person));
    free(person);
}

OGA(void, destroy)(JNIEnv *env, jclass c, jchar kind, jlong handle) {
    switch (kind) {
    case 'm': OgaDestroyModel(POINTER(handle)); break;
    case 't': OgaDestroyTokenizer(POINTER(handle)); break;
    case 's': OgaDestroyTokenizerStream(POINTER(handle)); break;
    case 'p': OgaDestroyGeneratorParams(POINTER(handle)); break;
    case 'g': OgaDestroyGenerator(POINTER(handle)); break;
    case 'a': OgaDestroyAdapters(POINTER(handle)); break;
    }
}
