// The roll call: hearing our own retained messages back, so that we know what the broker has.
//
// After each connection the broker delivers what it retains. A message that we send to ourselves behind the
// subscriptions comes back when it has delivered what it delivers in order ("answered"). A broker that
// delivers out of order is given a quiet period (a settle time) without anything retained after that
// ("settled"). What has not come by then is not there.
#pragma once

#include <stdbool.h>
#include <uv.h>

#include "gateway/broker/bus.h"

struct roll_call;

struct roll_call_handlers {
    void *context;
    void (*answered)(void *context);
    void (*settled)(void *context);
    // The broker takes what we publish, but several questions in a row have not come back: once a connection. Or NULL.
    void (*unheard)(void *context);
};

// The bus stays the caller's; handlers are copied.
struct roll_call *roll_call_new(uv_loop_t *loop, const struct bus *bus,
                                const struct roll_call_handlers *handlers);
// Closes the handle on the loop. The memory goes with roll_call_free() after the loop has ended.
void roll_call_stop(struct roll_call *roll_call);
void roll_call_free(struct roll_call *roll_call);

// The link: is connected (what is retained begins to come), is up (has subscribed), is lost.
void roll_call_begin(struct roll_call *roll_call);
void roll_call_ask(struct roll_call *roll_call);
void roll_call_lost(struct roll_call *roll_call);

// Something came under {prefix}/state/gw/; topic is what follows that.
void roll_call_received(struct roll_call *roll_call, const char *topic, const struct mqtt_received *received);

// Whether the broker has not settled yet: it may still confirm what it has not.
bool roll_call_is_open(const struct roll_call *roll_call);
// Whether all that it retains is known, and what changes is heard.
bool roll_call_is_done(const struct roll_call *roll_call);
