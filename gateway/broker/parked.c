// Parked; see parked.h.
#include "gateway/broker/parked.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"

// A message is its number, and in the last bits its size. Numbers of 40 bits last for 34 years at a thousand messages a
// second.
#define SIZE_BITS 24
#define SIZE_MOST (((uint64_t)1 << SIZE_BITS) - 1)
#define LEAST     8 // messages that there is room for, at both ends

bool parked_is_empty(const struct parked *parked) {
    return parked->first == parked->end;
}

size_t parked_count(const struct parked *parked) {
    return parked->end - parked->first;
}

uint64_t parked_first(const struct parked *parked) {
    return parked_at(parked, 0);
}

uint64_t parked_at(const struct parked *parked, size_t index) {
    return parked->messages[parked->first + index] >> SIZE_BITS;
}

uint64_t parked_last(const struct parked *parked) {
    return parked_at(parked, parked_count(parked) - 1);
}

// Makes room for half as many more, and for some that come back to the front.
static void resize(struct parked *parked) {
    size_t count = parked_count(parked), capacity = count + count / 2 + 2 * LEAST;
    uint64_t *messages = must_have(malloc(capacity * sizeof *messages));
    if (count > 0)
        memcpy(messages + LEAST, parked->messages + parked->first, count * sizeof *messages);
    free(parked->messages);
    *parked =
        (struct parked){.messages = messages, .first = LEAST, .end = LEAST + count, .capacity = capacity};
}

bool parked_may_take(const struct parked *parked, uint64_t number) {
    return parked_is_empty(parked) || number < parked_first(parked) || number > parked_last(parked);
}

void parked_add(struct parked *parked, uint64_t number, size_t size) {
    uint64_t message = number << SIZE_BITS | (size < SIZE_MOST ? size : SIZE_MOST);
    bool before = !parked_is_empty(parked) && number < parked_first(parked);
    if (before ? parked->first == 0 : parked->end == parked->capacity)
        resize(parked);
    if (before)
        parked->messages[--parked->first] = message;
    else
        parked->messages[parked->end++] = message;
}

size_t parked_take(struct parked *parked) {
    size_t size = parked->messages[parked->first++] & SIZE_MOST;
    if (parked_is_empty(parked)) {
        free(parked->messages);
        *parked = (struct parked){0};
    } else if (parked->first > 4 * LEAST && parked->first > parked->capacity / 4 * 3) {
        resize(parked);
    }
    return size;
}
