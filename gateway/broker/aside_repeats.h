// Repeats of reports that were set aside: a device that is not told that a report arrived sends it again, and it need not
// stand there twice. Compared with the last of them only, by a fingerprint in memory: thousands may be set aside at once.
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/broker/mqtt.h"

#define ASIDE_COMPARED 1000

// All zero: none is known.
struct aside_repeats {
    struct aside_print {
        uint64_t print;
        int64_t number; // of the row; 0: none
    } last[ASIDE_COMPARED];
    size_t next; // to be replaced
};

// Forgets what it knows, and reads the last of those that stand in the table.
void aside_repeats_learn(struct aside_repeats *repeats, sqlite3 *database);

// What the same report has as well: all of it but when and from where it came counts. 0: it is no JSON object.
uint64_t aside_print_of(const struct mqtt_publish *publish);

// Whether a report with that fingerprint is the same as one of those that stand in the table. When that cannot be told it is
// as if none were.
bool aside_repeats_has(const struct aside_repeats *repeats, sqlite3 *database,
                       const struct mqtt_publish *publish, uint64_t print);

// The report is in the table now, in the row of that number.
void aside_repeats_add(struct aside_repeats *repeats, uint64_t print, int64_t number);
