// Refusals: kinds of topics that the broker refuses, remembered so that not every message of a kind costs
// another connection.
//
// A kind is a topic's first levels, with the levels that hold a digit left out: trackbus/log/gw/channels is
// one. After several messages of a kind in a row were refused, none of that kind is sent for a while; then
// one is tried. For reports it takes more in a row, and the pause is shorter: perhaps only one device's
// reports are too large.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define REFUSALS_KINDS    16  // that are remembered; the one refused longest ago makes room
#define REFUSALS_KIND_MAX 160 // bytes of a kind

// When a kind is refused.
struct refusals_rule {
    bool whole_topic;  // a kind is one topic: what is refused of one device says nothing of another
    unsigned in_a_row; // messages
    unsigned lasts;    // milliseconds
    unsigned grows;    // to so many: twice as long with each that follows
};
extern const struct refusals_rule refusals_of_reports, refusals_of_results, refusals_of_says,
    refusals_of_others;

struct refusals {
    size_t count;
    struct refused_kind {
        char kind[REFUSALS_KIND_MAX];
        unsigned in_a_row;
        uint64_t since; // the last one, by uv_now()
    } kinds[REFUSALS_KINDS];
    struct refused_kind
        said; // what the broker refused last on this connection, in so many words; since 0: nothing
};

// The broker refused a message to topic; it took one. now is in milliseconds and only grows.
void refusals_note(struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                   uint64_t now);
// The broker has answered that it does not take a message to topic. That costs the message alone; but when the
// connection ends right after it, others of its kind would end the next ones.
void refusals_note_said(struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                        uint64_t now);
// The broker has closed the connection. True when it did so after such an answer, which then counts as a refusal.
bool refusals_note_close(struct refusals *refusals, uint64_t now);
void refusals_note_taken(struct refusals *refusals, const char *topic, const struct refusals_rule *rule);

// Whether a message to topic was refused, within the last minute, and none taken since.
bool refusals_has(const struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                  uint64_t now);

// Whether a message to topic must not be sent now.
bool refusals_forbid(const struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                     uint64_t now);
// A message to topic was sent. When its kind had been refused it is the one that is tried: those behind it
// must wait for what becomes of it.
void refusals_note_tried(struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                         uint64_t now);
