// The messages of devices, in flespi's form, as far as the page remembers them: whole ones while they are among the last of
// all devices, and before that the points of the trail.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/web/flespi_choice.h"

#define COUNT_MAX 10000 // messages in an answer

struct query {
    double from, to;
    size_t count;
    bool reverse;
    const char *fields;       // or NULL: those of the query of the address
    struct expression filter; // text NULL: none
};

// A message, or what the trail remembers of one.
struct item {
    double time;
    const struct fleet_device *device;
    const char *text; // NULL: point is what there is
    size_t length;
    struct history_point point;
};

struct items {
    struct item *item;
    size_t count, room;
    const struct fleet_device *device; // whose are being added
    struct history_point *points;      // of it; the time of those that were added is NAN
    size_t point_count;
};

// --- what is asked for ---

static bool read_time(const json_t *data, const char *name, double *time) {
    const json_t *given = json_object_get(data, name);
    double seconds = json_number_value(given);
    if (given == NULL || (json_is_number(given) && seconds == 0))
        return true;
    *time = seconds;
    return json_is_number(given) && seconds > 0;
}

static bool read_size(const json_t *data, size_t *count) {
    const json_t *given = json_object_get(data, "count");
    json_int_t number = json_integer_value(given);
    if (given != NULL && (!json_is_integer(given) || number < 0))
        return false;
    *count = number > 0 && number < COUNT_MAX ? (size_t)number : COUNT_MAX;
    return true;
}

static bool is_text(const json_t *data, const char *name) {
    const json_t *given = json_object_get(data, name);
    return given == NULL || json_is_string(given);
}

// NULL, or what is not understood.
static const char *unknown_key(const json_t *data) {
    static const char *const known[] = {"from", "to", "count", "reverse", "fields", "filter"};
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)data, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(known[i], key) != 0)
            i++;
        if (i == sizeof known / sizeof known[0])
            return key;
    }
    return NULL;
}

static char *read_filter(const json_t *data, struct query *query) {
    const char *filter = json_string_value(json_object_get(data, "filter"));
    if (filter == NULL || *filter == '\0')
        return NULL;
    query->filter = (struct expression){filter, strlen(filter), false};
    return expression_fault(&query->filter);
}

// NULL, or why not, for the caller to free. Texts in query are those of data.
static char *read_query(const json_t *data, struct query *query) {
    const json_t *reverse = json_object_get(data, "reverse");
    *query = (struct query){.from = -INFINITY, .to = INFINITY, .reverse = json_is_true(reverse)};
    if (!json_is_object(data))
        return must_have(strdup("data is not a JSON object"));
    if (unknown_key(data) != NULL)
        return text_format("data.%.64s is not supported", unknown_key(data));
    if (!read_time(data, "from", &query->from) || !read_time(data, "to", &query->to))
        return must_have(strdup("data.from and data.to are Unix seconds"));
    if (!read_size(data, &query->count))
        return must_have(strdup("data.count is a number of messages"));
    if ((reverse != NULL && !json_is_boolean(reverse)) || !is_text(data, "fields") ||
        !is_text(data, "filter"))
        return must_have(strdup("data.reverse is true or false, data.fields and data.filter are texts"));
    query->fields = json_string_value(json_object_get(data, "fields"));
    char *reason = fields_fault(query->fields);
    return reason != NULL ? reason : read_filter(data, query);
}

// --- what there is ---

static void add(struct items *items, const struct item *item) {
    if (items->count == items->room) {
        items->room = items->room * 2 + 64;
        items->item = must_have(realloc(items->item, items->room * sizeof *items->item));
    }
    items->item[items->count] = *item;
    items->item[items->count++].device = items->device;
}

// The point of the trail that was made of a message of that second is not needed.
static void take_point(struct items *items, double seconds) {
    for (size_t i = 0; i < items->point_count; i++)
        if (items->points[i].time == floor(seconds)) {
            items->points[i].time = NAN;
            return;
        }
}

static void add_message(void *context, const char *text, size_t length) {
    struct items *items = context;
    json_t *message = json_loadb(text, length, 0, NULL);
    const json_t *time = json_object_get(message, "timestamp"),
                 *heard = json_object_get(message, "server.timestamp");
    double measured = json_is_number(time) ? json_number_value(time) : json_number_value(heard);
    take_point(items, json_is_number(heard) ? fmin(measured, json_number_value(heard)) : measured);
    add(items, &(struct item){.time = measured, .text = text, .length = length});
    json_decref(message);
}

static void add_device(struct items *items, const struct api_parts *parts,
                       const struct fleet_device *device) {
    items->device = device;
    items->points = history_points(api_history(device), &items->point_count);
    journal_each(parts->messages, device->ident, add_message, items);
    for (size_t i = 0; i < items->point_count; i++)
        if (!isnan(items->points[i].time))
            add(items, &(struct item){.time = items->points[i].time, .point = items->points[i]});
    free(items->points);
}

static int by_time(const void *a, const void *b) {
    double first = ((const struct item *)a)->time, second = ((const struct item *)b)->time;
    return (first > second) - (first < second);
}

// --- writing ---

static void set_number(json_t *message, const char *name, double number) {
    if (!isnan(number))
        json_object_set_new(message, name, json_real(number));
}

static json_t *message_of_point(const struct item *item) {
    const struct fleet_device *device = item->device;
    json_t *message =
        json_pack("{s:s, s:I, s:s, s:I, s:I}", "ident", device->ident, "device.id", (json_int_t)device->id,
                  "device.name", *device->name != '\0' ? device->name : device->ident, "device.type.id",
                  (json_int_t)device->type, "timestamp", (json_int_t)item->time);
    set_number(message, "position.latitude", item->point.latitude);
    set_number(message, "position.longitude", item->point.longitude);
    set_number(message, "position.speed", item->point.speed);
    set_number(message, "battery.voltage", item->point.battery);
    return message;
}

// False when the filter leaves it out.
static bool write_item(struct flespi_list *list, const struct item *item, const struct query *query) {
    json_t *message =
        item->text != NULL ? json_loadb(item->text, item->length, 0, NULL) : message_of_point(item);
    const char *name;
    json_t *value;
    bool holds = query->filter.text == NULL || expression_holds(&query->filter, expression_member, message);
    if (holds && flespi_list_next(list)) {
        text_out_bytes(&list->result, "{", 1);
        json_object_foreach(message, name, value) flespi_list_member(list, name, value);
        text_out_bytes(&list->result, "}", 1);
    }
    json_decref(message);
    return holds;
}

static void write_items(struct flespi_list *list, const struct items *items, const struct query *query) {
    size_t written = 0;
    for (size_t i = 0; i < items->count && written < query->count; i++) {
        const struct item *item = &items->item[query->reverse ? items->count - 1 - i : i];
        if (item->time >= query->from && item->time <= query->to)
            written += write_item(list, item, query);
    }
}

static struct http_answer answer(struct flespi_asked *asked, const struct query *query) {
    const struct api_parts *parts = asked->call->parts;
    struct flespi_devices devices;
    struct items items = {0};
    struct http_answer fault;
    if (!flespi_choose(asked, &devices, &fault))
        return fault;
    for (size_t i = 0; i < devices.count; i++)
        add_device(&items, parts, devices.device[i]);
    if (items.count > 0)
        qsort(items.item, items.count, sizeof *items.item, by_time);
    if (query->fields != NULL)
        asked->list.fields.text = query->fields; // nothing is decided yet
    write_items(&asked->list, &items, query);
    free(items.item);
    return flespi_list_end(&asked->list);
}

struct http_answer flespi_get_messages(struct flespi_asked *asked) {
    const char *text = http_query(asked->call->request, "data");
    json_t *data = json_loads(text != NULL ? text : "{}", JSON_DECODE_ANY, NULL);
    struct query query;
    char *reason = read_query(data, &query);
    struct http_answer result = reason != NULL ? flespi_fault(400, "%s", reason) : answer(asked, &query);
    free(reason);
    json_decref(data);
    return result;
}
