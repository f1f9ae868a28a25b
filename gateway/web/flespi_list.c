// Answers in flespi's form; see flespi_list.h.
#include "gateway/web/flespi_list.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/web/reply.h"

struct http_answer flespi_fault(unsigned status, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *reason = text_vformat(format, arguments);
    va_end(arguments);
    json_t *fault = json_pack("{s:[{s:i, s:s}]}", "errors", "code", (int)status, "reason", reason);
    free(reason);
    return reply_json(status, fault != NULL ? fault
                                            : json_pack("{s:[{s:i, s:s}]}", "errors", "code", (int)status,
                                                        "reason", "this is not UTF-8"));
}

// --- the list ---

// False when it is no count.
static bool read_count(const struct http_request *request, const char *name, size_t *count, bool *given) {
    const char *text = http_query(request, name);
    char *end;
    if (text == NULL)
        return true;
    *given = true;
    *count = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && *end == '\0' && strlen(text) <= 9;
}

bool flespi_list_begin(struct flespi_list *list, const struct http_request *request,
                       struct http_answer *fault) {
    *list = (struct flespi_list){.fields.text = http_query(request, "fields"), .limit = SIZE_MAX};
    char *reason = fields_fault(list->fields.text);
    if (reason == NULL && !(read_count(request, "limit", &list->limit, &list->paged) &&
                            read_count(request, "offset", &list->offset, &list->paged)))
        reason = must_have(strdup("limit and offset are numbers of up to nine digits"));
    if (reason != NULL)
        *fault = flespi_fault(400, "%s", reason);
    else
        text_out_bytes(&list->result, "{\"result\":[", 11);
    bool right = reason == NULL;
    free(reason);
    return right;
}

void flespi_list_free(struct flespi_list *list) {
    text_out_free(&list->result);
    text_out_free(&list->errors);
    fields_free(&list->fields);
}

bool flespi_list_next(struct flespi_list *list) {
    size_t place = list->count++;
    if (place < list->offset || place - list->offset >= list->limit)
        return false;
    if (list->written++ > 0)
        text_out_bytes(&list->result, ",\n", 2);
    return true;
}

void flespi_list_error(struct flespi_list *list, unsigned code, int64_t id, const char *reason) {
    if (list->errors.length == 0)
        list->code = code;
    text_out_print(&list->errors,
                   "%s{\"code\":%u,\"id\":%lld,\"reason\":", list->errors.length > 0 ? "," : "", code,
                   (long long)id);
    text_out_string(&list->errors, reason);
    text_out_bytes(&list->errors, "}", 1);
}

void flespi_list_missing(struct flespi_list *list, int64_t id) {
    flespi_list_error(list, 404, id, "there is no such item");
}

void flespi_list_member(struct flespi_list *list, const char *name, const json_t *value) {
    if (value == NULL || !fields_want(&list->fields, name))
        return;
    char *text = text_of_value(value);
    if (list->result.text[list->result.length - 1] != '{')
        text_out_bytes(&list->result, ",", 1);
    text_out_string(&list->result, name);
    text_out_bytes(&list->result, ":", 1);
    text_out_bytes(&list->result, text, strlen(text));
    free(text);
}

static void add_item(struct flespi_list *list, const json_t *item) {
    const char *name;
    json_t *value;
    text_out_bytes(&list->result, "{", 1);
    json_object_foreach((json_t *)item, name, value) flespi_list_member(list, name, value);
    text_out_bytes(&list->result, "}", 1);
}

static int64_t id_of(const json_t *item) {
    const json_t *id = json_object_get(item, "id");
    return json_is_integer(id) ? json_integer_value(id) : -1;
}

void flespi_list_add(struct flespi_list *list, const json_t *items, const struct selector *selector) {
    size_t i;
    json_t *item;
    bool is_there[SELECTOR_IDS_MAX + 1] = {false}; // the last one is of those that are not asked for by id
    json_array_foreach(items, i, item) {
        is_there[selector_place(selector, id_of(item))] = true;
        if (selector_takes(selector, id_of(item), expression_member, item) && flespi_list_next(list))
            add_item(list, item);
    }
    for (i = 0; i < selector->count; i++)
        if (!is_there[i])
            flespi_list_missing(list, selector->ids[i]);
}

void flespi_list_close(struct flespi_list *list) {
    text_out_bytes(&list->result, "]", 1);
    if (list->errors.length > 0)
        text_out_print(&list->result, ",\"errors\":[%s]", list->errors.text);
    if (list->paged)
        text_out_print(&list->result, ",\"pagination\":{\"count\":%zu,\"limit\":%zu,\"offset\":%zu}",
                       list->count, list->limit < list->count ? list->limit : list->count, list->offset);
    text_out_bytes(&list->result, "}", 1);
}

struct http_answer flespi_list_end(struct flespi_list *list) {
    bool nothing = list->count == 0 && list->errors.length > 0;
    flespi_list_close(list);
    text_out_free(&list->errors);
    return reply_text(nothing ? list->code : 200, &list->result);
}

// --- devices ---

static json_t *id_value(const struct fleet_device *device) {
    return json_integer(device->id);
}

static json_t *name_value(const struct fleet_device *device) {
    return json_string(*device->name != '\0' ? device->name : device->ident);
}

static json_t *configuration_value(const struct fleet_device *device) {
    json_t *configuration = must_have(json_object()); // json_pack() takes as long as all the rest
    json_object_set_new_nocheck(configuration, "ident", json_string(device->ident));
    return configuration;
}

static json_t *type_value(const struct fleet_device *device) {
    return json_integer(device->type);
}

static json_t *protocol_value(const struct fleet_device *device) {
    return device->protocol > 0 ? json_integer(device->protocol) : NULL;
}

static json_t *channel_value(const struct fleet_device *device) {
    return device->channel >= 0 ? json_integer(device->channel) : NULL;
}

static json_t *connected_value(const struct fleet_device *device) {
    return device->connection != FLEET_UNKNOWN ? json_boolean(device->connection == FLEET_CONNECTED) : NULL;
}

static json_t *active_value(const struct fleet_device *device) {
    return device->heard > 0 ? json_integer(device->heard / 1000000) : NULL;
}

// The value of a field that is not known is NULL.
static const struct device_field {
    const char *name;
    json_t *(*value)(const struct fleet_device *device);
} device_fields[] = {{"id", id_value},
                     {"name", name_value},
                     {"configuration", configuration_value},
                     {"device_type_id", type_value},
                     {"protocol_id", protocol_value},
                     {"channel_id", channel_value},
                     {"connected", connected_value},
                     {"last_active", active_value}};
#define DEVICE_FIELDS (sizeof device_fields / sizeof device_fields[0])

void flespi_list_device(struct flespi_list *list, const struct fleet_device *device) {
    if (!flespi_list_next(list))
        return;
    text_out_bytes(&list->result, "{", 1);
    for (size_t i = 0; i < DEVICE_FIELDS; i++)
        if (fields_want(&list->fields, device_fields[i].name)) {
            json_t *value = device_fields[i].value(device);
            flespi_list_member(list, device_fields[i].name, value);
            json_decref(value);
        }
    text_out_bytes(&list->result, "}", 1);
}

// A value of a device for an expression: an expression_value.
static json_t *device_value(void *context, const char *name) {
    size_t length = strcspn(name, ".");
    json_t *value = NULL;
    for (size_t i = 0; i < DEVICE_FIELDS && value == NULL; i++)
        if (strncmp(device_fields[i].name, name, length) == 0 && device_fields[i].name[length] == '\0')
            value = device_fields[i].value(context);
    if (name[length] == '\0')
        return value;
    json_t *member = expression_member(value, name + length + 1);
    json_decref(value);
    return member;
}

bool flespi_is_there(const struct fleet_device *device) {
    return device != NULL && device->id >= 0 && *device->ident != '\0';
}

static int compare_ids(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

int64_t *flespi_ids(struct fleet *fleet, size_t *count) {
    int64_t *ids = must_have(calloc(fleet->count + 1, sizeof *ids));
    *count = 0;
    for (const struct fleet_device *device = fleet_newest(fleet); device != NULL; device = device->next)
        if (flespi_is_there(device))
            ids[(*count)++] = device->id;
    qsort(ids, *count, sizeof *ids, compare_ids);
    return ids;
}

bool flespi_device_taken(const struct fleet_device *device, const struct selector *selector) {
    return flespi_is_there(device) && selector_takes(selector, device->id, device_value, (void *)device);
}

static void each_by_id(struct fleet *fleet, const struct selector *selector, struct flespi_list *list,
                       bool (*fn)(void *context, const struct fleet_device *device), void *context) {
    for (size_t i = 0; i < selector->count; i++) {
        const struct fleet_device *device = fleet_by_id(fleet, selector->ids[i]);
        if (!flespi_is_there(device))
            flespi_list_missing(list, selector->ids[i]);
        else if (!fn(context, device))
            return;
    }
}

void flespi_each_device(struct fleet *fleet, const struct selector *selector, struct flespi_list *list,
                        bool (*fn)(void *context, const struct fleet_device *device), void *context) {
    if (selector->kind == SELECT_IDS) {
        each_by_id(fleet, selector, list, fn, context);
        return;
    }
    size_t count;
    int64_t *ids = flespi_ids(fleet, &count);
    for (size_t i = 0; i < count; i++) {
        const struct fleet_device *device = fleet_by_id(fleet, ids[i]);
        if (flespi_device_taken(device, selector) && !fn(context, device))
            break;
    }
    free(ids);
}
