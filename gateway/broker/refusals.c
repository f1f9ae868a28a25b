// Refusals; see refusals.h.
#include "gateway/broker/refusals.h"

#include <stdio.h>
#include <string.h>

#define LEVELS     6
#define REMEMBERED 60000 // milliseconds
#define SOON       1000  // milliseconds within which a broker closes that closes at a refusal

static bool has_digit(const char *level, size_t length) {
    for (size_t i = 0; i < length; i++)
        if (level[i] >= '0' && level[i] <= '9')
            return true;
    return false;
}

static void write_kind(const char *topic, const struct refusals_rule *rule, char kind[REFUSALS_KIND_MAX]) {
    size_t used = 0;
    if (rule->whole_topic) {
        snprintf(kind, REFUSALS_KIND_MAX, "%s", topic);
        return;
    }
    for (int level = 0; level < LEVELS && *topic != '\0'; level++) {
        size_t length = strcspn(topic, "/");
        bool kept = !has_digit(topic, length) && used + length + 2 < REFUSALS_KIND_MAX;
        if (kept)
            memcpy(kind + used, topic, length);
        used += kept ? length : 0;
        if (used + 2 < REFUSALS_KIND_MAX)
            kind[used++] = '/';
        topic += length + (topic[length] == '/');
    }
    kind[used] = '\0';
}

static struct refused_kind *find_kind(const struct refusals *refusals, const char *kind) {
    for (size_t i = 0; i < refusals->count; i++)
        if (strcmp(refusals->kinds[i].kind, kind) == 0)
            return (struct refused_kind *)&refusals->kinds[i];
    return NULL;
}

static struct refused_kind *find(const struct refusals *refusals, const char *topic,
                                 const struct refusals_rule *rule) {
    char kind[REFUSALS_KIND_MAX];
    if (refusals->count == 0)
        return NULL;
    write_kind(topic, rule, kind);
    return find_kind(refusals, kind);
}

static struct refused_kind *place_for_one(struct refusals *refusals) {
    struct refused_kind *oldest = refusals->kinds;
    if (refusals->count < REFUSALS_KINDS)
        return &refusals->kinds[refusals->count++];
    for (size_t i = 1; i < REFUSALS_KINDS; i++)
        if (refusals->kinds[i].since < oldest->since)
            oldest = &refusals->kinds[i];
    return oldest;
}

static struct refused_kind *make(struct refusals *refusals, const char *kind) {
    struct refused_kind *place = place_for_one(refusals);
    *place = (struct refused_kind){.in_a_row = 0};
    strcpy(place->kind, kind);
    return place;
}

static void note(struct refusals *refusals, const char *name, uint64_t now) {
    struct refused_kind *kind = find_kind(refusals, name);
    if (kind == NULL)
        kind = make(refusals, name);
    kind->in_a_row++;
    kind->since = now;
}

void refusals_note(struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                   uint64_t now) {
    char kind[REFUSALS_KIND_MAX];
    write_kind(topic, rule, kind);
    note(refusals, kind, now);
}

void refusals_note_said(struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                        uint64_t now) {
    write_kind(topic, rule, refusals->said.kind);
    refusals->said.since = now;
}

bool refusals_note_close(struct refusals *refusals, uint64_t now) {
    bool soon = refusals->said.since != 0 && now - refusals->said.since < SOON;
    if (soon)
        note(refusals, refusals->said.kind, now);
    refusals->said.since = 0;
    return soon;
}

void refusals_note_taken(struct refusals *refusals, const char *topic, const struct refusals_rule *rule) {
    struct refused_kind *kind = find(refusals, topic, rule);
    if (kind != NULL)
        *kind = refusals->kinds[--refusals->count];
}

const struct refusals_rule refusals_of_reports = {
    .whole_topic = true, .in_a_row = 5, .lasts = 10000, .grows = 10000};
const struct refusals_rule refusals_of_results = {.in_a_row = 1, .lasts = 20000, .grows = 20000};
const struct refusals_rule refusals_of_says = {
    .whole_topic = true, .in_a_row = 1, .lasts = 20000, .grows = 320000};
const struct refusals_rule refusals_of_others = {.in_a_row = 2, .lasts = 20000, .grows = 20000};

bool refusals_has(const struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                  uint64_t now) {
    const struct refused_kind *kind = find(refusals, topic, rule);
    return kind != NULL && now - kind->since < REMEMBERED;
}

static bool is_refused(const struct refused_kind *kind, const struct refusals_rule *rule) {
    return kind != NULL && kind->in_a_row >= rule->in_a_row;
}

static uint64_t pause_of(const struct refused_kind *kind, const struct refusals_rule *rule) {
    uint64_t pause = rule->lasts;
    for (unsigned i = rule->in_a_row; i < kind->in_a_row && pause < rule->grows; i++)
        pause *= 2;
    return pause;
}

bool refusals_forbid(const struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                     uint64_t now) {
    const struct refused_kind *kind = find(refusals, topic, rule);
    return is_refused(kind, rule) && now - kind->since < pause_of(kind, rule);
}

void refusals_note_tried(struct refusals *refusals, const char *topic, const struct refusals_rule *rule,
                         uint64_t now) {
    struct refused_kind *kind = find(refusals, topic, rule);
    if (is_refused(kind, rule))
        kind->since = now;
}
