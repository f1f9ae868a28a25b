// Commands on their way: from the broker to a device, and the answer back.
//
// A command is queued, sent, and then processed: that is said under {prefix}/log/gw/…/commands-queue/{name}/…
// and, for a publisher that set a response topic, to that topic too.
#pragma once

#include <stdint.h>

#include "codecs/codec.h"

struct gateway;
struct mqtt_received;
struct session;

struct command_queue {
    int64_t last_id; // of a command; ids only grow, across restarts too
};

// Takes in what was published to a command topic; topic is what follows {prefix}/command/gw/.
void commands_received(struct gateway *gateway, const char *topic, const struct mqtt_received *received);

// The device answered; or, for an implicit answer, sent a report that may be one.
void commands_answered(struct gateway *gateway, struct session *session, const struct codec_answer *answer);

// The device was heard from: what waits for it may go out.
void commands_device_talks(struct gateway *gateway, struct session *session);

// Ends all commands, because the gateway stops.
void commands_stop(struct gateway *gateway);
