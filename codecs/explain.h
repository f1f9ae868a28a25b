// An explanation of a frame: which of its bytes stand for what. The code that decodes says it on its way, from
// the tables that it decodes by. The gateway does not ask for one, and then this costs a look at a pointer.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "schema/field.h"

#define EXPLAIN_PIECES_MAX 4096 // more than a frame has; what does not fit is not named
#define EXPLAIN_ROW_MAX    48
#define EXPLAIN_INDEX_MAX  24

// Some bytes, or bits, and what they stand for.
struct explain_piece {
    const uint8_t *bytes; // of the frame
    size_t length;        // of the bytes that it lies in
    unsigned bit, bits; // from which bit of the first byte (0 is the highest), how many; bits 0: all of them
    enum field field;   // that they became, or FIELD_NONE
    const char *name;   // where there is no field: what it is, a constant
    const char *index;  // of an indexed field or a name, or NULL; copied
    bool assumed;       // no document says it
};

struct explain_entry {
    struct explain_piece piece;
    char row[EXPLAIN_ROW_MAX]; // of which table
    char index[EXPLAIN_INDEX_MAX];
};

struct explanation {
    size_t count;
    struct explain_entry entries[EXPLAIN_PIECES_MAX];
    char table[EXPLAIN_ROW_MAX]; // that is read by now
    bool assumed;                // all of it
};

// Empty again, for the next frame.
void explain_reset(struct explanation *explanation);

// What is said from now on comes from that table, or row of it. Does nothing without an explanation.
__attribute__((format(printf, 3, 4))) void explain_table(struct explanation *explanation, bool assumed,
                                                         const char *format, ...);

// Says what some bytes are. explanation must be there.
void explain_add(struct explanation *explanation, const struct explain_piece *piece);
// The same, from item number row of the table.
void explain_add_row(struct explanation *explanation, const struct explain_piece *piece, size_t row);
