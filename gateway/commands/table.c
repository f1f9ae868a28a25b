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

int64_t command_table_new_ids(struct command_table *table, int64_t now, size_t count) {
    int64_t first = command_table_new_id(table, now), last = first;
    while (last < first + (int64_t)count - 1) {
        int64_t id = command_table_new_id(table, last + 1);
        first = id == last + 1 ? first : id; // one between is another's
        last = id;
    }
    return first;
}

void command_table_note_id(struct command_table *table, int64_t id) {
    if (id > table->last_id && id < ID_MAX)
        table->last_id = id;
}

// of_device: so many wait for it. times: how often the limits count.
static const char *find_limit(const struct command_table *table, size_t of_device, size_t times) {
    if (of_device >= times * COMMANDS_PER_DEVICE_MAX)
        return "as many commands as may wait for one device wait already (1000)";
    if (table->bytes >= times * COMMANDS_BYTES_MAX)
        return "the commands that wait are as large as they may be in all (256 MiB)";
    // Ends that nobody can be told for now wait too.
    bool full =
        table->pending >= times * COMMANDS_MAX || HASH_COUNT(table->by_id) >= times * COMMANDS_KNOWN_MAX;
    return full ? "as many commands as may wait in all wait already (100000)" : NULL;
}

const char *command_table_full(const struct command_table *table, const char *key) {
    const struct command_target *target = command_table_target(table, key);
    return find_limit(table, target != NULL ? target->count - target->twins : 0, 1);
}

const char *command_table_full_of_twins(const struct command_table *table, const char *key) {
    const struct command_target *target = command_table_target(table, key);
    return find_limit(table, target != NULL ? target->count : 0, 2);
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

// From the end, where nearly all belong.
static void insert(struct command **list, struct command *command) {
    struct command *before = *list != NULL ? (*list)->prev : NULL; // the last one
    while (before != NULL && by_priority_then_age(before, command) > 0)
        before = before != *list ? before->prev : NULL;
    if (before == NULL)
        DL_PREPEND(*list, command);
    else
        DL_APPEND_ELEM(*list, before, command);
}

static void join_target(struct command_table *table, struct command *command) {
    struct command_target *target = command_table_target(table, command->key);
    command->target = target != NULL ? target : new_target(table, command->key);
    command->target->count++;
    command->target->twins += command->twin != 0;
    table->twins += command->twin != 0;
    command->size = json_dumpb(command->definition, NULL, 0, JSON_COMPACT);
    table->pending++;
    table->bytes += command->size;
    insert(&command->target->commands, command);
    command_table_note_begun(command);
}

void command_table_note_begun(struct command *command) {
    struct command_target *target = command->target;
    bool begun = target != NULL && (command->state == COMMAND_SENT || command->attempts > 0);
    if (target == NULL || begun == command->begun)
        return;
    command->begun = begun;
    if (begun)
        DL_APPEND2(target->begun, command, prev_begun, next_begun);
    else
        DL_DELETE2(target->begun, command, prev_begun, next_begun);
}

static void note_part(const struct command_table *table, struct command *command) {
    struct command *leader = command->leader != 0 ? command_table_find(table, command->leader) : command;
    if (leader != NULL && command->part > leader->parts)
        leader->parts = command->part;
}

void command_table_add(struct command_table *table, struct command *command) {
    note_part(table, command);
    HASH_ADD(hh, table->by_id, id, sizeof command->id, command);
    if (!command_has_ended(command))
        join_target(table, command);
}

void command_table_leave_target(struct command_table *table, struct command *command) {
    struct command_target *target = command->target;
    if (target == NULL)
        return;
    if (command->begun)
        DL_DELETE2(target->begun, command, prev_begun, next_begun);
    command->begun = false;
    target->twins -= command->twin != 0;
    table->twins -= command->twin != 0;
    if (table->swept_next == command)
        table->swept_next = command->next;
    DL_DELETE(target->commands, command);
    command->target = NULL;
    table->pending--;
    table->bytes -= command->size;
    if (--target->count > 0)
        return;
    if (target->due)
        DL_DELETE2(table->due, target, prev_due, next_due);
    if (table->swept == target)
        command_table_sweep(table, target->hh.next);
    if (table->roused == target)
        table->roused = target->hh.next;
    HASH_DEL(table->targets, target);
    free(target->key);
    free(target);
}

void command_table_is_no_twin(struct command_table *table, struct command *command) {
    if (command->target != NULL && command->twin != 0) {
        command->target->twins--;
        table->twins--;
    }
    command->twin = 0;
}

void command_table_sweep(struct command_table *table, struct command_target *target) {
    table->swept = target;
    table->swept_next = NULL;
    table->sweeping = false;
}

// --- walks ---

void command_walk_begin(struct command_table *table, struct command_walk *walk) {
    command_walk_end(table, walk);
    walk->at = table->by_id;
    walk->under_way = true;
    LL_PREPEND(table->walks, walk);
}

void command_walk_end(struct command_table *table, struct command_walk *walk) {
    if (walk->under_way)
        LL_DELETE(table->walks, walk);
    walk->under_way = false;
}

struct command *command_walk_next(struct command_table *table, struct command_walk *walk) {
    struct command *command = walk->under_way ? walk->at : NULL;
    if (command != NULL)
        walk->at = command->hh.next;
    else
        command_walk_end(table, walk);
    return command;
}

static void pass_over(struct command_table *table, const struct command *command) {
    struct command_walk *walk;
    LL_FOREACH(table->walks, walk) {
        if (walk->at == command)
            walk->at = command->hh.next;
    }
}

// --- the end ---

void command_table_drop(struct command_table *table, struct command *command) {
    command_table_leave_target(table, command);
    pass_over(table, command);
    if (command->ending)
        DL_DELETE(table->ending, command);
    HASH_DEL(table->by_id, command);
    command_free(command);
}

void command_table_clear(struct command_table *table) {
    struct command *command, *next;
    HASH_ITER(hh, table->by_id, command, next) {
        command_table_drop(table, command);
    }
}
