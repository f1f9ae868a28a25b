// The contract between the gateway and the protocols: one const descriptor a protocol.
//
// A codec is pure functions over memory: it does no I/O, knows no clock, allocates nothing and has no
// globals. What it must remember of a device between frames stands in a session, a small struct that the
// caller owns and zeroes at the beginning of each connection (or UDP peer).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/message.h"
#include "schema/properties.h"

#define CODEC_IDENT_MAX       32 // letters, digits, dots, dashes, underscores; without the NUL
#define CODEC_REASON_MAX      160
#define CODEC_COMMAND_KEY_MAX 32
#define CODEC_COMMAND_MAX     1024 // bytes of an encoded command

// --- framing ---

// What is known of the bytes that will follow those given to frame().
enum codec_follow {
    CODEC_OPEN,  // more may come any time
    CODEC_QUIET, // nothing came for quiet_ms: for protocols without an end mark
    CODEC_END,   // nothing will ever come: the end of a datagram or of the connection
};

enum codec_frame_kind {
    CODEC_MORE,  // the beginning of a frame; not after CODEC_END
    CODEC_READY, // the first length bytes are a frame
    CODEC_GAP,   // the first length bytes lie between frames (line ends) and mean nothing
    CODEC_SKIP,  // the first length bytes are junk
    CODEC_BAD,   // the stream cannot be read any further
};

struct codec_frame {
    enum codec_frame_kind kind;
    size_t length;      // of READY, GAP and SKIP: 1 to the bytes given
    const char *reason; // of SKIP and BAD: a constant for the log
};

// --- decoding ---

enum codec_verdict {
    CODEC_OK,
    CODEC_SHORT, // ends before a field that it must have
    CODEC_BAD_CHECKSUM,
    CODEC_BAD_VALUE, // something that the record cannot do without is wrong
    CODEC_UNKNOWN_TYPE,
    CODEC_NOT_IDENTIFIED, // does not say whose it is, and nothing before it did
    CODEC_UNSUPPORTED,
    CODEC_VIOLATION, // breaks the protocol so that the connection must be closed
    CODEC_VERDICT_COUNT,
};

// "OK", "SHORT", "BAD_CHECKSUM", …
const char *codec_verdict_name(enum codec_verdict verdict);

// When a reply may go out to the device.
enum codec_reply_when {
    CODEC_NOW,
    CODEC_WHEN_SAFE, // when all messages of this frame are with the broker or on disk
};

enum codec_outcome {
    CODEC_SUCCESS,
    CODEC_FAILURE,
    CODEC_PROGRESS, // the device has begun; another answer will follow
};

// What a device answered to a command. Everything is borrowed for the time of the call.
struct codec_answer {
    const char *key; // equals the key of the command's codec_expectation
    enum codec_outcome outcome;
    bool implicit; // not an answer by itself (a position, after "where?"): nothing if no command waits for it
    const char *text;                // the device's own words, for implicit answers NULL
    const struct properties *fields; // the parsed answer where it has fields, or NULL
    const struct message *message;   // where the answer is a report: that report, or NULL
};

// Where decode() puts what it finds, in the order of the frame. message is scratch memory for the codec.
struct codec_out {
    void *context;
    void (*identify)(void *context, const char *ident);
    void (*message)(void *context, struct message *message); // the receiver may add to it
    void (*reply)(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when);
    void (*answer)(void *context, const struct codec_answer *answer);
    struct message *scratch;
    char reason[CODEC_REASON_MAX]; // of a verdict other than OK: what was wrong; plain text, no bytes of the
                                   // device
    size_t reason_offset;          // and where in the frame
    bool closes;                   // the device takes its leave: the connection is to be closed
};

// --- commands ---

struct codec_command {
    const char *name;
    struct properties properties; // valid by the command's schema
};

// What the answer to a command will look like.
struct codec_expectation {
    char key[CODEC_COMMAND_KEY_MAX]; // matches the key of an answer; empty: the next answer of any kind
    unsigned timeout;                // seconds to wait for the answer; 0: the configured time
    bool final_after_progress;       // PROGRESS is to be followed by the final answer
};

struct codec_writer {
    uint8_t *bytes;
    size_t capacity;
    size_t length; // may exceed capacity: then the output did not fit
};

void codec_write(struct codec_writer *writer, const void *bytes, size_t length);
__attribute__((format(printf, 2, 3))) void codec_write_text(struct codec_writer *writer, const char *format,
                                                            ...);

// --- the descriptor ---

struct codec {
    const char *name;    // as in the configuration
    unsigned id;         // protocol.id, never changed
    const char *title;   // for people
    size_t session_size; // of the session struct
    size_t frame_max;    // longest frame in bytes; frame() is never given more than that
    size_t junk_max;     // bytes of junk in a row that a stream may hold
    unsigned quiet_ms;   // silence after which frame() is asked with CODEC_QUIET; 0: never
    bool one_at_a_time;  // answers carry no id: the next command waits for the answer to the last
    // Alarms that its devices raise: booleans that only reports have that raise them. Ends with FIELD_NONE;
    // NULL without any.
    const enum field *alarms;

    // Says what bytes[0 .. length) begins with; length is 1 to frame_max. The same bytes give the same
    // answer, and with CODEC_OPEN a READY or SKIP given for some bytes is also given when more follow them.
    struct codec_frame (*frame)(const uint8_t *bytes, size_t length, enum codec_follow follow);
    // Decodes one frame. On any verdict but OK reason and reason_offset are set, and nothing has been put
    // out, but for the good records of a frame that holds several.
    enum codec_verdict (*decode)(void *session, const uint8_t *frame, size_t length, struct codec_out *out);
    // Writes the bytes of a command. On any verdict but OK reason says why.
    enum codec_verdict (*encode)(void *session, const struct codec_command *command,
                                 struct codec_writer *writer, struct codec_expectation *expectation,
                                 char reason[CODEC_REASON_MAX]);
};

// Sets reason and reason_offset and returns the verdict, for `return codec_reject(…)`.
__attribute__((format(printf, 4, 5))) enum codec_verdict
codec_reject(struct codec_out *out, enum codec_verdict verdict, size_t offset, const char *format, ...);

// --- the registry, made from the list in meson.build ---

// The protocol of that name, or NULL.
const struct codec *codec_find(const char *name);

// The protocol of that protocol.id, or NULL.
const struct codec *codec_by_id(unsigned id);

// Protocol number index, or NULL after the last.
const struct codec *codec_at(size_t index);
