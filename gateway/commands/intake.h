// Taking in what is published to the command topics.
#pragma once

#include "gateway/broker/mqtt.h"
#include "gateway/commands/queue.h"
#include "gateway/config/registry.h"

// What it works with; all of it stays the caller's.
struct command_intake {
    struct command_queue *queue;
    const struct registry *registry;
};

// topic is what follows {prefix}/command/gw/. Each command in the payload is queued, or rejected at once with
// a reason.
void command_intake_take(struct command_intake *intake, const char *topic,
                         const struct mqtt_received *received);
