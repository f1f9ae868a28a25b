// Commands to devices: taken in from the command topics, kept the same in the broker and on disk, sent when
// the device can be reached. This is what the rest of the gateway sees of them.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/mqtt.h"
#include "gateway/broker/outbox.h"
#include "gateway/broker/roll_call.h"
#include "gateway/broker/store.h"
#include "gateway/commands/queue.h"
#include "gateway/commands/voice.h"
#include "gateway/config/config.h"
#include "gateway/config/registry.h"

struct commands;

// What they work with; all of it stays the caller's.
struct commands_parts {
    uv_loop_t *loop;
    const struct config *config;
    const struct registry *registry;
    struct store *store;
    struct outbox *outbox;
    const struct bus *bus;
    struct roll_call *roll_call;
    struct command_roads roads;
};

// parts is copied.
struct commands *commands_new(const struct commands_parts *parts);

// Takes up what is on disk, and watches the time from now on. Before the link is started.
void commands_start(struct commands *commands);

// Closes the handle on the loop.
void commands_stop(struct commands *commands);

// After the loop has ended, and when the outbox and the store call nobody any more.
void commands_free(struct commands *commands);

// How many have ended, in this run.
const struct command_counts *commands_counts(const struct commands *commands);
// How many have not ended: of all gateways on the broker, as far as it was heard of them.
size_t commands_waiting(const struct commands *commands);

// --- the broker ---

// The link is connected: what is retained begins to come. resumed: the broker has kept our session.
void commands_link_connected(struct commands *commands, bool resumed);

// The roll call has settled: what has not come is not there.
void commands_roll_call_settled(struct commands *commands);

// Something came under {prefix}/state/gw/; topic is what follows that.
void commands_received(struct commands *commands, const char *topic, const struct mqtt_received *received);

// Something came under {prefix}/command/gw/.
void commands_take_in(struct commands *commands, const struct mqtt_received *received);

// --- devices ---

// A device was heard from: what waits for it may go out. device_id is -1 without an identity; channel_id is
// the channel that it is on.
void commands_device_talks(struct commands *commands, int64_t device_id, int64_t channel_id,
                           const char *ident);

// The device of that id is no longer in the registry: what waits for it is canceled, by the gateway that takes commands in.
void commands_device_gone(struct commands *commands, int64_t device_id);

// A device answered; or, for an implicit answer, sent a report that may be one. from is the way that it came.
void commands_answered(struct commands *commands, const struct road *from, const struct codec_answer *answer);
