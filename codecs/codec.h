// The contract between the gateway and the protocols. Each protocol is one const descriptor, struct codec.
//
// A codec is made of pure functions over memory: no I/O, no clock, no allocation, no globals. What it must
// remember about a device between frames is kept in a session, a small struct that the caller owns and zeroes
// when a connection (or a UDP peer) begins; with sender(), when a device first speaks there. README.md walks
// through all of this with real protocols.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/explain.h"
#include "schema/message.h"
#include "schema/properties.h"

#define CODEC_IDENT_MAX       32 // letters, digits, dots, dashes, underscores; without the NUL
#define CODEC_REASON_MAX      160
#define CODEC_COMMAND_KEY_MAX 32
#define CODEC_COMMAND_MAX     1024 // bytes of an encoded command

// --- what a codec is told about the world ---

enum codec_transport { CODEC_TCP, CODEC_UDP };

// Holds for one call of decode() or encode().
struct codec_setting {
    int64_t now; // microseconds since 1970, UTC; 0: unknown
    enum codec_transport transport;
    unsigned frame; // number of this frame in its datagram, from 0; always 0 over TCP and for encode()
    const char *const *options; // for codec_option(); NULL: the channel's configuration says nothing
    const char *ident;          // for encode(): of the device that gets the command; NULL: not known
};

// --- framing ---

// What is known about the bytes after those given to frame().
enum codec_follow {
    CODEC_OPEN,  // more may come at any time
    CODEC_PAUSE, // the same, but a segment ends here, and the device was not seen to cut a frame in two
    CODEC_QUIET, // nothing has come for quiet_ms: for protocols without an end mark
    CODEC_END,   // nothing more will come: the end of a datagram or of the connection
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
    size_t length;      // for READY, GAP and SKIP: from 1 to the number of bytes given
    const char *reason; // for SKIP and BAD: a constant for the log
};

// --- decoding ---

enum codec_verdict {
    CODEC_OK,
    CODEC_SHORT, // ends before a field that it must have
    CODEC_BAD_CHECKSUM,
    CODEC_BAD_VALUE, // something that the record cannot do without is wrong
    CODEC_UNKNOWN_TYPE,
    CODEC_NOT_IDENTIFIED, // does not say which device it is from, and nothing before it did
    CODEC_UNSUPPORTED,
    CODEC_VIOLATION, // breaks the protocol badly enough that the connection must be closed
    CODEC_VERDICT_COUNT,
};

// "OK", "SHORT", "BAD_CHECKSUM", …
const char *codec_verdict_name(enum codec_verdict verdict);

// Whether the device may talk to this gateway. A refused device may be told so with a reply CODEC_NOW; once
// decode() has returned the connection is closed. All else that it puts out goes nowhere.
enum codec_identity { CODEC_ACCEPTED, CODEC_REFUSED };

// When a reply goes out to the device.
enum codec_reply_when {
    CODEC_NOW,
    // When all messages of this frame are with the broker or on disk. Over UDP: all of this datagram.
    CODEC_WHEN_SAFE,
    // Instead of the CODEC_WHEN_SAFE reply that was put out just before: when one of those messages never
    // will be, because the broker refuses it for good and it is set aside. Where there is no such reply the
    // device hears nothing and the connection is closed.
    CODEC_WHEN_REFUSED,
};

enum codec_outcome {
    CODEC_SUCCESS,
    CODEC_FAILURE,
    CODEC_PROGRESS, // the device has begun; another answer will follow
};

// What a device answered to a command. Everything is borrowed for the duration of the call.
struct codec_answer {
    const char *key; // equals the key of the command's codec_expectation
    enum codec_outcome outcome;
    bool implicit; // no answer in itself (a position after "where?"): ignored unless a command waits for it
    const char *text;                // the device's own words; NULL for implicit answers
    const struct properties *fields; // the parsed answer where it has fields, or NULL
    const struct message *message;   // where the answer is a report: that report, or NULL
};

// Where decode() puts what it finds, in the order of the frame.
//
// identify() comes before the first message or answer of a connection, and again when another device speaks.
// The receiver stamps its ident into every message: a codec never sets FIELD_IDENT.
struct codec_out {
    void *context;
    const struct codec_setting *setting;
    enum codec_identity (*identify)(void *context, const char *ident);
    void (*message)(void *context, struct message *message); // the receiver adds to it
    void (*reply)(void *context, const uint8_t *bytes, size_t length, enum codec_reply_when when);
    void (*answer)(void *context, const struct codec_answer *answer);
    struct message *scratch;         // a message for the codec to fill
    struct explanation *explanation; // is told what each byte of the frame is; NULL in the gateway
    char reason[CODEC_REASON_MAX];   // for a verdict other than OK: what was wrong, in printable ASCII
    size_t reason_offset;            // and where in the frame
    // The device that spoke says goodbye: the connection is to be closed, unless others have spoken there.
    bool closes;
};

// --- commands ---

struct codec_command {
    const char *name;
    struct properties properties; // valid according to the command's schema
};

// What the answer to a command will look like.
struct codec_expectation {
    char key[CODEC_COMMAND_KEY_MAX]; // matches the key of an answer; empty: the next answer of any kind
    unsigned timeout;                // seconds to wait for the answer; 0: as configured
    bool final_after_progress;       // CODEC_PROGRESS will be followed by the final answer
};

struct codec_writer {
    uint8_t *bytes;
    size_t capacity;
    size_t length; // more than capacity: the output did not fit
};

void codec_write(struct codec_writer *writer, const void *bytes, size_t length);
__attribute__((format(printf, 2, 3))) void codec_write_text(struct codec_writer *writer, const char *format,
                                                            ...);

// --- the descriptor ---

#define CODEC_OPTIONS_MAX 8

// How full a battery is at a voltage; between two points it is on the line between them.
struct codec_battery {
    unsigned millivolts;
    unsigned percent;
};

struct codec {
    const char *name;    // as in the configuration
    unsigned id;         // protocol.id; never changes
    const char *title;   // for people
    size_t session_size; // bytes of the session struct
    size_t frame_max;    // bytes of the longest frame; frame() is never given more than that
    size_t junk_max;     // bytes of junk in a row that a stream may contain
    unsigned quiet_ms;   // silence after which frame() is asked with CODEC_QUIET; 0: never
    unsigned
        brisk_ms; // the same for a device of which three such frames each ended with a segment, and none did not
    bool one_at_a_time; // answers carry no id: the next command waits for the answer to the last
    // For an explanation: characters of a text frame that only part what stands around them; NULL without any.
    const char *separators;
    // The alarms that its devices raise: boolean fields, set only by reports that raise them. Their row in
    // schema/fields.json has "alarm". Ends with FIELD_NONE; NULL without any.
    const enum field *alarms;
    // How full the battery of its devices is, whose voltage they report as battery.voltage: from empty to the first
    // point of 100 percent, which is the last. NULL: nobody knows.
    const struct codec_battery *battery;
    // Names of the texts that the configuration of a channel may give to this codec: keys of the channel, of
    // letters, digits and _. At most CODEC_OPTIONS_MAX, ended by NULL; NULL without any. What they are for is
    // said in schema/config.schema.json. Codecs that have an option of the same name mean the same by it; one
    // that begins with udp_ is for UDP alone.
    const char *const *options;

    // Says what bytes[0 .. length) begins with; length is 1 to frame_max. The same bytes give the same
    // answer, and with CODEC_OPEN a READY or SKIP given for some bytes is also given when more follow them. With
    // CODEC_PAUSE it may also take what is all there and hardly goes on.
    struct codec_frame (*frame)(const uint8_t *bytes, size_t length, enum codec_follow follow);
    // Whose frame it is, as frame() delimits it, for protocols that say so in every frame. Each device of a
    // connection then has a session of its own, so that a relay can mix their frames, and decode() identifies
    // no other device. False: it cannot be read; decode() will reject the frame. NULL: a connection has one
    // session, whoever speaks there.
    bool (*sender)(const uint8_t *frame, size_t length, char ident[CODEC_IDENT_MAX + 1]);
    // Decodes one frame. On any verdict but OK reason and reason_offset are set, and nothing has been put out
    // except the good records of a frame with several, and replies: a record that will be rejected every time
    // must be answered if the device repeats what is not.
    enum codec_verdict (*decode)(void *session, const uint8_t *frame, size_t length, struct codec_out *out);
    // Writes the bytes of a command. On any verdict but OK reason says why.
    enum codec_verdict (*encode)(void *session, const struct codec_setting *setting,
                                 const struct codec_command *command, struct codec_writer *writer,
                                 struct codec_expectation *expectation, char reason[CODEC_REASON_MAX]);
    // Writes the right checksum into a frame, as frame() delimits it. False, with the frame untouched, when
    // it has no checksum that catches every flipped bit. NULL: no frame has. For tests and tools that change
    // frames: the test that flips every bit and the fuzzer take every codec with this at its word.
    bool (*seal)(uint8_t *frame, size_t length);
};

// Index of the codec's option of that name, or -1.
int codec_option_index(const struct codec *codec, const char *name);

// What the channel's configuration says for the codec's option number index, or NULL.
const char *codec_option(const struct codec_setting *setting, size_t index);

// Sets reason and reason_offset and returns the verdict, for `return codec_reject(…)`.
__attribute__((format(printf, 4, 5))) enum codec_verdict
codec_reject(struct codec_out *out, enum codec_verdict verdict, size_t offset, const char *format, ...);

// The same for encode().
__attribute__((format(printf, 3, 4))) enum codec_verdict
codec_refuse(char reason[CODEC_REASON_MAX], enum codec_verdict verdict, const char *format, ...);

// --- the registry, made from the list in meson.build ---

// The protocol with that name, or NULL.
const struct codec *codec_find(const char *name);

// The protocol with that protocol.id, or NULL.
const struct codec *codec_by_id(unsigned id);

// Protocol number index, or NULL after the last.
const struct codec *codec_at(size_t index);
