// Suspects: which message is to blame when the broker closes the connection again and again.
//
// Some brokers answer a publish that they do not take by closing the connection, without saying which of
// those under way it was. When connections break twice in a row with messages under way, and not all of those of the
// first time were acknowledged in between, these are suspects; so are those under way when the broker keeps the connection
// and answers nothing any more. They go out again one at a time; after some that were answered two at a time, then four,
// and not many more: a broker that closes with unread bytes resets the connection, and its last answers are lost with it, so
// that each break brings on very little. When the connection breaks on a portion, the next is one message again. A broker
// that was found to close at what it refuses is believed to do so the next time: then the first break makes suspects.
//
// A network that cuts connections looks the same. Two things tell them apart:
//  - Time. A break on a message alone is a strike against it only when the connection had lived much longer
//    before the message was written than after it. After each strike the next connection must live longer
//    before the message may go out again. A network that cuts at random, or after a fixed time, does not keep
//    to that; a broker that closes at the message does.
//  - Others. When a message has its strikes, others go out in its place. Only when one of them was taken, and
//    the connection then breaks on the message once more, is the message to blame. Where everything breaks
//    everything waits.
//
// A broker that has stalled may answer late for a while, and a wait for an answer that is shorter than what it needs
// would end one connection after the other. So each wait in vain doubles the next one, up to SUSPECTS_PATIENCE_MAX, until
// it answers quickly again; not where it has answered others quickly since they were suspected, and none late. For the same reason an answer counts as left out for good only after a wait that is many
// times as long as those for the others.
//
// How many strikes it takes depends on how clear they are. When each time the broker closed the connection in
// good order and soon, the third is the last. When one was a reset, a timeout or late, it may have been the
// network, and the fifth is.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/mqtt.h"

#define SUSPECTS_CLEARED      8     // messages in a row that must be answered before a portion grows
#define SUSPECTS_PATIENCE     5000  // milliseconds that the answer to a suspect is waited for
#define SUSPECTS_PATIENCE_MAX 80000 // and at most, when there was none

// Connections that broke soon after a message was written to them. All zero: none.
struct strikes {
    unsigned count;
    unsigned quick; // milliseconds: the longest of them lived so long after it was written
    bool murky;     // one of them may have been the network
};

// Whether others go out in place of the message; and whether it is to blame, if others were taken meanwhile.
bool strikes_accuse(const struct strikes *strikes);
bool strikes_convict(const struct strikes *strikes);

// Milliseconds that a connection must have lived before the message is written to it.
unsigned strikes_wait(const struct strikes *strikes);
// The connection broke with the message under way: it had lived for before milliseconds when the message was
// written, and for after milliseconds from then on.
void strikes_note(struct strikes *strikes, enum mqtt_end end, uint64_t before, uint64_t after);

struct suspects {
    uint64_t through;       // number of the last suspect; 0: nobody is suspected
    unsigned portion;       // suspects that may be under way at once
    unsigned cleared;       // messages answered in portions of this size
    unsigned left;          // of the portion under way: not handed over yet
    bool broke;             // the last connection broke with messages under way
    uint64_t broke_through; // number of the last of these
    uint64_t closer_until;  // by uv_now(): until then the broker is known to close at what it refuses
    unsigned doubled;       // times that the wait for an answer was
    unsigned slowest;       // milliseconds: the longest that one was waited for, while the broker is late
    bool prompt;    // since the silence that made them suspects it has answered some quickly, and none late
    unsigned quick; // answers in a row that came quickly
};

// Milliseconds that the answer to a suspect is waited for before the connection is ended.
unsigned suspects_patience(const struct suspects *suspects);
// The broker answers nothing any more, and nobody was suspected.
void suspects_fall_silent(struct suspects *suspects);
// There was none in that time: the next wait is longer.
void suspects_note_silence(struct suspects *suspects);
// There was one, so many milliseconds after the message was handed over.
void suspects_note_answer(struct suspects *suspects, uint64_t after);
// Whether it tells that a message will never be answered when it was not for so many milliseconds.
bool suspects_would_have_answered(const struct suspects *suspects, uint64_t waited);

// Whether the message of that number is one.
bool suspects_include(const struct suspects *suspects, uint64_t number);

// Nothing is under way, and the oldest message is a suspect: another portion may go out.
void suspects_begin_portion(struct suspects *suspects);

// All of a portion was answered: after some of them the next is twice as large, but not more than window.
void suspects_clear_portion(struct suspects *suspects, unsigned window);

// The broker closed the connection at a message that it refuses, at now (by uv_now()): for a while the first break makes
// suspects, not the second one.
void suspects_note_closer(struct suspects *suspects, uint64_t now);

// A connection that broke.
struct suspects_break {
    uint64_t now;         // by uv_now()
    unsigned under_way;   // messages that were unanswered
    uint64_t first, last; // of these; 0: none
    bool answered;        // the broker answered any on this connection
};

// The connection broke. True when the one message under way was alone, so that it is to blame for the break.
bool suspects_note_break(struct suspects *suspects, const struct suspects_break *broken);
