// Taking in what is published to the command topics.
#pragma once

#include "gateway/broker/mqtt.h"
#include "gateway/commands/queue.h"
#include "gateway/commands/redelivery.h"
#include "gateway/config/registry.h"

// What it works with; all of it stays the caller's.
struct command_intake {
    struct command_queue *queue;
    const struct registry *registry;
    struct redelivery *redelivery;
};

// What came under {prefix}/command/gw/. Each command in the payload is queued, or rejected at once with a
// reason; what the broker delivers again is left out.
void command_intake_take(struct command_intake *intake, const struct mqtt_received *received);

// The broker has delivered what it had kept for us. vouched is as in redelivery.h.
void command_intake_settled(struct command_intake *intake, int64_t vouched);
