// Event streams; see stream.h.
#include "gateway/web/stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

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
    uint64_t next;           // the event to come
    char note[64];           // what is said before it, or ""
    size_t sent;             // bytes of the note, or without one of the event
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
    snprintf(reader->note, sizeof reader->note, "id: %llu\nevent: reset\ndata: {}\n\n",
             (unsigned long long)(reader->next - 1));
}

// The next event that is for the reader, and is there; NULL when there is none, or a note instead.
static const struct event *find_event(struct reader *reader) {
    const struct events *events = reader->streams->events;
    for (; reader->next < events_next(events); reader->next++) {
        const struct event *event = events_at(events, reader->next);
        if (event == NULL) {
            reset(reader);
            return NULL;
        }
        if (is_for(reader, event))
            return event;
    }
    return NULL;
}

// What of this text is not sent yet, and fits. *whole tells whether that is all of it.
static size_t send_rest(struct reader *reader, const char *text, size_t length, char *buffer, size_t max,
                        bool *whole) {
    size_t rest = length - reader->sent, fits = rest < max ? rest : max;
    memcpy(buffer, text + reader->sent, fits);
    *whole = fits == rest;
    reader->sent = *whole ? 0 : reader->sent + fits;
    return fits;
}

// 0: there is nothing to send.
static size_t send_next(struct reader *reader, char *buffer, size_t max) {
    const struct event *event = *reader->note == '\0' ? find_event(reader) : NULL;
    bool whole = false;
    size_t length = 0;
    if (event != NULL) {
        length = send_rest(reader, event->frame, event->length, buffer, max, &whole);
        reader->next += whole;
    } else if (*reader->note != '\0') {
        length = send_rest(reader, reader->note, strlen(reader->note), buffer, max, &whole);
        *reader->note = whole ? '\0' : *reader->note;
    }
    return length;
}

// Half of an event is with the reader, and the rest is gone. He connects again, and reads everything anew.
static bool is_torn(const struct reader *reader) {
    return reader->sent > 0 && *reader->note == '\0' &&
           events_at(reader->streams->events, reader->next) == NULL;
}

static ssize_t on_read(void *context, char *buffer, size_t max) {
    struct reader *reader = context;
    size_t used = 0, length;
    if (reader->ended || is_torn(reader))
        return -1;
    while (used < max && (length = send_next(reader, buffer + used, max - used)) > 0)
        used += length;
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
    reader->stream = http_stream(request, "text/event-stream", &source, &answer);
    if (reader->stream == NULL) {
        free(reader);
        static const char reason[] = "{\"reason\":\"too many event streams are open\"}\n";
        return http_bytes(503, "application/json", reason, sizeof reason - 1);
    }
    reader->watched = ident != NULL ? watch(streams, ident) : NULL;
    reader->session = session;
    reader->next = where_to_begin(streams->events, request);
    strcpy(reader->note, "retry: 2000\n\n");
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
