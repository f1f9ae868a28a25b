// Which items; see selector.h.
#include "gateway/web/selector.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"

size_t selector_place(const struct selector *selector, int64_t id) {
    size_t place = 0;
    while (place < selector->count && selector->ids[place] != id)
        place++;
    return place;
}

static bool has_id(const struct selector *selector, int64_t id) {
    return selector_place(selector, id) < selector->count;
}

// Digits and commas only. text ends at a NUL.
static char *read_ids(struct selector *selector, const char *text) {
    int64_t id;
    selector->kind = SELECT_IDS;
    selector->ids = must_have(calloc(SELECTOR_IDS_MAX, sizeof *selector->ids));
    while (topic_read_id(text, &id, &text)) {
        if (selector->count == SELECTOR_IDS_MAX)
            return text_format("the selector has more than %d ids", SELECTOR_IDS_MAX);
        if (!has_id(selector, id))
            selector->ids[selector->count++] = id;
        if (*text == '\0')
            return NULL;
        if (*text++ != ',')
            break;
    }
    return must_have(strdup("the selector has something else than ids between its commas"));
}

static char *read_expression(struct selector *selector, const char *text, size_t length) {
    bool braces = length >= 2 && text[0] == '{' && text[length - 1] == '}';
    selector->kind = SELECT_EXPRESSION;
    selector->expression =
        braces ? (struct expression){text + 1, length - 2, false} : (struct expression){text, length, true};
    return expression_fault(&selector->expression);
}

char *selector_read(struct selector *selector, const char *text, size_t length) {
    *selector = (struct selector){.kind = SELECT_ALL};
    if (length == 3 && memcmp(text, "all", 3) == 0)
        return NULL;
    if (length == 0 || *text < '0' || *text > '9' || memchr(text, '=', length) != NULL)
        return read_expression(selector, text, length);
    char *copy = must_have(strndup(text, length)), *reason = read_ids(selector, copy);
    free(copy);
    return reason;
}

void selector_free(struct selector *selector) {
    free(selector->ids);
    selector->ids = NULL;
}

bool selector_takes(const struct selector *selector, int64_t id, expression_value *value, void *context) {
    return selector->kind == SELECT_ALL   ? true
           : selector->kind == SELECT_IDS ? has_id(selector, id)
                                          : expression_holds(&selector->expression, value, context);
}

// --- fields ---

char *fields_fault(const char *text) {
    size_t names = 1;
    if (text == NULL)
        return NULL;
    if (strlen(text) > FIELDS_LENGTH_MAX)
        return text_format("fields are longer than %d bytes", FIELDS_LENGTH_MAX);
    for (; *text != '\0'; text++)
        names += *text == ',';
    return names > FIELDS_MAX ? text_format("there are more than %d fields", FIELDS_MAX) : NULL;
}

static bool has_name(const char *text, const char *name) {
    for (;; text++) {
        size_t length = strcspn(text, ",");
        if ((length == 3 && memcmp(text, "all", 3) == 0) || expression_is_like(text, length, name))
            return true;
        text += length;
        if (*text == '\0')
            return false;
    }
}

bool fields_want(struct fields *fields, const char *name) {
    if (fields->text == NULL || *fields->text == '\0' || strcmp(fields->text, "all") == 0)
        return true;
    if (fields->decided == NULL)
        fields->decided = must_have(json_object());
    const json_t *known = json_object_get(fields->decided, name);
    if (known != NULL)
        return json_is_true(known);
    bool wanted = has_name(fields->text, name);
    json_object_set_new_nocheck(fields->decided, name, json_boolean(wanted));
    return wanted;
}

void fields_free(struct fields *fields) {
    json_decref(fields->decided);
    fields->decided = NULL;
}
