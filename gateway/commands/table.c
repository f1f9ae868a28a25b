// The table of commands; see table.h.
#include "gateway/commands/table.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"

#define ID_MAX 4102444800000000 // microseconds since 1970; a row of an earlier version may have another's

struct command *command_table_find(const struct command_table *table, int64_t id) {
    struct command *command;
    HASH_FIND(hh, table->by_id, &id, sizeof id, command);
    return command;
}

struct command_target *command_table_target(const struct command_table *table, const char *key) {
    struct command_target *target;
    HASH_FIND_STR(table->targets, key, target);
    return target;
}

int64_t command_table_new_id(struct command_table *table, int64_t now) {
    do { // the clock may have been set back, and the broker may hold commands of then
        table->last_id = now > table->last_id ? now : table->last_id + 1;
    } while (command_table_find(table, table->last_id) != NULL);
    return table->last_id;
}

void command_table_note_id(struct command_table *table, int64_t id) {
    if (id > table->last_id && id < ID_MAX)
        table->last_id = id;
}

const char *command_table_full(const struct command_table *table, const char *key) {
    const struct command_target *target = command_table_target(table, key);
    if (target != NULL && target->count >= COMMANDS_PER_DEVICE_MAX)
        return "as many commands as may wait for one device wait already (1000)";
    if (table->bytes >= COMMANDS_BYTES_MAX)
        return "the commands that wait are as large as they may be in all (256 MiB)";
    // Ends that nobody can be told for now wait too.
    bool full = table->pending >= COMMANDS_MAX || HASH_COUNT(table->by_id) >= COMMANDS_KNOWN_MAX;
    return full ? "as many commands as may wait in all wait already (100000)" : NULL;
}

static struct command_target *new_target(struct command_table *table, const char *key) {
    struct command_target *target = must_have(calloc(1, sizeof *target));
    target->key = must_have(strdup(key));
    HASH_ADD_KEYPTR(hh, table->targets, target->key, strlen(target->key), target);
    return target;
}

static int by_priority_then_age(const struct command *a, const struct command *b) {
    if (a->priority != b->priority)
        return a->priority > b->priority ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static void join_target(struct command_table *table, struct command *command) {
    struct command_target *target = command_table_target(table, command->key);
    command->target = target != NULL ? target : new_target(table, command->key);
    command->target->count++;
    command->size = json_dumpb(command->definition, NULL, 0, JSON_COMPACT);
    table->pending++;
    table->bytes += command->size;
    DL_INSERT_INORDER(command->target->commands, command, by_priority_then_age);
}

void command_table_add(struct command_table *table, struct command *command) {
    HASH_ADD(hh, table->by_id, id, sizeof command->id, command);
    if (!command_has_ended(command))
        join_target(table, command);
}

void command_table_leave_target(struct command_table *table, struct command *command) {
    struct command_target *target = command->target;
    if (target == NULL)
        return;
    DL_DELETE(target->commands, command);
    command->target = NULL;
    table->pending--;
    table->bytes -= command->size;
    if (--target->count > 0)
        return;
    HASH_DEL(table->targets, target);
    free(target->key);
    free(target);
}

void command_table_drop(struct command_table *table, struct command *command) {
    command_table_leave_target(table, command);
    HASH_DEL(table->by_id, command);
    command_free(command);
}

void command_table_clear(struct command_table *table) {
    struct command *command, *next;
    HASH_ITER(hh, table->by_id, command, next) {
        command_table_drop(table, command);
    }
}
