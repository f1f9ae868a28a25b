// The commands that wait; see waiting.h.
#include "gateway/web/waiting.h"

#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include <utlist.h>

#include "gateway/base/memory.h"

struct command {
    char *id, *payload;
    struct command *prev, *next;
};

struct place {
    char *name;
    struct command *commands; // in the order in which they came
    size_t count;
    UT_hash_handle hh;
};

struct waiting {
    struct place *places;
    size_t count;
};

struct waiting *waiting_new(void) {
    return must_have(calloc(1, sizeof(struct waiting)));
}

static struct place *find_place(const struct waiting *waiting, const char *name) {
    struct place *place;
    HASH_FIND_STR(waiting->places, name, place);
    return place;
}

static struct command *find_command(const struct place *place, const char *id) {
    struct command *command = place != NULL ? place->commands : NULL;
    while (command != NULL && strcmp(command->id, id) != 0)
        command = command->next;
    return command;
}

static void drop(struct waiting *waiting, struct place *place, struct command *command) {
    DL_DELETE(place->commands, command);
    place->count--;
    waiting->count--;
    free(command->id);
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
        drop(waiting, waiting->places, waiting->places->commands);
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

static void add(struct waiting *waiting, struct place *place, const char *name, const char *id,
                char *payload) {
    struct command *command = must_have(calloc(1, sizeof *command));
    *command = (struct command){.id = must_have(strdup(id)), .payload = payload};
    if (place == NULL)
        place = make_place(waiting, name);
    DL_APPEND(place->commands, command);
    place->count++;
    waiting->count++;
}

void waiting_set(struct waiting *waiting, const char *name, const char *id, char *payload) {
    struct place *place = find_place(waiting, name);
    struct command *command = find_command(place, id);
    if (command != NULL && payload != NULL) {
        free(command->payload);
        command->payload = payload;
    } else if (command != NULL) {
        drop(waiting, place, command);
    } else if (payload != NULL && waiting->count < WAITING_MAX) {
        add(waiting, place, name, id, payload);
    } else {
        free(payload);
    }
}

size_t waiting_count(const struct waiting *waiting, const char *name) {
    const struct place *place = find_place(waiting, name);
    return place != NULL ? place->count : 0;
}

bool waiting_has(const struct waiting *waiting, const char *name, const char *id) {
    return find_command(find_place(waiting, name), id) != NULL;
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
