// A registry that has changed while the gateway runs: taken over without standing still. What takes long and touches
// nothing else is done on a thread (making the index, freeing the old one), and the rest in portions, one in each turn
// of the loop.
#pragma once

#include <uv.h>

#include "gateway/channels/session.h"
#include "gateway/config/registry.h"
#include "gateway/state/state.h"

struct reload;

// All stay the caller's.
struct reload_parts {
    uv_loop_t *loop;
    struct registry *registry;
    struct state *state;
    struct session_table *sessions;
};

struct reload *reload_new(const struct reload_parts *parts);
// Closes the handle on the loop, which ends when the thread has. Then reload_free(), before what the parts are.
void reload_stop(struct reload *reload);
void reload_free(struct reload *reload);

// The registry has these devices from now on; takes ownership of them. While one is being taken over the next one
// waits, and of several the last.
void reload_begin(struct reload *reload, struct config_devices *devices);
