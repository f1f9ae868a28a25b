// How new is what the broker retains of a device that another gateway had until now. That one may have published reports
// that are newer than what the device sends us from its memory, and these must not move the last values back. So the
// broker is asked, and what was reported waits for the answer, two seconds at most: a broker that retains nothing of it
// does not answer.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt.h"

struct newest;

// All stay the caller's.
struct newest *newest_new(const struct bus *bus, const struct mqtt_asker *asker);
void newest_free(struct newest *newest);

// Asks for one topic of the device, rest: what follows its id. It was asked for already: nothing.
void newest_ask(struct newest *newest, int64_t id, const char *rest);
// Whether the answer is waited for.
bool newest_is_asked(const struct newest *newest, int64_t id);
// It has come, or is of no use any more.
void newest_end(struct newest *newest, int64_t id);

// Asks for those whose turn it is. True when time is over for one, which *id is then: call it until it is false.
bool newest_ends_one(struct newest *newest, int64_t *id);
// Milliseconds until it is to be called again; 0: nobody is waited for.
uint64_t newest_wait(const struct newest *newest);
// What was asked is to be asked again.
void newest_link_down(struct newest *newest);
