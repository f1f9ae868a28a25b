// The table of commands: all that are known, by their ids, and those that wait, by device and in the order in
// which they go out. Memory only: what stands in the broker and on disk is the voice's.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <uthash.h>

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
    UT_hash_handle hh;
};

// All zero: empty.
struct command_table {
    struct command *by_id;
    struct command_target *targets; // by key
    size_t pending;                 // commands that have not ended
    size_t bytes;                   // of their definitions, as JSON
    int64_t last_id;                // ids only grow, across restarts too
};

// A number for a new command: now (microseconds since 1970), or more where that was given already.
int64_t command_table_new_id(struct command_table *table, int64_t now);

// That id is taken, and all before it. An id beyond the year 2100 is not one of ours, and does not count.
void command_table_note_id(struct command_table *table, int64_t id);

// NULL when there is none.
struct command *command_table_find(const struct command_table *table, int64_t id);
struct command_target *command_table_target(const struct command_table *table, const char *key);

// NULL when there is room for one more, else a constant that says which limit is reached.
const char *command_table_full(const struct command_table *table, const char *key);

// Takes the command over. One that has ended stands in no device's list. Its id must not be in the table.
void command_table_add(struct command_table *table, struct command *command);

// Takes it out of its device's list, if it stands in one; it stays in the table. The target goes with its
// last command.
void command_table_leave_target(struct command_table *table, struct command *command);

// Takes it out of the table and frees it.
void command_table_drop(struct command_table *table, struct command *command);
void command_table_clear(struct command_table *table);
