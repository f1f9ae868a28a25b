// The journal: publishes of many commands, on disk as they came, so that they are acknowledged at once and their commands
// taken in afterwards, some in each turn of the loop, while reports go by.
//
// Before, the link was held until all commands of a publish were on disk: behind 100 publishes of 1,000 commands, which a
// broker sends together, a report waited for many seconds. Two ways out were weighed:
//  1. To let the broker send one at a time (MQTT 5's Receive Maximum). Nothing new is kept; but a report still waits for
//     1,000 commands, each entry that comes back takes a round trip, and MQTT 3.1.1 has no such thing.
//  2. This one: a row holds the publish until its commands have rows of their own. It needs a bound, beyond which the link is
//     held as before. In return what was acknowledged is whole after a crash, without a broker that delivers it again.
//
// The commands of a publish have the numbers that follow its own, by their places in the publish. So the order of a device
// holds, also for what is taken in past the journal later; and after a crash a look at the table tells what was taken in.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/commands/table.h"
#include "gateway/commands/voice.h"

#define COMMAND_JOURNAL_MAX       1000
#define COMMAND_JOURNAL_BYTES_MAX (16U << 20)

// Which publish commands are of, and whether it came before.
struct command_origin {
    uint64_t publish; // its fingerprint, for the first command that comes of it; then 0
    int mid;          // its packet id
    bool once;        // one of its commands must not happen twice
    uint64_t nth;     // its number, see struct mqtt_received; 0: it came to an earlier run
    int64_t twin;     // see struct command
    int64_t leader;   // the same: the first command of it; 0: there is none yet
    int64_t root;     // of twin: the command of the first time
    size_t known;     // so many of its commands were taken in before: those of twin, or of leader
};

struct command_publish {
    int64_t id;   // of its row; that of the command at place n is id + 1 + n
    size_t count; // commands in it
    size_t taken; // of these, the first so many are taken in
    bool canceled;
    char *key; // who they are for, see struct command
    struct command_origin origin;
    char *row; // JSON
    size_t length;
    struct command_publish *prev, *next;
};

// All zero: empty.
struct command_journal {
    struct command_publish *publishes; // the oldest first
    size_t count;
    size_t bytes;   // of their rows
    size_t waiting; // commands that are not taken in
};

// Whether it takes no more: the broker has to wait.
bool command_journal_is_full(const struct command_journal *journal);

// Whether something waits in it for that key, behind which what comes now belongs.
bool command_journal_has(const struct command_journal *journal, const char *key);

// The publish that has the command of that number, or has that number itself; NULL: none does.
struct command_publish *command_journal_find(const struct command_journal *journal, int64_t id);

// Puts a publish into memory and on disk. row is taken over: "payload", and what else the caller wants back from
// command_journal_open(); "key", "count", "taken" and "origin" are added. id: the first of count + 1 numbers that nobody
// else has. taken: so many of its commands are not to be taken in.
void command_journal_add(struct command_journal *journal, const struct command_voice *voice, int64_t id,
                         const char *key, size_t count, size_t taken, const struct command_origin *origin,
                         json_t *row);

// Takes up a row of the disk; false when it is none of the journal's.
bool command_journal_take_row(struct command_journal *journal, int64_t id, const json_t *row);
// When all rows are read, also those of the commands: which of them were taken in.
void command_journal_resume(struct command_journal *journal, const struct command_table *table);

// The row of a publish, for the caller to free.
json_t *command_journal_open(const struct command_publish *publish);

// So many more of its commands were taken in.
void command_journal_took(struct command_journal *journal, struct command_publish *publish, size_t count);

// It is known whether the broker has delivered a publish with a twin again: then what came the first time is not taken in.
void command_journal_decide(struct command_journal *journal, const struct command_voice *voice,
                            struct command_publish *publish, bool again);

// What waits for that key, but not what comes later, is to end as canceled when it is taken in, also after a crash.
void command_journal_cancel(struct command_journal *journal, const struct command_voice *voice,
                            const char *key);

// Forgets a publish, here and on disk.
void command_journal_drop(struct command_journal *journal, const struct command_voice *voice,
                          struct command_publish *publish);
// Forgets all, here alone.
void command_journal_clear(struct command_journal *journal);
