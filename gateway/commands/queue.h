// The queue of commands: what goes out to which device, what is under way, and how each ends.
//
// A command is queued, sent, and then exactly one of processed, expired or canceled; each step is logged
// under {prefix}/log/gw/{key}/commands-queue/{name}/{step}. While it is pending its entry is retained under
// {prefix}/state/gw/{key}/commands-queue/{id}, where every instance of the gateway sees it: the one that
// holds the device sends it. An end is on disk before it is published, so that a command that was answered is
// never sent again.
//
// A command that must not happen twice (see command_is_once()) has one attempt unless its publisher wants more, and
// is on disk as sent before it is. When its device comes back without having answered, or stays silent, it ends as
// uncertain.
//
// A device may move while its command goes out. So where there are other instances, one that sends a command first
// publishes that it does, and sends when that has come back: the broker's order tells who was first. Where the broker
// refuses that, it is not sent: nobody would know who was first. But where it has refused every entry of a command, nobody
// else knows of it, and it is sent all the same.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/roll_call.h"
#include "gateway/channels/road.h"
#include "gateway/commands/command.h"
#include "gateway/commands/table.h"
#include "gateway/commands/voice.h"
#include "gateway/config/config.h"

// How devices are found.
struct command_roads {
    void *context;
    // The road to the device of that id (-1: without an identity) and ident; see road_find().
    bool (*find)(void *context, int64_t device_id, const char *ident, struct road *road);
    // What a connected device with an identity is called and speaks. *ident is valid until the loop goes on.
    bool (*whois)(void *context, int64_t device_id, const char **ident, const struct codec **codec);
    // Whether the device of that id is in the registry or was ever heard.
    bool (*knows)(void *context, int64_t device_id);
    // Whether other instances are online, to which a device may move, or from which it may have come.
    bool (*has_others)(void *context);
};

// What it works with; all of it stays the caller's.
struct command_queue {
    const struct config *config;
    struct command_table *table;
    const struct command_voice *voice;
    const struct roll_call *roll_call;
    const struct command_roads *roads;
    unsigned effort;           // of this turn of the loop: see COMMAND_EFFORT_MAX
    bool any_unsaid;           // of a new command the outbox did not take the entry
    bool unsettled;            // what the broker has not confirmed is still being looked at: see sync.c
    struct command_walk ended; // of a sweep that is under way; and how many tombstones are too many in it
    size_t surplus;
    struct command_mention *unwritten; // commands that wait for the disk, the first one first; NULL at first
    struct command_mention *unannounced; // the same: that are to be announced
};

// What may be done in a turn of the loop, so that none takes long: to look at a command is 1, to publish something of
// it COMMAND_EFFORT_SAID. Beyond that the rest is for the next turn.
#define COMMAND_EFFORT_MAX  5000
#define COMMAND_EFFORT_SAID 200

// Frees what it still has of its own.
void command_queue_clear(struct command_queue *queue);

// Serial number of the road to its device; 0: it cannot be reached here.
uint64_t command_queue_connection(const struct command_queue *queue, const struct command *command);

// Publishes the entry of a command, and watches whether the broker takes it.
void command_queue_publish(struct command_queue *queue, struct command *command);

// A new command: puts it on disk, and publishes its entry and that it is queued; where many messages wait for the
// broker, soon, so that reports need not wait behind thousands of these.
void command_queue_announce(struct command_queue *queue, struct command *command);
// Whether all are announced.
bool command_queue_is_announced(const struct command_queue *queue);

// Sends what may go out to this target, if its device can be reached: now, or where many commands wait for it soon, once
// for all who ask for that meanwhile.
void command_queue_send_next(struct command_queue *queue, const char *key);

// The same soon for all targets.
void command_queue_rouse(struct command_queue *queue);

// What is for soon: a portion of it. Returns whether some is left for the next turn of the loop.
bool command_queue_go_on(struct command_queue *queue);
// Whether there is something for it to do now.
bool command_queue_has_more(const struct command_queue *queue);

// The device was heard from: what waits for it may go out. device_id is -1 without an identity.
void command_queue_device_talks(struct command_queue *queue, int64_t device_id, int64_t channel_id,
                                const char *ident);

// The device answered; or, for an implicit answer, sent a report that may be one.
void command_queue_answered(struct command_queue *queue, const struct road *from,
                            const struct codec_answer *answer);

// From time to time: time-outs, expiry, and what could not be done before. now is by clock_ticks(). A portion of it:
// returns whether some is left, for a later turn of the loop.
bool command_queue_sweep(struct command_queue *queue, int64_t now);

// Whether it must not go out a second time.
bool command_queue_is_once(const struct command_queue *queue, const struct command *command);

// Somebody canceled it; or all that waits for a target by now, which where it is much takes several turns of the loop.
void command_queue_cancel(struct command_queue *queue, struct command *command);
void command_queue_cancel_all(struct command_queue *queue, const char *key);

// The command has ended this way, and the end has been published. A tombstone is left: its id is kept for a
// while, here and on disk, so that an old entry that comes late, or out of an older state of the broker's
// disk, is not a new command.
void command_queue_bury(struct command_queue *queue, struct command *command, enum command_state end);

// The broker holds stale (taken over) for a command that has ended: it is told that it has, now or as soon as
// the outbox has room.
void command_queue_clear_stale(struct command_queue *queue, struct command *command, struct command *stale);

// Takes it out of the queue and off the disk, and frees it, without publishing anything.
void command_queue_forget(struct command_queue *queue, struct command *command);

// The entry of one that is unheard, as we published it, has come back from the broker: nobody else was first.
void command_queue_heard(struct command_queue *queue, struct command *command);
// Somebody else was first: it is not sent from here.
void command_queue_yield(struct command *command);

// Publishes the end of a command whose end is on disk, and buries it once the broker has that.
void command_queue_publish_end(struct command_queue *queue, struct command *command);
