// The ring of events; see events.h.
#include "gateway/web/events.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/web/text_out.h"

struct events {
    struct event ring[EVENTS_MAX]; // by id
    uint64_t first, next;          // ids of those that are there: first <= id < next
    size_t bytes;
};

struct events *events_new(uint64_t first) {
    struct events *events = must_have(calloc(1, sizeof *events));
    events->first = events->next = first;
    return events;
}

static void drop_oldest(struct events *events) {
    struct event *oldest = &events->ring[events->first++ % EVENTS_MAX];
    events->bytes -= oldest->length;
    free(oldest->ident);
    free(oldest->frame);
    *oldest = (struct event){0};
}

void events_free(struct events *events) {
    while (events->first < events->next)
        drop_oldest(events);
    free(events);
}

// What a reader gets, made once for all of them.
static char *make_frame(const struct events *events, const char *type, const char *data, size_t *length) {
    struct text_out out = {0};
    text_out_print(&out, "id: %llu\nevent: %s\ndata: ", (unsigned long long)events->next, type);
    text_out_bytes(&out, data, *length);
    text_out_bytes(&out, "\n\n", 2);
    return text_out_take(&out, length);
}

void events_add(struct events *events, const char *type, const char *ident, const char *data, size_t length) {
    char *frame = make_frame(events, type, data, &length);
    while (events->next - events->first >= EVENTS_MAX ||
           (events->first < events->next && events->bytes + length > EVENTS_BYTES_MAX))
        drop_oldest(events);
    events->ring[events->next % EVENTS_MAX] =
        (struct event){.id = events->next,
                       .ident = ident != NULL ? must_have(strdup(ident)) : NULL,
                       .frame = frame,
                       .length = length};
    events->next++;
    events->bytes += length;
}

uint64_t events_next(const struct events *events) {
    return events->next;
}

const struct event *events_at(const struct events *events, uint64_t id) {
    return id >= events->first && id < events->next ? &events->ring[id % EVENTS_MAX] : NULL;
}
