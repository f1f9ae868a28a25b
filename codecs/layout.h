// Layouts as tables: what stands where in a record, and which field of the dictionary it becomes. One walker
// serves them all: bytes, bits, the items of a text, and values that are found by an id.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "codecs/explain.h"
#include "codecs/reader.h"
#include "schema/message.h"

enum layout_kind {
    LAYOUT_END,    // behind the last item
    LAYOUT_SKIP,   // stands there and becomes nothing
    LAYOUT_NUMBER, // unsigned in bytes; in text as decimal_parse() takes it, blanks around it or not
    LAYOUT_SIGNED, // two's complement; as text the same as NUMBER
    LAYOUT_FLAG,   // 0 or 1
    LAYOUT_TRUE,   // stands nowhere: the record itself says it
    LAYOUT_FALSE,
    LAYOUT_OWN, // from here on: the codec's own kinds, for its take()
};

struct layout_item {
    unsigned kind; // enum layout_kind, or the codec's own
    enum field field;
    uint8_t bits;      // in bytes: how many, 0 to 64; whole bytes or not. In text: without meaning
    uint8_t scale;     // decimal places to move: 3 for millivolts
    uint16_t id;       // for layout_find()
    const char *index; // of an indexed field, or NULL
    const void *more;  // the codec's own, or NULL
    const char *name;  // for an explanation: what stands there, where no field says it
    bool assumed;      // the same: no document says it
};

// A value as it stands in the record.
struct layout_value {
    bool is_text;
    int64_t number;   // from bytes
    struct span text; // from text
};

// A record on its way into a message. It is read either from bytes or from the items of a text.
struct layout_walk {
    struct message *message;
    struct reader *bytes;     // faults when the record is too short
    unsigned bit;             // of the next byte: bits that are taken, 0 to 7
    bool may_end;             // the record may end before the layout does
    const struct span *texts; // as many as the layout has items that stand somewhere; or NULL
    // Takes items of the codec's own kinds; may read on from bytes. NULL when the layout has none.
    void (*take)(struct layout_walk *walk, const struct layout_item *item, const struct layout_value *value);
    void *context;                   // for take()
    struct explanation *explanation; // is told what each item is; or NULL
};

// Takes the items up to LAYOUT_END, one after another.
void layout_take_all(struct layout_walk *walk, const struct layout_item *items);

// Takes one item: for values that come in any order, with the width that the record gives them. bits of the
// item is then 8 times that, whatever stands in it.
void layout_take_value(struct layout_walk *walk, const struct layout_item *item, struct reader value);

// The item with that id, or NULL.
const struct layout_item *layout_find(const struct layout_item *items, unsigned id);

// Into the message: a number, or why there is none. text is what the device said.
void layout_set_number(struct message *message, const struct layout_item *item,
                       const struct layout_value *value);

// A number from text. When it is none, that is noted, and false is returned.
bool layout_read_number(struct message *message, enum field field, struct span text, struct decimal *number);

// Into the message: a time in seconds since 1970; or, where it cannot be the time of a report, why not. said
// is how the device wrote it, now as for value_time_fault().
void layout_set_time(struct message *message, enum field field, struct decimal time, struct span said,
                     int64_t now);
