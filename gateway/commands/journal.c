// Publishes of many commands on disk; see journal.h.
#include "gateway/commands/journal.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

bool command_journal_is_full(const struct command_journal *journal) {
    return journal->count >= COMMAND_JOURNAL_MAX || journal->bytes >= COMMAND_JOURNAL_BYTES_MAX;
}

bool command_journal_has(const struct command_journal *journal, const char *key) {
    const struct command_publish *publish;
    DL_FOREACH(journal->publishes, publish) {
        if (strcmp(publish->key, key) == 0)
            return true;
    }
    return false;
}

struct command_publish *command_journal_find(const struct command_journal *journal, int64_t id) {
    struct command_publish *publish;
    DL_FOREACH(journal->publishes, publish) {
        if (publish->id <= id && id <= publish->id + (int64_t)publish->count)
            return publish;
    }
    return NULL;
}

// --- rows ---

// known may be all that there are, which no number of JSON is large enough for.
static json_t *origin_json(const struct command_origin *origin) {
    json_int_t known = origin->known > COMMANDS_PER_DEVICE_MAX ? -1 : (json_int_t)origin->known;
    return json_pack("{s:I, s:i, s:b, s:I, s:I, s:I, s:I}", "publish", (json_int_t)origin->publish, "mid",
                     origin->mid, "once", origin->once, "twin", (json_int_t)origin->twin, "leader",
                     (json_int_t)origin->leader, "root", (json_int_t)origin->root, "known", known);
}

static int64_t number_of(const json_t *object, const char *name) {
    return json_integer_value(json_object_get(object, name));
}

// Rows of an earlier version do not say whether one of them must not happen twice: that is not risked.
static struct command_origin read_origin(const json_t *origin) {
    return (struct command_origin){.publish = (uint64_t)number_of(origin, "publish"),
                                   .mid = (int)number_of(origin, "mid"),
                                   .once = !json_is_false(json_object_get(origin, "once")),
                                   .twin = number_of(origin, "twin"),
                                   .leader = number_of(origin, "leader"),
                                   .root = number_of(origin, "root"),
                                   .known = (size_t)number_of(origin, "known")};
}

static void set_row(struct command_journal *journal, struct command_publish *publish, const json_t *row) {
    journal->bytes -= publish->length;
    free(publish->row);
    publish->row = must_have(json_dumps(row, JSON_COMPACT));
    publish->length = strlen(publish->row);
    journal->bytes += publish->length;
}

// Of members with the same name the last one counts. To read and write the whole of 256 KiB would take milliseconds.
static void amend(struct command_journal *journal, const struct command_voice *voice,
                  struct command_publish *publish, json_t *members) {
    char *text = must_have(json_dumps(members, JSON_COMPACT));
    size_t more = strlen(text);
    publish->row = must_have(realloc(publish->row, publish->length + more));
    publish->row[publish->length - 1] = ',';
    memcpy(publish->row + publish->length, text + 1, more);
    publish->length += more - 1;
    journal->bytes += more - 1;
    store_put_command(voice->store, publish->id, publish->row);
    free(text);
    json_decref(members);
}

static struct command_publish *new_publish(struct command_journal *journal, int64_t id, const char *key,
                                           size_t count) {
    struct command_publish *publish = must_have(calloc(1, sizeof *publish));
    publish->id = id;
    publish->key = must_have(strdup(key));
    publish->count = count;
    DL_APPEND(journal->publishes, publish);
    journal->count++;
    journal->waiting += count;
    return publish;
}

void command_journal_add(struct command_journal *journal, const struct command_voice *voice, int64_t id,
                         const char *key, size_t count, size_t taken, const struct command_origin *origin,
                         json_t *row) {
    struct command_publish *publish = new_publish(journal, id, key, count);
    publish->origin = *origin;
    command_journal_took(journal, publish, taken);
    json_object_set_new(row, "taken", json_integer((json_int_t)taken));
    json_object_set_new(row, "key", json_string(key));
    json_object_set_new(row, "count", json_integer((json_int_t)count));
    json_object_set_new(row, "origin", origin_json(origin));
    set_row(journal, publish, row);
    store_put_command(voice->store, id, publish->row);
    json_decref(row);
}

bool command_journal_take_row(struct command_journal *journal, int64_t id, const json_t *row) {
    const char *key = json_string_value(json_object_get(row, "key"));
    const json_t *origin = json_object_get(row, "origin");
    int64_t count = number_of(row, "count"), taken = number_of(row, "taken");
    if (key == NULL || !json_is_string(json_object_get(row, "payload")) || count < 1 ||
        count > COMMANDS_PER_DEVICE_MAX || taken < 0 || taken > count)
        return false;
    struct command_publish *publish = new_publish(journal, id, key, (size_t)count);
    publish->origin = read_origin(origin);
    publish->canceled = json_is_true(json_object_get(row, "canceled"));
    command_journal_took(journal, publish, (size_t)taken);
    set_row(journal, publish, row);
    return true;
}

json_t *command_journal_open(const struct command_publish *publish) {
    return must_have(json_loadb(publish->row, publish->length, 0, NULL));
}

// --- what becomes of a publish ---

void command_journal_took(struct command_journal *journal, struct command_publish *publish, size_t count) {
    publish->taken += count;
    journal->waiting -= count;
}

static void resume_publish(struct command_journal *journal, struct command_publish *publish,
                           const struct command_table *table) {
    size_t taken = publish->taken;
    for (size_t place = taken; place < publish->count; place++) {
        const struct command *command = command_table_find(table, publish->id + 1 + (int64_t)place);
        if (command == NULL)
            continue;
        if (publish->origin.leader == 0)
            publish->origin.leader = command->id;
        publish->origin.publish = 0; // it carries that
        taken = place + 1;
    }
    command_journal_took(journal, publish, taken - publish->taken);
}

void command_journal_resume(struct command_journal *journal, const struct command_table *table) {
    struct command_publish *publish;
    DL_FOREACH(journal->publishes, publish) {
        resume_publish(journal, publish, table);
    }
}

// On disk too: after a crash nobody could say it again.
void command_journal_decide(struct command_journal *journal, const struct command_voice *voice,
                            struct command_publish *publish, bool again) {
    size_t known = publish->origin.known < publish->count ? publish->origin.known : publish->count;
    publish->origin.twin = 0;
    publish->origin.known = 0;
    if (again) { // what is left belongs to what came the first time
        publish->origin.publish = 0;
        publish->origin.leader = publish->origin.root;
    }
    if (again && known > publish->taken)
        command_journal_took(journal, publish, known - publish->taken);
    if (publish->taken == publish->count) {
        store_delete_command(voice->store, publish->id); // it goes at once
        return;
    }
    amend(journal, voice, publish,
          json_pack("{s:o, s:I}", "origin", origin_json(&publish->origin), "taken",
                    (json_int_t)publish->taken));
}

static void cancel(struct command_journal *journal, const struct command_voice *voice,
                   struct command_publish *publish) {
    publish->canceled = true;
    amend(journal, voice, publish, json_pack("{s:b}", "canceled", true));
}

void command_journal_cancel(struct command_journal *journal, const struct command_voice *voice,
                            const char *key) {
    struct command_publish *publish;
    DL_FOREACH(journal->publishes, publish) {
        if (!publish->canceled && publish->taken < publish->count && strcmp(publish->key, key) == 0)
            cancel(journal, voice, publish);
    }
}

static void free_publish(struct command_journal *journal, struct command_publish *publish) {
    DL_DELETE(journal->publishes, publish);
    journal->count--;
    journal->bytes -= publish->length;
    journal->waiting -= publish->count - publish->taken;
    free(publish->key);
    free(publish->row);
    free(publish);
}

void command_journal_drop(struct command_journal *journal, const struct command_voice *voice,
                          struct command_publish *publish) {
    store_delete_command(voice->store, publish->id);
    free_publish(journal, publish);
}

void command_journal_clear(struct command_journal *journal) {
    while (journal->publishes != NULL)
        free_publish(journal, journal->publishes);
}
