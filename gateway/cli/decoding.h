// Bytes of one connection decoded offline and printed: messages and answers on standard output, faults on standard error.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/channels/stream.h"

struct decoding_reply;
struct explaining;

struct decoding {
    struct stream stream;
    struct stream_counters counters;
    int64_t now; // the time of receipt, microseconds since 1970; 0: the clock's
    bool rejected;
    bool marks;                    // the bytes of a fault are printed too
    struct explaining *explaining; // or NULL
    unsigned messages, answers, faults;
    struct decoding_reply *replies; // that were not sent yet
    bool keeps_replies;
};

// Fills one that is all zero.
void decoding_begin(struct decoding *decoding, const struct codec *codec, bool udp, bool explain);
void decoding_end(struct decoding *decoding);

// Feeds bytes at decoding->now.
enum stream_state decoding_feed(struct decoding *decoding, const uint8_t *bytes, size_t length,
                                enum codec_follow follow);

// Whether the codec has given these bytes as a reply that was not sent yet; it is then. Only with keeps_replies.
bool decoding_sent(struct decoding *decoding, const uint8_t *bytes, size_t length);
