// Parked: messages of one topic that wait on disk alone, by their numbers in the store, the oldest first. Eight bytes each:
// of short messages a disk of 1 GiB holds some millions.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// All zero: none.
struct parked {
    uint64_t *messages;
    size_t first, end, capacity; // of these
};

bool parked_is_empty(const struct parked *parked);
size_t parked_count(const struct parked *parked);
// The numbers of the oldest, the one after so many others, and the newest. Only while there is one.
uint64_t parked_first(const struct parked *parked);
uint64_t parked_at(const struct parked *parked, size_t index);
uint64_t parked_last(const struct parked *parked);

// Whether one more finds its place: before all others, or behind them.
bool parked_may_take(const struct parked *parked, uint64_t number);
// Adds it there. size is in bytes, of which only so many count as 24 bits tell.
void parked_add(struct parked *parked, uint64_t number, size_t size);
// Takes the oldest away, which must be there. Returns its size.
size_t parked_take(struct parked *parked);
