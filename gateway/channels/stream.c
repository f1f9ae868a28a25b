// The loop that drives codecs; see stream.h.
#include "gateway/channels/stream.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define REJECTED_MAX 65536 // bytes of frames that make no sense, before anybody has said who it is

// What the codec remembers of one device, or of all where frames do not say whose they are.
struct stream_session {
    struct stream_session *prev, *next; // the one whose frame came last at the end
    char ident[CODEC_IDENT_MAX + 1];    // empty: of no device
    bool forgotten;                     // zeroed before the next frame
    _Alignas(max_align_t) unsigned char memory[];
};

#define BRISK_AFTER 3 // frames that ended with a segment

// Filled by one decode at a time: everything runs on one thread.
static struct message scratch;

static void count_message(void *context, struct message *message) {
    struct stream *stream = context;
    if (stream->refused)
        return;
    message_set_text(message, FIELD_IDENT, stream->ident, strlen(stream->ident));
    stream->counters->messages++;
    stream->counters->removed_values += message->removed_count;
    stream->sink->message(stream->context, message);
}

static void count_answer(void *context, const struct codec_answer *answer) {
    struct stream *stream = context;
    if (stream->refused)
        return;
    stream->counters->answers += !answer->implicit;
    stream->sink->answer(stream->context, answer);
}

static enum codec_identity pass_ident(void *context, const char *ident) {
    struct stream *stream = context;
    size_t length = strlen(ident);
    bool ended = stream->refused && !stream->sink->goes_on;
    stream->refused =
        ended || length > CODEC_IDENT_MAX || stream->sink->identify(stream->context, ident) == CODEC_REFUSED;
    if (stream->refused)
        return CODEC_REFUSED;
    memcpy(stream->ident, ident, length + 1);
    return CODEC_ACCEPTED;
}

static void pass_reply(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when) {
    struct stream *stream = context;
    if (!stream->postponed && (!stream->refused || when == CODEC_NOW))
        stream->sink->reply(stream->context, bytes, length, when);
}

// --- what the codec remembers ---

// Most streams have one session. Of many, the one that is looked for has mostly spoken of late.
static struct stream_session *find_session(const struct stream *stream, const char *ident) {
    struct stream_session *head = stream->sessions, *session = head != NULL ? head->prev : NULL;
    while (session != NULL && strcmp(session->ident, ident) != 0)
        session = session != head ? session->prev : NULL;
    return session;
}

static void drop_session(struct stream *stream, struct stream_session *session) {
    DL_DELETE(stream->sessions, session);
    stream->session_count--;
    stream->counters->sessions--;
    free(session);
}

static struct stream_session *find_or_make_session(struct stream *stream, const char *ident) {
    struct stream_session *session = find_session(stream, ident);
    if (session != NULL)
        return session;
    session = must_have(calloc(1, sizeof *session + stream->codec->session_size));
    strcpy(session->ident, ident);
    DL_APPEND(stream->sessions, session);
    stream->counters->sessions++;
    if (++stream->session_count > STREAM_DEVICES_MAX ||
        (stream->session_count > 1 && stream->counters->sessions > STREAM_DEVICES_ALL_MAX))
        drop_session(stream, stream->sessions);
    return session;
}

static struct stream_session *session_of_frame(struct stream *stream, const uint8_t *frame, size_t length) {
    const struct codec *codec = stream->codec;
    char ident[CODEC_IDENT_MAX + 1];
    bool known = codec->sender != NULL && codec->sender(frame, length, ident);
    struct stream_session *session = find_or_make_session(stream, known ? ident : "");
    if (session->forgotten)
        memset(session->memory, 0, codec->session_size);
    session->forgotten = false;
    DL_DELETE(stream->sessions, session);
    DL_APPEND(stream->sessions, session);
    return session;
}

static const char *name_of_session(const struct stream *stream, const char *ident) {
    return stream->codec->sender != NULL ? ident : "";
}

void *stream_session(struct stream *stream, const char *ident) {
    return find_or_make_session(stream, name_of_session(stream, ident))->memory;
}

void stream_forget(struct stream *stream, const char *ident) {
    struct stream_session *session = find_session(stream, name_of_session(stream, ident));
    if (session != NULL)
        session->forgotten = true;
}

void stream_init(struct stream *stream, const struct codec *codec, const struct stream_sink *sink,
                 void *context, struct stream_counters *counters) {
    *stream = (struct stream){.codec = codec, .sink = sink, .context = context, .counters = counters};
}

void stream_free(struct stream *stream) {
    while (stream->sessions != NULL)
        drop_session(stream, stream->sessions);
    free(stream->kept);
    stream->kept = NULL;
    stream->kept_length = 0;
}

bool stream_waits(const struct stream *stream) {
    return stream->kept_length > 0;
}

// --- how the device writes ---

unsigned stream_quiet_ms(const struct stream *stream) {
    bool brisk = !stream->cuts && stream->in_a_row >= BRISK_AFTER;
    return brisk ? stream->codec->brisk_ms : stream->codec->quiet_ms;
}

// A frame that was kept has used bytes, of which kept had come before those at hand.
static void note_pieces(struct stream *stream, size_t kept, size_t used) {
    if (used > kept)
        stream->cuts = true;
    else
        stream->in_a_row++;
}

// A silence came in the middle of a frame.
static void note_unended(struct stream *stream, enum codec_follow follow) {
    if (follow == CODEC_QUIET)
        stream->cuts = true;
}

// What nobody wrote a beginning for is the rest of a frame that was taken for whole.
static void note_junk(struct stream *stream) {
    if (stream->ended_early)
        stream->cuts = true;
}

static void put_fault(struct stream *stream, size_t at, const char *verdict, const char *reason,
                      const uint8_t *bytes, size_t length) {
    stream->faults++;
    stream->sink->fault(stream->context, &(struct stream_fault){.offset = stream->offset + at,
                                                                .verdict = verdict,
                                                                .reason = reason,
                                                                .bytes = bytes,
                                                                .length = length,
                                                                .at = at});
}

// The device that spoke takes its leave.
static enum stream_state take_goodbye(struct stream *stream) {
    const struct stream_sink *sink = stream->sink;
    bool ends = sink->goodbye == NULL || sink->goodbye(stream->context, stream->ident);
    return ends ? STREAM_CLOSED_BY_DEVICE : STREAM_OPEN;
}

static void tell_frame(struct stream *stream, const uint8_t *frame, size_t length,
                       enum codec_verdict verdict) {
    stream->sink->frame(stream->context,
                        &(struct stream_frame){
                            .offset = stream->offset, .bytes = frame, .length = length, .verdict = verdict});
}

enum codec_identity stream_postpone(struct stream *stream) {
    stream->postponed = true;
    return CODEC_REFUSED;
}

// What was not taken of a device is new when it is allowed later. Where the codec remembers all devices together, the
// others keep what it remembers.
static enum stream_state take_refusal(const struct stream *stream, struct stream_session *session) {
    session->forgotten = session->forgotten || stream->codec->sender != NULL;
    if (stream->postponed)
        return STREAM_POSTPONED;
    return stream->sink->goes_on ? STREAM_OPEN : STREAM_REFUSED;
}

static enum stream_state take_frame(struct stream *stream, const uint8_t *frame, size_t length) {
    struct codec_out out = {
        .context = stream,
        .setting = &stream->setting,
        .identify = pass_ident,
        .message = count_message,
        .reply = pass_reply,
        .answer = count_answer,
        .scratch = &scratch,
        .explanation = stream->explanation,
    };
    if (stream->explanation != NULL)
        explain_reset(stream->explanation);
    struct stream_session *session = session_of_frame(stream, frame, length);
    enum codec_verdict verdict = stream->codec->decode(session->memory, frame, length, &out);
    if (stream->postponed)
        return take_refusal(stream, session);
    stream->counters->verdicts[verdict]++;
    stream->junk_in_a_row = 0;
    stream->rejected += verdict != CODEC_OK && stream->ident[0] == '\0' ? length : 0;
    stream->had_frame = true;
    stream->setting.frame += stream->setting.transport == CODEC_UDP;
    if (stream->sink->frame != NULL)
        tell_frame(stream, frame, length, verdict);
    if (verdict != CODEC_OK)
        put_fault(stream, out.reason_offset, codec_verdict_name(verdict), out.reason, frame, length);
    if (verdict == CODEC_VIOLATION)
        return STREAM_VIOLATION;
    if (stream->refused)
        return take_refusal(stream, session);
    if (stream->rejected > REJECTED_MAX && stream->ident[0] == '\0')
        return STREAM_BROKEN;
    return out.closes ? take_goodbye(stream) : STREAM_OPEN;
}

static enum stream_state take_junk(struct stream *stream, const uint8_t *bytes, size_t length,
                                   const char *reason) {
    stream->counters->junk_bytes += length;
    stream->junk_in_a_row += length;
    put_fault(stream, 0, "JUNK", reason, bytes, length);
    if (stream->junk_in_a_row <= stream->codec->junk_max)
        return STREAM_OPEN;
    return stream->had_frame ? STREAM_BROKEN : STREAM_NOT_THIS_PROTOCOL;
}

// A frame that does not end: for good, or not within the longest frame that there is.
static enum stream_state take_unended(struct stream *stream, const uint8_t *bytes, size_t length,
                                      enum codec_follow follow) {
    if (follow == CODEC_END)
        return take_junk(stream, bytes, length, "a record that was cut off");
    stream->counters->junk_bytes += length;
    put_fault(stream, 0, "JUNK", "a record without an end", bytes, length);
    return STREAM_BROKEN;
}

// Takes what bytes begin with; *used says how much that was, 0 when more bytes are needed.
static enum stream_state take_next(struct stream *stream, const uint8_t *bytes, size_t length,
                                   enum codec_follow follow, size_t *used) {
    size_t window = length < stream->codec->frame_max ? length : stream->codec->frame_max;
    // What follows the window is known to be there.
    enum codec_follow after =
        window < length || (stream->cuts && follow == CODEC_PAUSE) ? CODEC_OPEN : follow;
    struct codec_frame frame = stream->codec->frame(bytes, window, after);
    *used = frame.length;
    switch (frame.kind) {
    case CODEC_READY:
        stream->ended_early = frame.length == length && (follow == CODEC_PAUSE || follow == CODEC_QUIET);
        return take_frame(stream, bytes, frame.length);
    case CODEC_GAP:
        return STREAM_OPEN;
    case CODEC_SKIP:
        note_junk(stream);
        return take_junk(stream, bytes, frame.length, frame.reason);
    case CODEC_BAD:
        *used = window;
        put_fault(stream, 0, "JUNK", frame.reason, bytes, window);
        return STREAM_BROKEN;
    case CODEC_MORE:
        note_unended(stream, follow);
        break;
    }
    *used = window == stream->codec->frame_max || after == CODEC_END ? window : 0;
    return *used > 0 ? take_unended(stream, bytes, window, after) : STREAM_OPEN;
}

static void keep(struct stream *stream, const uint8_t *bytes, size_t length) {
    uint8_t *kept = NULL;
    if (length > 0) {
        kept = must_have(malloc(length));
        memcpy(kept, bytes, length);
    }
    free(stream->kept);
    stream->kept = kept;
    stream->kept_length = length;
}

enum stream_state stream_feed(struct stream *stream, const uint8_t *bytes, size_t length,
                              enum codec_follow follow) {
    enum stream_state state = STREAM_OPEN;
    size_t added = length;
    stream->counters->bytes += length;
    stream->setting.frame = 0; // over UDP each call is a datagram
    // An idle connection keeps no buffer: bytes are looked at where they were read, and only the beginning of
    // a frame is kept for the next time.
    if (stream->kept_length > 0 && length > 0) {
        stream->kept = must_have(realloc(stream->kept, stream->kept_length + length));
        memcpy(stream->kept + stream->kept_length, bytes, length);
        stream->kept_length += length;
    }
    if (stream->kept_length > 0) {
        bytes = stream->kept;
        length = stream->kept_length;
    }
    // What was postponed had come whole.
    size_t at = 0, used = 1,
           kept = stream->postponed || stream->kept_length == 0 ? 0 : stream->kept_length - added;
    stream->postponed = false;
    while (state == STREAM_OPEN && used > 0 && at < length) {
        state = take_next(stream, bytes + at, length - at, follow, &used);
        if (state == STREAM_POSTPONED)
            break;
        if (kept > 0 && used > 0)
            note_pieces(stream, kept, used);
        kept = 0;
        at += used;
        stream->offset += used;
    }
    if ((state != STREAM_OPEN && state != STREAM_POSTPONED) || at == length)
        keep(stream, NULL, 0);
    else if (at > 0 || stream->kept_length == 0)
        keep(stream, bytes + at, length - at);
    return state;
}
