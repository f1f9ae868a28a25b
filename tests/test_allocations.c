// Framing, decoding and writing JSON allocate nothing, whatever the bytes are.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/channels/stream.h"
#include "tests/allocations.h"
#include "tests/vector.h"

// The codec whose calls are counted, and their allocations.
static const struct codec *inner;
static size_t taken, messages;

static struct codec_frame count_frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    size_t before = allocations_count();
    struct codec_frame frame = inner->frame(bytes, length, follow);
    taken += allocations_count() - before;
    return frame;
}

static enum codec_verdict count_decode(void *session, const uint8_t *frame, size_t length,
                                       struct codec_out *out) {
    size_t before = allocations_count();
    enum codec_verdict verdict = inner->decode(session, frame, length, out);
    taken += allocations_count() - before;
    return verdict;
}

static enum codec_identity on_ident(void *context, const char *ident) {
    return CODEC_ACCEPTED;
}

// Called inside decode(), so its allocations count too.
static void on_message(void *context, struct message *message) {
    static char json[MESSAGE_JSON_MAX];
    messages += message_write_json(message, json, sizeof json) > 0;
}

static void on_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
}

static void on_answer(void *context, const struct codec_answer *answer) {
}

static void on_fault(void *context, const struct stream_fault *fault) {
}

static const struct stream_sink sink = {
    .identify = on_ident, .message = on_message, .reply = on_reply, .answer = on_answer, .fault = on_fault};

static void replay_vector(const struct vector *vector) {
    struct codec codec = *vector->codec;
    struct stream_counters counters = {0};
    struct stream stream;
    enum stream_state state = STREAM_OPEN;
    inner = vector->codec;
    codec.frame = count_frame;
    codec.decode = count_decode;
    stream_init(&stream, &codec, &sink, NULL, &counters);
    for (size_t i = 0; i < vector->step_count && state == STREAM_OPEN; i++)
        state = stream_feed(&stream, vector->steps[i].bytes, vector->steps[i].length,
                            vector->steps[i].kind == STEP_QUIET ? CODEC_QUIET : CODEC_OPEN);
    if (state == STREAM_OPEN)
        stream_feed(&stream, NULL, 0, CODEC_END);
    stream_free(&stream);
}

Test(allocations, are_counted) {
    size_t before = allocations_count();
    char *text = strdup("by the C library");
    void *memory = realloc(calloc(1, 1), 100);
    cr_assert_eq(allocations_count() - before, 3);
    free(text);
    free(memory);
}

Test(allocations, framing_and_decoding_make_none) {
    size_t count;
    const struct vector *vectors = vectors_all(&count);
    for (size_t i = 0; i < count; i++) {
        taken = 0;
        replay_vector(&vectors[i]);
        cr_expect_eq(taken, 0, "%s: %zu allocations", vectors[i].path, taken);
    }
    cr_assert_gt(messages, 100);
}
