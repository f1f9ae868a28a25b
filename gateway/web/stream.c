// Event streams; see stream.h.
#include "gateway/web/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/web/text_out.h"

// A device that somebody looks at.
struct watched {
    char *ident;
    size_t readers;
    UT_hash_handle hh;
};

struct reader {
    struct streams *streams;
    struct http_stream *stream;
    struct watched *watched; // or NULL
    uint64_t session;        // 0: nobody logs in
    uint64_t next;
    struct text_out left; // of an event that did not fit, from here on
    size_t sent;
    bool beat, ended;
    struct reader *prev, *next_reader;
};

struct streams {
    const struct events *events;
    struct reader *readers;
    size_t count;
    struct watched *watched; // by ident
};

static struct watched *find_watched(const struct streams *streams, const char *ident) {
    struct watched *watched;
    HASH_FIND_STR(streams->watched, ident, watched);
    return watched;
}

static struct watched *watch(struct streams *streams, const char *ident) {
    struct watched *watched = find_watched(streams, ident);
    if (watched == NULL) {
        watched = must_have(calloc(1, sizeof *watched));
        watched->ident = must_have(strdup(ident));
        HASH_ADD_KEYPTR(hh, streams->watched, watched->ident, strlen(watched->ident), watched);
    }
    watched->readers++;
    return watched;
}

static void leave(struct streams *streams, struct watched *watched) {
    if (watched == NULL || --watched->readers > 0)
        return;
    HASH_DEL(streams->watched, watched);
    free(watched->ident);
    free(watched);
}

struct streams *streams_new(const struct events *events) {
    struct streams *streams = must_have(calloc(1, sizeof *streams));
    streams->events = events;
    return streams;
}

void streams_free(struct streams *streams) {
    free(streams);
}

static bool is_for(const struct reader *reader, const struct event *event) {
    return event->ident == NULL ||
           (reader->watched != NULL && strcmp(event->ident, reader->watched->ident) == 0);
}

// Too slow, or away for too long: what was missed cannot be told any more.
static void reset(struct reader *reader) {
    reader->next = events_next(reader->streams->events);
    text_out_print(&reader->left, "id: %llu\nevent: reset\ndata: {}\n\n",
                   (unsigned long long)(reader->next - 1));
}

// Writes what comes next into left. False when there is nothing.
static bool fetch(struct reader *reader) {
    const struct events *events = reader->streams->events;
    while (reader->next < events_next(events)) {
        const struct event *event = events_at(events, reader->next);
        if (event == NULL) {
            reset(reader);
            return true;
        }
        reader->next++;
        if (is_for(reader, event)) {
            text_out_bytes(&reader->left, event->frame, event->length);
            return true;
        }
    }
    return false;
}

static size_t send_left(struct reader *reader, char *buffer, size_t max) {
    size_t length = reader->left.length - reader->sent;
    length = length < max ? length : max;
    memcpy(buffer, reader->left.text + reader->sent, length);
    reader->sent += length;
    if (reader->sent == reader->left.length)
        reader->left.length = reader->sent = 0;
    return length;
}

static ssize_t on_read(void *context, char *buffer, size_t max) {
    struct reader *reader = context;
    size_t used = 0;
    if (reader->ended)
        return -1;
    while (used < max && (reader->left.length > 0 || fetch(reader)))
        used += send_left(reader, buffer + used, max - used);
    if (used == 0 && reader->beat && max >= 3) {
        memcpy(buffer, ":\n\n", 3);
        used = 3;
    }
    reader->beat = false;
    return (ssize_t)used;
}

static void on_closed(void *context) {
    struct reader *reader = context;
    DL_DELETE2(reader->streams->readers, reader, prev, next_reader);
    reader->streams->count--;
    text_out_free(&reader->left);
    leave(reader->streams, reader->watched);
    free(reader);
}

static uint64_t where_to_begin(const struct events *events, const struct http_request *request) {
    const char *last = http_header(request, "Last-Event-ID");
    const char *since = last != NULL ? last : http_query(request, "since");
    uint64_t now = events_next(events);
    if (since == NULL || *since == '\0')
        return now;
    uint64_t next = strtoull(since, NULL, 10) + 1;
    return next <= now ? next : 0; // of the future: another server's
}

struct http_answer streams_open(struct streams *streams, struct http_request *request, const char *ident,
                                uint64_t session) {
    struct reader *reader = must_have(calloc(1, sizeof *reader));
    const struct http_source source = {.context = reader, .read = on_read, .closed = on_closed};
    struct http_answer answer;
    reader->streams = streams;
    reader->stream = http_stream(request, &source, &answer);
    if (reader->stream == NULL) {
        free(reader);
        static const char reason[] = "{\"reason\":\"too many event streams are open\"}\n";
        return http_bytes(503, "application/json", reason, sizeof reason - 1);
    }
    reader->watched = ident != NULL ? watch(streams, ident) : NULL;
    reader->session = session;
    reader->next = where_to_begin(streams->events, request);
    text_out_print(&reader->left, "retry: 2000\n\n");
    DL_APPEND2(streams->readers, reader, prev, next_reader);
    streams->count++;
    http_add(answer, "Cache-Control", "no-store");
    http_add(answer, "X-Accel-Buffering", "no");
    return answer;
}

void streams_wake(struct streams *streams) {
    struct reader *reader;
    DL_FOREACH2(streams->readers, reader, next_reader)
    if (reader->beat || reader->next < events_next(streams->events))
        http_stream_wake(reader->stream);
}

void streams_end_sessions(struct streams *streams, bool (*holds)(void *context, uint64_t session),
                          void *context) {
    struct reader *reader;
    DL_FOREACH2(streams->readers, reader, next_reader)
    if (reader->session != 0 && !holds(context, reader->session)) {
        reader->ended = true;
        http_stream_wake(reader->stream);
    }
}

void streams_beat(struct streams *streams) {
    struct reader *reader;
    DL_FOREACH2(streams->readers, reader, next_reader)
    reader->beat = true;
    streams_wake(streams);
}

size_t streams_count(const struct streams *streams) {
    return streams->count;
}

bool streams_has(const struct streams *streams, const char *ident) {
    return find_watched(streams, ident) != NULL;
}

void streams_each(const struct streams *streams, void (*fn)(void *context, const char *ident),
                  void *context) {
    for (const struct watched *watched = streams->watched; watched != NULL; watched = watched->hh.next)
        fn(context, watched->ident);
}
