// Replays bytes through the loop that drives codecs, and writes down what comes out, a line an event, in the
// words of the vector files.
#pragma once

#include "gateway/channels/stream.h"
#include "tests/vector.h"

struct replay {
    struct stream stream;
    struct stream_counters counters;
    enum stream_state state;
    const char *refuses; // the ident that is refused, or NULL
    char **lines;
    size_t count;
    bool counts_only;       // set after replay_begin(): no lines are kept
    size_t content;         // lines of content, kept or not
    unsigned schema_faults; // messages that the schema does not allow; printed as they come
};

void replay_begin(struct replay *replay, const struct codec *codec);
// The same in the setting of a vector: its transport, time, options, and the device that it refuses.
void replay_begin_vector(struct replay *replay, const struct vector *vector);
void replay_feed(struct replay *replay, const uint8_t *bytes, size_t length, enum codec_follow follow);
void replay_end(struct replay *replay); // frees all

// Whether a line tells of content (message, answer, reply, close) and not of faults.
bool replay_is_content(const char *line);
