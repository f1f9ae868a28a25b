// Publishes and stores what becomes of a command: its retained entry in the broker, the entry on disk, the
// log entries of its steps, and the result for whoever asked for it.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "gateway/broker/bus.h"
#include "gateway/broker/outbox.h"
#include "gateway/broker/store.h"
#include "gateway/commands/command.h"
#include "gateway/commands/signature.h"

// How many commands have ended here, and how: each once, with its log entry. They only grow.
struct command_counts {
    uint64_t executed, failed, expired, canceled;
};

struct command_voice {
    const struct bus *bus;
    struct outbox *outbox;
    struct store *store;
    struct command_secret secret;  // that entries are signed with
    struct command_counts *counts; // or NULL
};

// The command's name as a level of a topic: "invalid" when it cannot be one.
const char *command_voice_name(const struct command *command);

// Logs a step. more (or NULL) goes into the log entry. False when the outbox is full: it is not logged.
bool command_voice_log(const struct command_voice *voice, const struct command *command,
                       enum command_state step, const json_t *more);

// Publishes the result of a command that was rejected, as log entry and to its response topic.
void command_voice_result(const struct command_voice *voice, const struct command *command);

// Writes the entry to broker and disk as it stands, signed with our client_id. When the outbox is full the disk
// alone has it: command->unsaid, and it must be published again.
void command_voice_publish(const struct command_voice *voice, struct command *command);

// Publishes that a command has ended: how, its result, and then the empty entry, whose number in the outbox
// command->published becomes; 0 when the outbox is full: the next call goes on where this one stopped.
void command_voice_publish_end(const struct command_voice *voice, struct command *command);

// The broker holds stale for a command that has ended: it is told again that it has. False when the outbox is
// full: try again.
bool command_voice_clear_stale(const struct command_voice *voice, const struct command *command,
                               struct command *stale);

// The broker holds an entry, which nobody has signed, of a command that has ended: it is emptied.
void command_voice_empty(const struct command_voice *voice, const struct command *command);

// The broker holds an entry of a command that ended so long ago that nothing else is known of it.
void command_voice_clear_forgotten(const struct command_voice *voice, struct command *command);

// Whether the broker may not have its entry as we published it last.
bool command_voice_is_on_its_way(const struct command_voice *voice, const struct command *command);

// What we write of a command from now on carries our name; and whether what was written last is.
void command_voice_sign(const struct command_voice *voice, struct command *command);
bool command_voice_is_own(const struct command_voice *voice, const struct command *command);

// --- on disk only ---

void command_voice_keep(const struct command_voice *voice, const struct command *command);
void command_voice_keep_tombstone(const struct command_voice *voice, const struct command *command);
// That a session of the broker's began after the command of that id, instead of after that of before (0: none).
void command_voice_keep_session(const struct command_voice *voice, int64_t id, int64_t before);
// That all commands up to that id which are not on disk have ended, instead of those up to before (0: none).
void command_voice_keep_forgotten(const struct command_voice *voice, int64_t id, int64_t before);
// That a broker has had our marker up to that id.
void command_voice_keep_attested(const struct command_voice *voice, int64_t id);
void command_voice_forget(const struct command_voice *voice, const struct command *command);
