// A configuration that has changed while the gateway runs: taken over without standing still. What takes long and touches
// nothing else is done on a thread (reading the files, making the index of the registry, freeing the old one), and the
// rest in portions, one in each turn of the loop.
#pragma once

#include <uv.h>

#include "gateway/channels/session.h"
#include "gateway/config/registry.h"
#include "gateway/config/settings.h"
#include "gateway/state/state.h"

struct reload;

// All stay the caller's.
struct reload_parts {
    uv_loop_t *loop;
    struct config *config;
    struct registry *registry;
    struct state *state;
    struct session_table *sessions;
    // config has what can change without a restart: for those who have a copy of it. restart names what cannot, see
    // config_reload(); the registry has so many devices from now on.
    void (*taken)(void *context, const char *restart, size_t devices);
    void *context;
};

struct reload *reload_new(const struct reload_parts *parts);
// Closes the handle on the loop, which ends when the thread has. Then reload_free(), before what the parts are.
void reload_stop(struct reload *reload);
void reload_free(struct reload *reload);

// Reads the configuration again. A faulty one changes nothing, and its faults are logged. While one is being taken over
// the next one waits; however often it is asked for meanwhile, it is read once more.
void reload_begin(struct reload *reload);
