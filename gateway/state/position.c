// telemetry/position; see position.h.
#include "gateway/state/position.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"

static void add_part(struct position *position, const char *name, const char *value, size_t length) {
    int added = snprintf(position->text + position->length, sizeof position->text - position->length,
                         "%c\"%s\":%.*s", position->length == 0 ? '{' : ',', name, (int)length, value);
    if (position->length + (size_t)added < sizeof position->text - 1) // and a brace behind it
        position->length += (size_t)added;
    else
        position->text[position->length] = '\0';
}

static void add_member(struct position *position, const struct message_member *member) {
    static const char prefix[] = "position.";
    const char *key = field_table[member->field].key;
    if (member->field == FIELD_POSITION_ACCURACY) // what Home Assistant looks for
        add_part(position, "gps_accuracy", member->value, member->length);
    if (strncmp(key, prefix, sizeof prefix - 1) == 0)
        add_part(position, key + sizeof prefix - 1, member->value, member->length);
}

void position_collect(struct position *position, const struct message_member *members, size_t count) {
    bool latitude = false, longitude = false;
    position->length = 0;
    for (size_t i = 0; i < count; i++) {
        latitude = latitude || members[i].field == FIELD_POSITION_LATITUDE;
        longitude = longitude || members[i].field == FIELD_POSITION_LONGITUDE;
        add_member(position, &members[i]);
    }
    position->has_place = latitude && longitude;
    if (position->length > 0)
        position->text[position->length++] = '}';
}

void position_merge(struct position *position, const char *known, size_t length) {
    json_t *whole = known != NULL ? json_loadb(known, length, 0, NULL) : NULL;
    json_t *part = json_loadb(position->text, position->length, 0, NULL);
    char *text = NULL;
    json_object_del(part, "latitude"); // one of them alone is not a position
    json_object_del(part, "longitude");
    if (whole != NULL && json_object_update(whole, part) == 0)
        text = text_of_json(whole, TEXT_VALUE_DIGITS);
    if (text != NULL && strlen(text) < sizeof position->text)
        position->length = strlen(strcpy(position->text, text));
    free(text);
    json_decref(whole);
    json_decref(part);
}
