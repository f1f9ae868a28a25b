// Framing and decoding, fed as a network would: in chunks, with silences, or as datagrams.
//
// An input is
//
//   0  1   bit 0: each chunk is a datagram; bit 1: every device is refused; bit 2: the channel has options
//   1  7   the chunks, used over and over: bit 7 a silence after it; the others its size: 0 all that is left,
//          up to 63 so many bytes, above that 32, 64, 96, … 2048 bytes
//   8      the bytes
//
// The codec runs behind a watch that gives it memory which ends where its bytes end, asks frame() twice, and
// checks what the contract of codec.h promises.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "schema/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "tests/replay.h"

struct input {
    const uint8_t *head; // of FUZZ_STREAM_HEAD bytes
    const uint8_t *bytes;
    size_t length;
};

static bool is_datagrams(const struct input *input) {
    return input->head[0] & 1;
}

// --- the watch ---

static struct {
    const struct codec *real;
    struct replay *replay;
    struct codec codec; // real, with the functions below
    const struct codec_out *out;
    char ident[CODEC_IDENT_MAX + 1];  // last said in this stream
    char sender[CODEC_IDENT_MAX + 1]; // of the frame at hand; empty: not known
    bool refused;                     // the device that speaks
    bool refuses;                     // whoever speaks is refused
    size_t frame_calls;
    size_t replies; // bytes of replies
} watch;

static uint8_t *exact_copy(const uint8_t *bytes, size_t length) {
    uint8_t *copy = malloc(length > 0 ? length : 1);
    if (copy == NULL)
        fuzz_fail("no memory");
    memcpy(copy, bytes, length);
    return copy;
}

static bool takes(const struct codec_frame *frame) {
    return frame->kind == CODEC_READY || frame->kind == CODEC_GAP || frame->kind == CODEC_SKIP;
}

static struct codec_frame watched_frame(const uint8_t *bytes, size_t length, enum codec_follow follow) {
    uint8_t *copy = exact_copy(bytes, length);
    struct codec_frame frame = watch.real->frame(copy, length, follow);
    struct codec_frame again = watch.real->frame(copy, length, follow);
    watch.frame_calls++;
    if (length == 0 || length > watch.real->frame_max)
        fuzz_fail("frame() was given %zu bytes", length);
    if (memcmp(copy, bytes, length) != 0)
        fuzz_fail("frame() wrote to its input");
    if (frame.kind != again.kind || (takes(&frame) && frame.length != again.length))
        fuzz_fail("frame() said two things of the same bytes");
    if (takes(&frame) && (frame.length == 0 || frame.length > length))
        fuzz_fail("frame() took %zu of %zu bytes", frame.length, length);
    if ((frame.kind == CODEC_SKIP || frame.kind == CODEC_BAD) && frame.reason == NULL)
        fuzz_fail("frame() gave no reason");
    free(copy);
    return frame;
}

static enum codec_identity watched_identify(void *context, const char *ident) {
    static const char allowed[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz._-";
    size_t length = strlen(ident);
    if (length == 0 || length > CODEC_IDENT_MAX || strspn(ident, allowed) != length)
        fuzz_fail("the ident '%s'", ident);
    if (watch.real->sender != NULL && strcmp(watch.sender, ident) != 0)
        fuzz_fail("'%s' speaks in a frame of '%s'", ident, watch.sender);
    strcpy(watch.ident, ident);
    watch.replay->refuses = watch.refuses ? ident : NULL;
    enum codec_identity identity = watch.out->identify(watch.out->context, ident);
    watch.replay->refuses = NULL;
    watch.refused = identity == CODEC_REFUSED;
    return identity;
}

static void check_owner(const struct message *message, const char *what) {
    const struct message_value *ident = message_get(message, FIELD_IDENT);
    if (ident == NULL || ident->text.length != strlen(watch.ident) ||
        memcmp(message->text + ident->text.offset, watch.ident, ident->text.length) != 0)
        fuzz_fail("%s of another device than '%s', which spoke last", what, watch.ident);
}

static void watched_message(void *context, struct message *message) {
    if (message_get(message, FIELD_IDENT) != NULL)
        fuzz_fail("a codec that stamps the ident itself");
    if (watch.ident[0] == '\0')
        fuzz_fail("a message before the device has said who it is");
    watch.out->message(watch.out->context, message);
}

static void watched_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    uint8_t *copy = exact_copy(bytes, length);
    watch.replies += length;
    if (length == 0)
        fuzz_fail("an empty reply");
    watch.out->reply(watch.out->context, copy, length, when);
    free(copy);
}

static void watched_answer(void *context, const struct codec_answer *answer) {
    size_t length = strnlen(answer->key, CODEC_COMMAND_KEY_MAX);
    if (length == 0 || length == CODEC_COMMAND_KEY_MAX || !utf8_valid(answer->key, length))
        fuzz_fail("an answer with a key of %zu bytes", length);
    if (answer->implicit ? answer->text != NULL
                         : answer->text == NULL || !utf8_valid(answer->text, strlen(answer->text)))
        fuzz_fail("an answer %s with the wrong text", answer->key);
    if (answer->message != NULL && !watch.refused)
        check_owner(answer->message, "an answer");
    watch.out->answer(watch.out->context, answer);
}

static void check_reason(const struct codec_out *out, size_t length) {
    size_t reason = strnlen(out->reason, sizeof out->reason);
    if (reason == 0 || reason == sizeof out->reason)
        fuzz_fail("a verdict with a reason of %zu bytes", reason);
    for (size_t i = 0; i < reason; i++)
        if (out->reason[i] < ' ' || out->reason[i] > '~')
            fuzz_fail("a reason with the byte %02x", (unsigned char)out->reason[i]);
    if (out->reason_offset > length)
        fuzz_fail("the fault is at %zu of %zu bytes", out->reason_offset, length);
}

static bool watched_sender(const uint8_t *frame, size_t length, char ident[CODEC_IDENT_MAX + 1]) {
    uint8_t *copy = exact_copy(frame, length);
    memset(watch.sender, 0, sizeof watch.sender);
    bool known = watch.real->sender(copy, length, watch.sender);
    if (memchr(watch.sender, '\0', sizeof watch.sender) == NULL || (known && watch.sender[0] == '\0'))
        fuzz_fail("a sender without an end or a beginning");
    if (!known)
        watch.sender[0] = '\0';
    strcpy(ident, watch.sender);
    free(copy);
    return known;
}

static enum codec_verdict watched_decode(void *session, const uint8_t *frame, size_t length,
                                         struct codec_out *out) {
    uint8_t *copy = exact_copy(frame, length);
    const struct codec_out given = *out;
    *out = (struct codec_out){
        .setting = given.setting,
        .identify = watched_identify,
        .message = watched_message,
        .reply = watched_reply,
        .answer = watched_answer,
        .scratch = given.scratch,
    };
    watch.out = &given;
    enum codec_verdict verdict = watch.real->decode(session, copy, length, out);
    if ((unsigned)verdict >= CODEC_VERDICT_COUNT)
        fuzz_fail("the verdict %d", (int)verdict);
    if (verdict != CODEC_OK)
        check_reason(out, length);
    out->context = given.context;
    out->setting = given.setting;
    out->identify = given.identify;
    out->message = given.message;
    out->reply = given.reply;
    out->answer = given.answer;
    free(copy);
    return verdict;
}

static void watch_begin(struct replay *replay, const struct codec *codec, const struct input *input) {
    static const char *const options[CODEC_OPTIONS_MAX] = {"{seq},{type},{ident};", "b", "c"};
    watch.real = codec;
    watch.replay = replay;
    watch.codec = *codec;
    watch.codec.frame = watched_frame;
    watch.codec.decode = watched_decode;
    watch.codec.sender = codec->sender != NULL ? watched_sender : NULL;
    watch.ident[0] = '\0';
    watch.refused = false;
    watch.refuses = input->head[0] & 2;
    watch.frame_calls = 0;
    watch.replies = 0;
    replay_begin(replay, &watch.codec);
    replay->stream.setting.options = input->head[0] & 4 ? options : NULL;
}

// --- feeding ---

static size_t chunk_size(uint8_t control, size_t left) {
    size_t size = control & 0x7F;
    size = size == 0 ? left : size < 64 ? size : (size - 63) * 32;
    return size < left ? size : left;
}

// Feeds a chunk and checks what holds after each: that the stream keeps less than a frame, and that it does
// not ask more often than there are bytes.
static void feed(struct replay *replay, const uint8_t *bytes, size_t length, enum codec_follow follow) {
    const struct stream *stream = &replay->stream;
    size_t most = watch.frame_calls + stream->kept_length + length + 1;
    if (replay->state != STREAM_OPEN)
        return;
    replay_feed(replay, bytes, length, follow);
    if (watch.frame_calls > most)
        fuzz_fail("more calls of frame() than bytes");
    if (stream->kept_length >= watch.real->frame_max)
        fuzz_fail("%zu bytes are kept", stream->kept_length);
    if (follow == CODEC_END && stream->kept_length > 0)
        fuzz_fail("%zu bytes are kept after the end", stream->kept_length);
    if (replay->state == STREAM_OPEN && stream->offset + stream->kept_length != replay->counters.bytes)
        fuzz_fail("of %llu bytes %llu are taken and %zu are kept", (unsigned long long)replay->counters.bytes,
                  (unsigned long long)stream->offset, stream->kept_length);
    if (replay->schema_faults > 0)
        fuzz_fail("a message that the schema does not allow");
    if (stream->setting.options == NULL && watch.replies > replay->counters.bytes)
        fuzz_fail("the replies are longer than what they reply to");
}

static void feed_chunks(struct replay *replay, const struct input *input, bool with_silences) {
    enum codec_follow follow = with_silences && is_datagrams(input) ? CODEC_END : CODEC_OPEN;
    size_t at = 0;
    for (size_t turn = 0; at < input->length; turn++) {
        uint8_t control = input->head[1 + turn % (FUZZ_STREAM_HEAD - 1)];
        size_t size = chunk_size(control, input->length - at);
        feed(replay, input->bytes + at, size, follow);
        if (with_silences && follow == CODEC_OPEN && control >= 0x80 && stream_waits(&replay->stream))
            feed(replay, NULL, 0, CODEC_QUIET);
        at += size;
    }
    feed(replay, NULL, 0, CODEC_END);
}

static size_t next_content(const struct replay *replay, size_t at) {
    while (at < replay->count && !replay_is_content(replay->lines[at]))
        at++;
    return at;
}

// Bytes that the network cuts elsewhere mean the same.
static void compare(const struct replay *whole, const struct replay *chunks) {
    size_t a = next_content(whole, 0), b = next_content(chunks, 0);
    while (a < whole->count && b < chunks->count && strcmp(whole->lines[a], chunks->lines[b]) == 0) {
        a = next_content(whole, a + 1);
        b = next_content(chunks, b + 1);
    }
    if (a < whole->count || b < chunks->count)
        fuzz_fail("the chunks change what is said:\n  whole:  %s\n  chunks: %s",
                  a < whole->count ? whole->lines[a] : "nothing more",
                  b < chunks->count ? chunks->lines[b] : "nothing more");
    if (whole->state != chunks->state)
        fuzz_fail("the chunks change how it ends: whole %d, chunks %d", (int)whole->state,
                  (int)chunks->state);
}

void fuzz_stream(const struct codec *codec, const uint8_t *bytes, size_t length) {
    struct replay whole, chunks, told;
    if (length < FUZZ_STREAM_HEAD)
        return;
    struct input input = {bytes, bytes + FUZZ_STREAM_HEAD, length - FUZZ_STREAM_HEAD};
    watch_begin(&whole, codec, &input);
    feed(&whole, input.bytes, input.length, CODEC_OPEN);
    feed(&whole, NULL, 0, CODEC_END);
    watch_begin(&chunks, codec, &input);
    feed_chunks(&chunks, &input, false);
    compare(&whole, &chunks);
    watch_begin(&told, codec, &input);
    told.stream.setting.transport = is_datagrams(&input) ? CODEC_UDP : CODEC_TCP;
    feed_chunks(&told, &input, true);
    replay_end(&whole);
    replay_end(&chunks);
    replay_end(&told);
}
