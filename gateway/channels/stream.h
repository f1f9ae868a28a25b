// The one loop that drives every codec over bytes: finds frames, decodes them, counts verdicts, enforces the
// limits. It knows no sockets: connections, datagrams and `trackbus decode` all use it.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/codec.h"

// Counts of what came through, for a channel; each only grows.
struct stream_counters {
    size_t sessions; // that codecs remember now, at all streams
    uint64_t bytes;
    uint64_t messages;
    uint64_t answers;
    uint64_t junk_bytes;
    uint64_t removed_values;
    uint64_t verdicts[CODEC_VERDICT_COUNT]; // frames by verdict
};

// Something that made no sense. offset is counted from the beginning of the stream; bytes is what it was.
struct stream_fault {
    uint64_t offset;
    const char *verdict; // a verdict's name, or "JUNK"
    const char *reason;
    const uint8_t *bytes;
    size_t length;
    size_t at; // where in bytes the fault is
};

// A frame that was decoded. offset is that of its first byte in the stream.
struct stream_frame {
    uint64_t offset;
    const uint8_t *bytes;
    size_t length;
    enum codec_verdict verdict;
};

// Where the stream puts what it finds. The functions may not feed or free the stream.
struct stream_sink {
    // Refused: nothing is taken until another device is accepted, and only replies that go out at once still come.
    enum codec_identity (*identify)(void *context, const char *ident);
    void (*message)(void *context, struct message *message); // the receiver may add to it
    void (*reply)(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when);
    void (*answer)(void *context, const struct codec_answer *answer);
    void (*fault)(void *context, const struct stream_fault *fault);
    // The device of that ident says goodbye. False: others are here, and the stream goes on. NULL: it ends.
    bool (*goodbye)(void *context, const char *ident);
    // A frame was decoded, and all that it gave was put out. NULL: nobody asks.
    void (*frame)(void *context, const struct stream_frame *frame);
    bool
        goes_on; // with the next frame after one of a device that was refused; otherwise the stream ends there
};

enum stream_state {
    STREAM_OPEN,
    STREAM_NOT_THIS_PROTOCOL, // nothing but junk from the start, and more than is allowed
    STREAM_BROKEN,            // parse error
    STREAM_VIOLATION,         // the protocol was violated
    STREAM_CLOSED_BY_DEVICE,  // the device said goodbye in its protocol
    STREAM_REFUSED,           // the sink refused the device
    STREAM_POSTPONED, // the sink has postponed the frame: it is fed again later, perhaps without bytes
};

#define STREAM_DEVICES_MAX     1000   // that the codec remembers at one stream
#define STREAM_DEVICES_ALL_MAX 200000 // and at all of a channel, beyond which each stream keeps one

struct stream_session;

struct stream {
    const struct codec *codec;
    struct stream_session *sessions; // what the codec remembers
    size_t session_count;
    const struct stream_sink *sink;
    void *context; // for the sink
    // What the codec is told. The caller sets the time, transport and options before it feeds; frame is
    // counted here.
    struct codec_setting setting;
    char ident[CODEC_IDENT_MAX + 1]; // of the device that speaks; empty until it has said it
    bool refused;                    // the device that speaks
    bool postponed;                  // the frame at hand
    struct stream_counters *counters;
    uint64_t offset; // in the stream of the first byte that is kept
    uint8_t *kept;   // the beginning of a frame, or NULL
    size_t kept_length;
    size_t junk_in_a_row;
    size_t rejected; // bytes of frames that were rejected before anybody had said who it is
    bool had_frame;
    uint64_t faults; // that were put into the sink
    // How the device writes, where a frame may end with a silence:
    bool cuts;                       // it has sent a frame in pieces
    bool ended_early;                // the last frame ended because nothing followed it at the time
    unsigned in_a_row;               // frames that ended with a segment
    struct explanation *explanation; // of the frame at hand; NULL: nothing is explained
};

// All pointers stay the caller's.
void stream_init(struct stream *stream, const struct codec *codec, const struct stream_sink *sink,
                 void *context, struct stream_counters *counters);
void stream_free(struct stream *stream);

// The codec's session of the device of that ident, for encode(); all zero when it has none yet. It is valid
// until the stream is fed.
void *stream_session(struct stream *stream, const char *ident);

// The codec forgets what it remembers of that device (without sender(), of all) before it decodes the next
// frame of it.
void stream_forget(struct stream *stream, const char *ident);

// For the sink's identify(), which returns this: the frame is not taken now, and nothing of what it gives is put out.
// It is the first one the next time that the stream is fed.
enum codec_identity stream_postpone(struct stream *stream);

// Takes bytes (length may be 0) and what is known of those to come. Once it has returned a state other than
// STREAM_OPEN and STREAM_POSTPONED, the stream takes no more.
enum stream_state stream_feed(struct stream *stream, const uint8_t *bytes, size_t length,
                              enum codec_follow follow);

// Whether the beginning of a frame waits for more, so that a silence means something; and how long that has to be, in
// milliseconds. It is shorter for a device whose frames each ended with a segment, until it cuts one.
bool stream_waits(const struct stream *stream);
unsigned stream_quiet_ms(const struct stream *stream);
