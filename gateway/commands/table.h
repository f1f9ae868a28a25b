// The table of commands: all that are known, by their ids, and those that wait, by device and in the order in
// which they go out. Memory only: what stands in the broker and on disk is the voice's.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "gateway/base/table.h"
#include "gateway/commands/command.h"

#define COMMANDS_PER_DEVICE_MAX 1000
#define COMMANDS_MAX            100000
#define COMMANDS_KNOWN_MAX      200000       // with those that have ended
#define COMMANDS_BYTES_MAX      (256U << 20) // of what those that wait are to do, as JSON

// What waits for one device. It is there as long as something does.
struct command_target {
    char *key;
    struct command *commands; // the highest priority first, and then the oldest
    size_t count;
    size_t twins;          // of these: what the broker may have delivered again, see struct command
    struct command *begun; // those of them that were sent, or are about to be: see command_table_note_begun()
    int64_t canceled;      // those with a number up to this one are to end as canceled; 0: none is
    bool due;              // it stands in the list of those that are to be looked at
    struct command_target *prev_due, *next_due;
    UT_hash_handle hh;
};

// A walk over all commands in portions, between which the table changes: what is added comes last, what was dropped is
// passed over. All zero: none is under way.
struct command_walk {
    struct command *at; // the next one
    bool under_way;
    struct command_walk *next;
};

// All zero: empty.
struct command_table {
    struct command *by_id;
    struct command_target *targets; // by key
    struct command_target *due;     // those whose commands are to be looked at soon, the first one first
    struct command_target *swept;  // the next one of the targets in a walk over all of them; NULL: at its end
    struct command *swept_next;    // where that goes on in this target; NULL: at the end
    bool sweeping;                 // it has begun with this target
    struct command_target *roused; // the same of a walk over those whose commands may go out now
    struct command *ending;        // whose ends are to be published, the first one first
    struct command_walk *walks;    // that are under way
    size_t pending;                // commands that have not ended
    size_t twins;                  // of these: what the broker may have delivered again
    size_t bytes;                  // of their definitions, as JSON
    int64_t last_id;               // ids only grow, across restarts too
    int64_t forgotten; // up to there the intake knows of all that have not ended; 0: nothing was forgotten
    int64_t attested;  // up to there a broker has had our marker, see sync.h; 0: none has had one
};

// A number for a new command: now (microseconds since 1970), or more where that was given already.
int64_t command_table_new_id(struct command_table *table, int64_t now);
// The first of count numbers in a row, none of which is given yet.
int64_t command_table_new_ids(struct command_table *table, int64_t now, size_t count);

// That id is taken, and all before it. An id beyond the year 2100 is not one of ours, and does not count.
void command_table_note_id(struct command_table *table, int64_t id);

// NULL when there is none.
struct command *command_table_find(const struct command_table *table, int64_t id);
struct command_target *command_table_target(const struct command_table *table, const char *key);

// NULL when there is room for one more, else a constant that says which limit is reached.
const char *command_table_full(const struct command_table *table, const char *key);
// The same for one that may have come before: those that wait may be the very same, so that the limits count twice.
const char *command_table_full_of_twins(const struct command_table *table, const char *key);

// Takes the command over. One that has ended stands in no device's list. Its id must not be in the table.
void command_table_add(struct command_table *table, struct command *command);

// Takes it out of its device's list, if it stands in one; it stays in the table. The target goes with its
// last command.
void command_table_leave_target(struct command_table *table, struct command *command);

// The state of a command has changed, or its attempts: one that is sent, or was, is begun.
void command_table_note_begun(struct command *command);

// What the command stands for is no repeat: its twin becomes 0.
void command_table_is_no_twin(struct command_table *table, struct command *command);

// The sweep goes on with this target, from its first command; NULL: it has ended.
void command_table_sweep(struct command_table *table, struct command_target *target);

// Begins a walk anew; the next command, NULL at the end; ends it early.
void command_walk_begin(struct command_table *table, struct command_walk *walk);
struct command *command_walk_next(struct command_table *table, struct command_walk *walk);
void command_walk_end(struct command_table *table, struct command_walk *walk);

// Takes it out of the table and frees it.
void command_table_drop(struct command_table *table, struct command *command);
void command_table_clear(struct command_table *table);
