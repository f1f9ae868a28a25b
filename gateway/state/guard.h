// What somebody else does to what is retained for us: a topic of ours that was emptied or overwritten is
// published again, once a second at most.
//
// Whoever remembers what belongs on a topic compares what comes, and says whether it is wrong or right. What is
// wrong is noted, and given again in rounds, which are a second apart. Where our own messages come back (MQTT
// 3.1.1 cannot do without), an older one may look wrong for a moment; the newer one behind it makes it right.
#pragma once

#include <uv.h>

#define GUARD_MAX                                                                                            \
    10000 // topics that are noted in a round; of more than that, all that is ours is given again

struct guard;

struct guard_handlers {
    void *context;
    void (*again)(void *context, const char *topic); // publish again what belongs there
    void (*all_again)(void *context);                // and this, everything
};

struct guard *guard_new(uv_loop_t *loop, const struct guard_handlers *handlers);
// Closes the handle on the loop. The memory goes with guard_free() after the loop has ended.
void guard_stop(struct guard *guard);
void guard_free(struct guard *guard);

// What has come on the topic (which follows {prefix}/state/gw/) is not what belongs there; or is.
void guard_wrong(struct guard *guard, const char *topic);
void guard_right(struct guard *guard, const char *topic);
// The link is lost: nothing is known to be wrong any more.
void guard_forget(struct guard *guard);
