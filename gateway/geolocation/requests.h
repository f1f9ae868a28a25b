// HTTP requests to one service, by libcurl's multi interface on the loop: POST of JSON, one answer each. Nothing here
// waits: names are resolved on libuv's thread pool, since libcurl's own resolver would hold up the loop when a request ends
// before its name is found. Certificates are checked against the system's, redirects are not followed, no proxy is used,
// an answer has 64 KiB at most, and there are at most REQUESTS_MAX connections.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define REQUESTS_MAX        16
#define REQUESTS_ANSWER_MAX 65536 // bytes

struct requests;

struct requests_result {
    const char *error; // NULL: there is an answer, which the rest is
    long status;       // of HTTP
    const char *body;
    size_t length;
    uint64_t retry_after; // milliseconds that the service asks for, or 0
};

// The result is borrowed. Further requests may be made from here.
typedef void requests_done_fn(void *context, const struct requests_result *result);

struct requests *requests_new(uv_loop_t *loop);
// Ends those under way, without calling anybody; closes the handles on the loop.
void requests_stop(struct requests *requests);
void requests_free(struct requests *requests);

// Whether the URL is one of http:// or https:// that can be asked.
bool requests_takes(const char *url);

// Sends body (which is copied) to url, with "?key=" and the key unless that is NULL, and calls done once, not from here, and
// after so many milliseconds at the latest.
void requests_post(struct requests *requests, const char *url, const char *key, const char *body,
                   unsigned timeout, requests_done_fn *done, void *context);

// Those under way.
size_t requests_count(const struct requests *requests);

// Whether a thread looks for a name, which nothing can call back.
bool requests_resolve(const struct requests *requests);
