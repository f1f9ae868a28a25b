// The page, the API and the metrics of all gateways on the broker: a client of the broker like any dashboard, and an
// HTTP server, on one libuv loop.
#pragma once

#include <uv.h>

#include "gateway/config/config.h"

struct web;

// Listens at once. config->mqtt.client_id is the page's own. NULL, and *reason (for the caller to free), when it cannot be served. config
// and listen stay the caller's.
struct web *web_new(uv_loop_t *loop, const struct config *config, const char *listen, char **reason);
void web_start(struct web *web); // to connect to the broker
// Closes all handles on the loop. The memory goes with web_free() after the loop has ended.
void web_stop(struct web *web);
void web_free(struct web *web);

// Whether an attempt to connect is still on a thread, which cannot be called back; the loop will not end before it.
bool web_is_connecting(const struct web *web);

// What the gateway of this process says of itself, without the broker: its metrics as JSON text.
void web_take_own(struct web *web, const char *instance, const char *metrics);

// `trackbus web`: serves until SIGINT or SIGTERM; once in a process. listen in place of config->web.listen, or NULL. Returns the exit code.
int web_run(struct config *config, const char *listen);
