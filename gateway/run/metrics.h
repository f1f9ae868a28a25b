// The numbers of this gateway: published every ten seconds as state/gw/instances/{client_id}/metrics, retained, and told
// to a guest in the same process.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/base/loop_lag.h"
#include "gateway/broker/bus.h"
#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "gateway/channels/channel.h"
#include "gateway/channels/held.h"
#include "gateway/channels/session.h"
#include "gateway/commands/commands.h"
#include "gateway/config/config.h"
#include "gateway/geolocation/locator.h"
#include "gateway/state/state.h"

struct metrics;

// All stay the caller's.
struct metrics_parts {
    uv_loop_t *loop;
    struct loop_lag *lag; // of that loop
    const struct config *config;
    const struct bus *bus;
    const struct outbox *outbox;
    const struct store *store;
    const struct channel *channels; // config's, in the same order
    const struct session_table *sessions;
    const struct state *state;
    const struct commands *commands;
    const struct locator *locator;
    const struct held *held;
    int64_t started;                               // microseconds since 1970
    void (*told)(void *context, const char *text); // JSON; or NULL
    void *context;
};

struct metrics *metrics_new(const struct metrics_parts *parts);
void metrics_start(struct metrics *metrics);
// The link is up, or lost: whoever is told the numbers here is told at once, the broker a second later.
void metrics_link(struct metrics *metrics, bool up);
// Closes the handles on the loop. The memory goes with metrics_free() after the loop has ended.
void metrics_stop(struct metrics *metrics);
void metrics_free(struct metrics *metrics);
