// Suspects: which message is to blame when the broker closes the connection again and again.
//
// Some brokers answer a publish that they do not take by closing the connection, without saying which of
// those under way it was. When connections break twice in a row with messages under way, and none is
// acknowledged in between, these are suspects. They go out again one at a time; after some that were answered
// two at a time, then four. When the connection breaks on a portion, the next is half as large. A message on
// which it breaks alone for the third time is to blame.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define SUSPECTS_ALONE_MAX 3 // connections that may break on a message alone
#define SUSPECTS_CLEARED   8 // messages in a row that must be answered before a portion grows

struct suspects {
    uint64_t through; // number of the last suspect; 0: nobody is suspected
    unsigned portion; // suspects that may be under way at once
    unsigned cleared; // messages answered in portions of this size
    unsigned left;    // of the portion under way: not handed over yet
    bool broke;       // the last connection broke with messages under way
};

// Whether the message of that number is one.
bool suspects_include(const struct suspects *suspects, uint64_t number);

// Nothing is under way, and the oldest message is a suspect: another portion may go out.
void suspects_begin_portion(struct suspects *suspects);

// All of a portion was answered: after some of them the next is twice as large, but not more than window.
void suspects_clear_portion(struct suspects *suspects, unsigned window);

// The broker broke the connection. under_way messages, up to number last, were unanswered; answered says
// whether it answered any on this connection. True when the one message under way was alone, so that it is to
// blame for the break.
bool suspects_note_break(struct suspects *suspects, unsigned under_way, uint64_t first, uint64_t last,
                         bool answered);
