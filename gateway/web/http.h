// HTTP on the libuv loop: requests come whole, and are answered at once, later, or with a stream.
//
// Why libmicrohttpd: it has one epoll descriptor that a uv_poll_t can watch, does nothing but HTTP/1.1, and bounds
// memory per connection, connections and idle time by itself; TLS comes with it. libwebsockets drives libuv too and
// knows HTTP/2, but brings a dispatcher of its own (all protocols through one callback, a service thread's data, four
// event libraries as plugins) for websockets that we do not use. What HTTP/1.1 costs: a browser opens six
// connections at most, so six tabs with event streams to one gateway.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#define HTTP_BODY_MAX            65536 // bytes of a request
#define HTTP_CONNECTIONS         1200
#define HTTP_STREAMS_MAX         1000
#define HTTP_ANSWERS_MAX         (64 << 20) // bytes of answers that are made for one reader each and not read yet
#define HTTP_SNAPSHOTS_MAX       8          // that may be in memory, because their readers are slow
#define HTTP_SNAPSHOTS_BYTES_MAX (128 << 20) // of more than two of them

struct http;
struct http_request;
struct http_stream;

// A request, as far as all handlers need it. Texts are good until it is answered.
struct http_view {
    const char *method, *path; // the path without the query, decoded
    const char *body;          // ends with a NUL that length does not count
    size_t length;
    const char *address; // of the client; of a declared proxy's client what the proxy says
};
const struct http_view *http_view(const struct http_request *request);
const char *http_query(const struct http_request *request, const char *name);  // decoded, or NULL
const char *http_header(const struct http_request *request, const char *name); // or NULL
const char *http_cookie(const struct http_request *request, const char *name); // or NULL

// What the handler noted at an earlier call for this request; release() gets it when another is noted, or the request ends.
void *http_note(const struct http_request *request);
void http_set_note(struct http_request *request, void *note, void (*release)(void *note));

// --- answers ---

// What comes out of a handler; made by the functions below.
struct http_answer {
    unsigned status; // 0: not now, ask again after http_wake()
    struct MHD_Response *response;
    bool soon;     // the same, and ask again in another turn of the loop, whatever happens
    bool shared;   // the response stays its maker's
    size_t length; // of a text that was made for it
};
#define HTTP_LATER ((struct http_answer){0})
#define HTTP_SOON  ((struct http_answer){.soon = true})

// Takes ownership of text (from malloc). When those that are not read yet are too many bytes, a large one becomes a 503.
struct http_answer http_text(unsigned status, const char *type, char *text, size_t length);
// The bytes must stay.
struct http_answer http_bytes(unsigned status, const char *type, const void *bytes, size_t length);
void http_add(struct http_answer answer, const char *header, const char *value);

size_t http_answers(void); // bytes of texts that are not read yet

// Something large that many may be given while it is good: one copy, which goes with its last reader.
struct http_snapshot;
struct http_snapshot *http_snapshot_new(const char *type, char *text, size_t length); // takes text over
void http_snapshot_release(struct http_snapshot *snapshot);
void http_snapshot_add(struct http_snapshot *snapshot, const char *header, const char *value);
struct http_answer http_snapshot_answer(struct http_snapshot *snapshot);
// Whether so many are still in memory, released ones with their readers included, that no more may be made.
bool http_snapshots_full(void);

// Where the bytes of an answer come from that is written as it is read.
struct http_source {
    void *context;
    // Puts up to max bytes into buffer and returns how many; 0: nothing now, wait for http_stream_wake(); -1: the
    // stream ends.
    ssize_t (*read)(void *context, char *buffer, size_t max);
    void (*closed)(void *context); // it has ended, however; the stream is gone
};
// A stream in answer to the request, such as of server-sent events. NULL when there are too many; the source is then not used.
struct http_stream *http_stream(struct http_request *request, const char *type,
                                const struct http_source *source, struct http_answer *answer);
// There is something to read. Cheap.
void http_stream_wake(struct http_stream *stream);
size_t http_streams(const struct http *http);

// --- the server ---

// Called on the loop for each request, and again for one that was to wait.
typedef struct http_answer http_handler(void *context, struct http_request *request);

// What is refused before the handler is asked, in the form that is usual at that path.
typedef struct http_answer http_refusal(const char *path, unsigned status, const char *why);

struct http_setting {
    const char *address;     // "127.0.0.1:7780", port 0 for a free one
    char *certificate, *key; // PEM, or NULL: without TLS
    bool behind_proxy;
    unsigned request_time; // milliseconds until a request must be whole; 0: 60,000
    http_handler *handler;
    http_refusal *refusal; // NULL: {"reason":why}
    void *context;
};

// NULL, and *reason (for the caller to free), when it cannot listen. Texts of the setting are copied where needed.
struct http *http_new(uv_loop_t *loop, const struct http_setting *setting, char **reason);
const char *http_name(const struct http *http); // "ip:port" where it listens
// Asks the handler again for all requests that wait.
void http_wake(struct http *http);
// Ends all connections and closes the handles on the loop. The memory goes with http_free() after the loop has ended.
void http_stop(struct http *http);
void http_free(struct http *http);

// Tries to listen there, and stops at once. NULL, or why not, for the caller to free; *in_use tells whether somebody else
// listens there.
char *http_try(const char *address, bool *in_use);
