// An event stream of one reader: /api/events as server-sent events, with resume where it was cut.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/web/events.h"
#include "gateway/web/http.h"

struct streams;

struct streams *streams_new(const struct events *events);
void streams_free(struct streams *streams);

// Answers a request for events: those for everybody, and with an ident (or NULL) also those of that device. It begins
// after the id that the reader says it has (Last-Event-ID, or since in the query), otherwise with what is to come. An id that is no longer
// in the ring: the first event is `reset`, and the reader reads everything anew.
// session is the number of the session that it belongs to, 0 where nobody logs in.
struct http_answer streams_open(struct streams *streams, struct http_request *request, const char *ident,
                                uint64_t session);
// Ends those of sessions that do not hold any more.
void streams_end_sessions(struct streams *streams, bool (*holds)(void *context, uint64_t session),
                          void *context);

// Events were added.
void streams_wake(struct streams *streams);
// So that connections that nobody holds any more are noticed.
void streams_beat(struct streams *streams);

size_t streams_count(const struct streams *streams);
// Whether somebody looks at that device. Quick, however many read.
bool streams_has(const struct streams *streams, const char *ident);
// Calls fn with the ident of each device that somebody looks at.
void streams_each(const struct streams *streams, void (*fn)(void *context, const char *ident), void *context);
