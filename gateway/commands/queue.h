// The queue of commands: what waits for which device, what is under way, and how each ends.
//
// A command is queued, sent, and then exactly one of processed, expired or canceled; each step is logged
// under {prefix}/log/gw/{key}/commands-queue/{name}/{step}. While it is pending its entry stands retained
// under {prefix}/state/gw/{key}/commands-queue/{id}, where every instance of the gateway sees it: the one
// that holds the device sends it. An end is on disk before it is published, so that a command that was
// answered is never sent again.
#pragma once

#include <stdint.h>
#include <uv.h>

#include "gateway/commands/command.h"

#define COMMANDS_PER_DEVICE_MAX 1000
#define COMMANDS_MAX            100000

struct peer;
struct session;

struct command_queue {
    struct command *by_id;
    struct command_target *targets; // by key
    size_t pending;                 // that have not ended
    int64_t last_id;                // ids only grow, across restarts too
    uv_timer_t sweep;
};

void commands_start(struct gateway *gateway);
void commands_stop(struct gateway *gateway);
void commands_free(struct gateway *gateway);

// --- for the intake and the synchronization with the broker ---

// A number for a new command.
int64_t commands_new_id(struct gateway *gateway);

struct command *commands_find(const struct command_queue *queue, int64_t id);

// NULL when there is room for one more, else a constant that says which limit is reached.
const char *commands_full(const struct command_queue *queue, const char *key);

// Takes the command over and into the queue.
void commands_add(struct gateway *gateway, struct command *command);

// Takes it out of the queue and off the disk, and frees it, without a word.
void commands_forget(struct gateway *gateway, struct command *command);

// The command has ended in this way, and that is said. Only its id is kept for a while, here and on disk, so
// that an old entry that comes late, or out of an older state of the broker's disk, is not a new command.
void commands_bury(struct gateway *gateway, struct command *command, enum command_state end);

// Takes up such an id from a row of the disk; false when the row is none.
bool commands_take_buried(struct gateway *gateway, int64_t id, const json_t *row);

// The broker holds stale for a command that has ended: it is told again that it has.
void commands_clear_stale(struct gateway *gateway, const struct command *command, struct command *stale);

// Writes the entry to the disk as it stands.
void commands_keep(struct gateway *gateway, const struct command *command);

// Writes the entry to broker and disk as it stands.
void commands_publish(struct gateway *gateway, struct command *command);

// Logs a step: "queued" or "sent".
void commands_log(struct gateway *gateway, const struct command *command, const char *step,
                  const json_t *more);

// Ends a command. response (taken over) and reason may be NULL.
void commands_finish(struct gateway *gateway, struct command *command, enum command_state end, bool executed,
                     json_t *response, const char *reason);

// Publishes the result of a command that has ended, as log entry and to its response topic.
void commands_say_result(struct gateway *gateway, const struct command *command);

// Publishes the end of a command that has ended, and forgets it once the broker has that.
void commands_publish_end(struct gateway *gateway, struct command *command);

// Sends what may go out to this target now, if its device can be reached.
void commands_send_next(struct gateway *gateway, const char *key);

// Whether a definition is valid for codec, or with NULL for a protocol of some channel. NULL, or what is
// wrong with it (for the caller to free).
char *commands_check(const struct gateway *gateway, json_t *definition, const struct codec *codec);

// --- for peers ---

// The device answered; or, for an implicit answer, sent a report that may be one. The peer has a session.
void commands_answered(struct peer *peer, const struct codec_answer *answer);

// The device was heard from: what waits for it may go out.
void commands_device_talks(struct gateway *gateway, struct session *session);
