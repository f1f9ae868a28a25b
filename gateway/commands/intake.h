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
    struct command_fresh *fresh; // of commands that wait for the disk, the first one first; NULL at first
};

// Frees what it still has of its own.
void command_intake_clear(struct command_intake *intake);

// What came under {prefix}/command/gw/. Each command in the payload is queued, or rejected at once with a
// reason; what the broker delivers again is left out. A command is said to be queued, and sent, once it is on disk.
void command_intake_take(struct command_intake *intake, const struct mqtt_received *received);

// The broker has delivered what it had kept for us. vouched is as in redelivery.h.
void command_intake_settled(struct command_intake *intake, int64_t vouched);
