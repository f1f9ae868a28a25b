// A request to flespi's API that may be answered, and the functions that do so.
#pragma once

#include "gateway/web/flespi_list.h"
#include "gateway/web/guard.h"
#include "gateway/web/parts.h"

#define FLESPI_PARTS_MAX 2

struct flespi_call {
    const struct api_parts *parts;
    const struct guard *guard;
    struct http_request *request;
    const char *user; // or NULL
    enum login_result login;
};

struct flespi_asked {
    const struct flespi_call *call;
    char *part[FLESPI_PARTS_MAX];               // what stands in the path for each * and @
    struct selector selector[FLESPI_PARTS_MAX]; // the same for each *
    struct flespi_list list;                    // begun; whoever does not end it leaves it
};

struct http_answer flespi_get_telemetry(struct flespi_asked *asked);
struct http_answer flespi_get_messages(struct flespi_asked *asked);
struct http_answer flespi_get_commands(struct flespi_asked *asked);
struct http_answer flespi_post_commands(struct flespi_asked *asked);
