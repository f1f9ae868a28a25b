// What happens, for those who look on: one ring that all event streams read from, each at its own place. So a slow
// reader costs nothing but its place: when the ring has gone past it, it is told so and reads everything anew.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EVENTS_MAX       20000
#define EVENTS_BYTES_MAX (16 << 20)

struct event {
    uint64_t id;
    char *ident; // of the device that it is about, or NULL: for everybody
    char *frame; // as all readers get it
    size_t length;
};

struct events;

// first is the id that the first event will have; larger than all of earlier runs.
struct events *events_new(uint64_t first);
void events_free(struct events *events);

// data is JSON on one line; all texts are copied.
void events_add(struct events *events, const char *type, const char *ident, const char *data, size_t length);

uint64_t events_next(const struct events *events); // the id of the event to come
// The event of that id, or NULL when it is gone or yet to come.
const struct event *events_at(const struct events *events, uint64_t id);
