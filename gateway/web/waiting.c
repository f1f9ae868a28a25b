// The commands that wait; see waiting.h.
#include "gateway/web/waiting.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

struct place;

struct command {
    char *key; // place/id
    const char *id;
    char *payload;
    struct place *place;
    struct command *prev, *next;
    UT_hash_handle hh;
};

struct place {
    char *name;
    struct command *commands; // in the order in which they came
    size_t count;
    UT_hash_handle hh;
};

struct waiting {
    struct place *places;
    struct command *commands; // of all places, by key
    size_t bytes;             // of their payloads
};

struct waiting *waiting_new(void) {
    return must_have(calloc(1, sizeof(struct waiting)));
}

static struct place *find_place(const struct waiting *waiting, const char *name) {
    struct place *place;
    HASH_FIND_STR(waiting->places, name, place);
    return place;
}

static struct command *find_command(const struct waiting *waiting, const char *name, const char *id) {
    char *key = text_format("%s/%s", name, id);
    struct command *command;
    HASH_FIND_STR(waiting->commands, key, command);
    free(key);
    return command;
}

static void drop(struct waiting *waiting, struct command *command) {
    struct place *place = command->place;
    HASH_DEL(waiting->commands, command);
    DL_DELETE(place->commands, command);
    place->count--;
    waiting->bytes -= strlen(command->payload);
    free(command->key);
    free(command->payload);
    free(command);
    if (place->count > 0)
        return;
    HASH_DEL(waiting->places, place);
    free(place->name);
    free(place);
}

void waiting_forget_all(struct waiting *waiting) {
    while (waiting->places != NULL)
        drop(waiting, waiting->places->commands);
}

void waiting_free(struct waiting *waiting) {
    waiting_forget_all(waiting);
    free(waiting);
}

static struct place *make_place(struct waiting *waiting, const char *name) {
    struct place *place = must_have(calloc(1, sizeof *place));
    place->name = must_have(strdup(name));
    HASH_ADD_KEYPTR(hh, waiting->places, place->name, strlen(place->name), place);
    return place;
}

static void add(struct waiting *waiting, const char *name, const char *id, char *payload) {
    struct command *command = must_have(calloc(1, sizeof *command));
    struct place *place = find_place(waiting, name);
    command->place = place != NULL ? place : make_place(waiting, name);
    command->key = text_format("%s/%s", name, id);
    command->id = command->key + strlen(name) + 1;
    command->payload = payload;
    HASH_ADD_KEYPTR(hh, waiting->commands, command->key, strlen(command->key), command);
    DL_APPEND(command->place->commands, command);
    command->place->count++;
    waiting->bytes += strlen(payload);
}

static bool has_room(const struct waiting *waiting, const char *name, const char *payload) {
    return HASH_COUNT(waiting->commands) < WAITING_MAX && waiting_count(waiting, name) < WAITING_EACH_MAX &&
           waiting->bytes + strlen(payload) <= WAITING_BYTES_MAX;
}

// What it says now may have more bytes than before.
static void replace(struct waiting *waiting, struct command *command, char *payload) {
    waiting->bytes += strlen(payload) - strlen(command->payload);
    free(command->payload);
    command->payload = payload;
    if (waiting->bytes > WAITING_BYTES_MAX)
        drop(waiting, command);
}

void waiting_set(struct waiting *waiting, const char *name, const char *id, char *payload) {
    struct command *command = find_command(waiting, name, id);
    if (command != NULL && payload != NULL)
        replace(waiting, command, payload);
    else if (command != NULL)
        drop(waiting, command);
    else if (payload != NULL && has_room(waiting, name, payload))
        add(waiting, name, id, payload);
    else
        free(payload);
}

size_t waiting_count(const struct waiting *waiting, const char *name) {
    const struct place *place = find_place(waiting, name);
    return place != NULL ? place->count : 0;
}

bool waiting_has(const struct waiting *waiting, const char *name, const char *id) {
    return find_command(waiting, name, id) != NULL;
}

void waiting_write(const struct waiting *waiting, const char *name, struct text_out *out) {
    const struct place *place = find_place(waiting, name);
    const struct command *command;
    DL_FOREACH(place != NULL ? place->commands : NULL, command) {
        if (command->prev->next != NULL) // not the first
            text_out_bytes(out, ",", 1);
        text_out_bytes(out, command->payload, strlen(command->payload));
    }
}

void waiting_each(const struct waiting *waiting, const char *name, void (*fn)(void *context, const char *id),
                  void *context) {
    const struct place *place = find_place(waiting, name);
    const struct command *command;
    DL_FOREACH(place != NULL ? place->commands : NULL, command)
    fn(context, command->id);
}
