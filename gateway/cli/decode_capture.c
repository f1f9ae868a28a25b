// A capture file decoded; see decode_capture.h.
#include "gateway/cli/decode_capture.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clean.h"
#include "gateway/base/log.h"
#include "gateway/base/memory.h"
#include "gateway/cli/capture_file.h"
#include "gateway/cli/cli.h"
#include "gateway/cli/decoding.h"

#define QUOTE_MAX 64

// A connection of the file, as far as it has been decoded.
struct track {
    struct decoding decoding;
    bool begun, closed;
    int64_t last; // time of its last chunk from the device
};

struct work {
    const struct capture_file *file;
    struct track *tracks; // one for each connection
    const struct codec *codec;
    bool explain, rejected;
    int64_t now;
};

static void print_chunk(const struct work *work, const struct capture_chunk *chunk) {
    const struct capture_connection *connection = &work->file->connections[chunk->connection];
    char time[CAPTURE_TIME_TEXT], label[CAPTURE_LABEL_MAX];
    fflush(stdout); // so that it stands behind what came of the chunk
    fprintf(stderr, "%s %s %s %zu bytes", capture_time(chunk->time, time), chunk->sent ? "send" : "recv",
            connection->udp ? "udp" : "tcp", chunk->length);
    if (connection->label[0] != '\0')
        fprintf(stderr, ", %s",
                clean_text(connection->label, strlen(connection->label), label, sizeof label));
    fputs(": ", stderr);
}

// --- from the device ---

static void print_count(unsigned count, const char *what, bool *any) {
    if (count == 0)
        return;
    fprintf(stderr, "%s%u %s%s", *any ? ", " : "", count, what, count > 1 ? "s" : "");
    *any = true;
}

static void print_outcome(const struct work *work, const struct capture_chunk *chunk,
                          struct decoding *decoding) {
    bool any = false;
    print_chunk(work, chunk);
    print_count(decoding->messages, "message", &any);
    print_count(decoding->answers, "answer", &any);
    print_count(decoding->faults, "fault", &any);
    if (stream_waits(&decoding->stream))
        fprintf(stderr, "%sthe beginning of more", any ? ", then " : "");
    else if (!any)
        fputs("nothing to publish", stderr);
    fputc('\n', stderr);
    decoding->messages = decoding->answers = decoding->faults = 0;
}

static void feed(struct work *work, struct track *track, const uint8_t *bytes, size_t length,
                 enum codec_follow follow) {
    struct decoding *decoding = &track->decoding;
    bool udp = decoding->stream.setting.transport == CODEC_UDP;
    enum stream_state state = decoding_feed(decoding, bytes, length, follow);
    work->rejected = work->rejected || decoding->rejected;
    if (state == STREAM_OPEN || udp)
        return;
    fprintf(stderr, "offset %llu: the gateway would close the connection here\n",
            (unsigned long long)decoding->stream.offset);
    track->closed = true;
}

// What the gateway had of a frame when the device fell silent, or when bytes are missing.
static void feed_silence(struct work *work, struct track *track, const struct capture_chunk *chunk) {
    struct stream *stream = &track->decoding.stream;
    unsigned quiet = stream->codec->quiet_ms > 0 ? stream_quiet_ms(stream) : 0;
    if (chunk->gap) {
        feed(work, track, NULL, 0, CODEC_END);
        stream->offset = chunk->offset;
    } else if (quiet > 0 && stream_waits(stream) && chunk->time - track->last >= quiet * 1000LL) {
        feed(work, track, NULL, 0, CODEC_QUIET);
    }
}

static void take_received(struct work *work, struct track *track, const struct capture_chunk *chunk) {
    struct stream *stream = &track->decoding.stream;
    bool udp = stream->setting.transport == CODEC_UDP;
    if (!track->closed)
        feed_silence(work, track, chunk);
    if (udp) { // what is broken in one datagram does not affect the next
        stream->junk_in_a_row = 0;
        stream->offset = chunk->offset;
    }
    if (track->closed) {
        print_chunk(work, chunk);
        fputs("not read: the connection is closed\n", stderr);
        return;
    }
    track->last = chunk->time;
    feed(work, track, chunk->bytes, chunk->length, udp ? CODEC_END : CODEC_PAUSE);
    print_outcome(work, chunk, &track->decoding);
}

// --- to the device ---

static void take_sent(struct work *work, struct track *track, const struct capture_chunk *chunk) {
    char quote[QUOTE_MAX];
    bool reply = decoding_sent(&track->decoding, chunk->bytes, chunk->length);
    print_chunk(work, chunk);
    fprintf(stderr, "%s: \"%s\"\n", reply ? "a reply" : "a command, or what an option of the channel says",
            log_quote(chunk->bytes, chunk->length, quote, sizeof quote));
}

// --- the whole ---

static bool begin(struct work *work, struct track *track, const struct capture_chunk *chunk) {
    const struct capture_connection *connection = &work->file->connections[chunk->connection];
    const struct codec *codec = work->codec != NULL ? work->codec : connection->codec;
    if (codec == NULL)
        return false;
    decoding_begin(&track->decoding, codec, connection->udp, work->explain);
    track->decoding.marks = track->decoding.keeps_replies = track->begun = true;
    return true;
}

static bool take(struct work *work, const struct capture_chunk *chunk) {
    struct track *track = &work->tracks[chunk->connection];
    if (!track->begun && !begin(work, track, chunk))
        return false;
    track->decoding.now = work->now != 0 ? work->now : chunk->time;
    if (chunk->sent)
        take_sent(work, track, chunk);
    else
        take_received(work, track, chunk);
    return true;
}

static void end_all(struct work *work) {
    for (size_t i = 0; i < work->file->connection_count; i++) {
        struct track *track = &work->tracks[i];
        if (track->begun && !track->closed)
            feed(work, track, NULL, 0, CODEC_END);
        if (track->begun)
            decoding_end(&track->decoding);
    }
}

static int decode_file(struct work *work) {
    bool known = true;
    work->tracks = must_have(calloc(work->file->connection_count + 1, sizeof *work->tracks));
    for (size_t i = 0; i < work->file->chunk_count && known; i++)
        known = take(work, &work->file->chunks[i]);
    end_all(work);
    free(work->tracks);
    if (!known)
        return cli_usage_fault("decode", "which protocol? The capture does not say, and -p is missing");
    return work->rejected ? 1 : 0;
}

int decode_capture(const char *text, size_t length, const struct codec *codec, bool explain, int64_t now) {
    char *reason = NULL;
    struct capture_file *file = capture_file_read(text, length, &reason);
    if (file == NULL) {
        fprintf(stderr, "offset 0: BAD_VALUE: %s\n", reason);
        free(reason);
        return 1;
    }
    struct work work = {.file = file, .codec = codec, .explain = explain, .now = now};
    int code = decode_file(&work);
    capture_file_free(file);
    return code;
}
