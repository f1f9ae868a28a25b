// The API; see api.h.
#include "gateway/web/api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/clock.h"
#include "gateway/base/memory.h"
#include "gateway/base/text.h"
#include "gateway/broker/topic.h"
#include "gateway/config/registry.h"
#include "gateway/web/files.h"
#include "gateway/web/flespi.h"
#include "gateway/web/flespi_list.h"
#include "gateway/web/guard.h"
#include "gateway/web/prometheus.h"
#include "gateway/web/reply.h"
#include "gateway/web/row.h"
#include "gateway/web/text_out.h"
#include "schema/field.h"
#include "schema/schemas.h"

#define LIST_GOOD_FOR 1000000 // microseconds that one list is given to all who ask
#define ENTRIES_MAX   500     // log entries or messages in an answer
#define CAPTURE_TIME  600     // seconds, when nothing else is asked for
#define CAPTURE_MAX   3600
#define PARTS_MAX     2

struct api {
    struct api_parts parts;
    struct guard guard;
    struct http_snapshot *list;
    int64_t list_at; // by clock_ticks()
};

// A request on its way to the function that answers it.
struct call {
    struct api *api;
    struct http_request *request;
    const char *user;           // or NULL
    enum login_result login;    // why he is none
    char parts[PARTS_MAX][128]; // what stands in the path for each *
};

typedef struct http_answer call_fn(struct call *call);

// --- the list ---

static char *write_list(const struct api *api, size_t *length) {
    struct text_out out = {0};
    struct fleet_device *device = fleet_newest(api->parts.fleet);
    text_out_bytes(&out, "[", 1);
    for (; device != NULL; device = device->next) {
        text_out_bytes(&out, "{", 1);
        row_write(device, api->parts.waiting, &out);
        text_out_bytes(&out, device->next != NULL ? "},\n" : "}", device->next != NULL ? 3 : 1);
    }
    text_out_bytes(&out, "]", 1);
    return text_out_take(&out, length);
}

static void make_list(struct api *api) {
    char event[32];
    size_t length;
    char *text = write_list(api, &length);
    http_snapshot_release(api->list);
    api->list = http_snapshot_new("application/json", text, length);
    snprintf(event, sizeof event, "%llu", (unsigned long long)events_next(api->parts.events) - 1);
    http_snapshot_add(api->list, "Trackbus-Event", event);
    http_snapshot_add(api->list, "Cache-Control", "no-store");
    http_snapshot_add(api->list, "X-Content-Type-Options", "nosniff");
    http_snapshot_add(api->list, "Content-Security-Policy", "default-src 'none'");
    api->list_at = clock_ticks();
}

static struct http_answer get_devices(struct call *call) {
    struct api *api = call->api;
    if (api->list == NULL || clock_ticks() - api->list_at > LIST_GOOD_FOR) {
        if (http_snapshots_full())
            return reply_fault(503, "too many are reading the list slowly; try again");
        make_list(api);
    }
    return http_snapshot_answer(api->list);
}

// --- one device ---

// By id, or by ident.
static struct fleet_device *find_device(const struct call *call) {
    const char *text = call->parts[0];
    const struct fleet *fleet = call->api->parts.fleet;
    const char *end;
    int64_t id;
    struct fleet_device *device =
        topic_read_id(text, &id, &end) && *end == '\0' ? fleet_by_id(fleet, id) : NULL;
    if (device != NULL && *device->ident != '\0')
        return device;
    return device_ident_valid(text) ? fleet_by_ident(fleet, text) : NULL;
}

static struct http_answer no_device(const struct call *call) {
    return reply_fault(404, "there is no device \"%.64s\"", call->parts[0]);
}

static struct http_answer get_device(struct call *call) {
    const struct api_parts *parts = &call->api->parts;
    const struct fleet_device *device = find_device(call);
    struct text_out out = {0};
    if (device == NULL)
        return no_device(call);
    const char *listing = listed_get(parts->listed, device->ident);
    bool listed = listed_has(parts->listed, device->ident);
    bool up = parts->carrier->is_up(parts->carrier->context);
    if (device->id >= 0 && !dossier_open(parts->dossiers, device->id, clock_ticks()) && up)
        return HTTP_LATER;
    text_out_bytes(&out, "{", 1);
    row_write(device, parts->waiting, &out);
    text_out_bytes(&out, ",\"values\":{", 11);
    if (device->id >= 0)
        dossier_write(parts->dossiers, device->id, &out);
    text_out_print(&out, "},\"registry\":%s}", listing != NULL ? listing : listed ? "{}" : "null");
    return reply_text(200, &out);
}

static bool has_place(const struct history_point *point) {
    return point->latitude == point->latitude && point->longitude == point->longitude;
}

// A line needs two points.
static size_t write_coordinates(const struct history_point *points, size_t count, struct text_out *out) {
    size_t written = 0;
    for (size_t i = 0; i < count; i++)
        if (has_place(&points[i]))
            text_out_print(out, "%s[%.10g,%.10g]", written++ > 0 ? "," : "", points[i].longitude,
                           points[i].latitude);
    return written;
}

static void write_samples(const struct history_point *points, size_t count, struct text_out *out) {
    for (size_t i = 0; i < count; i++) {
        text_out_print(out, "%s{\"timestamp\":%.0f", i > 0 ? "," : "", points[i].time);
        text_out_member_number(out, "position.speed", points[i].speed);
        text_out_member_number(out, "battery.voltage", points[i].battery);
        if (has_place(&points[i]))
            text_out_print(out, ",\"located\":true");
        text_out_bytes(out, "}", 1);
    }
}

static struct http_answer get_track(struct call *call) {
    const struct fleet_device *device = find_device(call);
    struct text_out out = {0}, coordinates = {0};
    size_t count;
    if (device == NULL)
        return no_device(call);
    struct history_point *points = history_points(api_history(device), &count);
    size_t located = write_coordinates(points, count, &coordinates);
    text_out_print(&out, "{\"type\":\"Feature\",\"geometry\":{\"type\":\"%s\",\"coordinates\":[%s]},",
                   located >= 2 ? "LineString" : "MultiPoint", located > 0 ? coordinates.text : "");
    text_out_print(&out, "\"properties\":{\"ident\":\"%s\",\"samples\":[", device->ident);
    write_samples(points, count, &out);
    text_out_print(&out, "]}}");
    text_out_free(&coordinates);
    free(points);
    return reply_text(200, &out);
}

static struct http_answer entries(const struct journal *journal, const char *ident) {
    struct text_out out = {0};
    journal_write(journal, ident, ENTRIES_MAX, &out);
    return reply_text(200, &out);
}

static struct http_answer get_log(struct call *call) {
    const struct fleet_device *device = find_device(call);
    return device != NULL ? entries(call->api->parts.log, device->ident) : no_device(call);
}

static struct http_answer get_messages(struct call *call) {
    const struct fleet_device *device = find_device(call);
    return device != NULL ? entries(call->api->parts.messages, device->ident) : no_device(call);
}

// What is known of no device: bytes of strangers.
static struct http_answer get_other_log(struct call *call) {
    return entries(call->api->parts.log, "");
}

// --- commands and captures ---

static struct http_answer get_waiting(struct call *call) {
    const struct fleet_device *device = find_device(call);
    struct text_out out = {0};
    char place[ROW_PLACE_MAX];
    if (device == NULL)
        return no_device(call);
    text_out_bytes(&out, "[", 1);
    waiting_write(call->api->parts.waiting, row_place(device, place), &out);
    text_out_bytes(&out, "]", 1);
    return reply_text(200, &out);
}

// What is under way for a request.
struct errand {
    unsigned first, count; // numbers of the desk
    int64_t until;         // by clock_ticks()
    char mark[DESK_MARK_SIZE];
    char by[LOGIN_USER_MAX + 8]; // of a capture
    int seconds;                 // the same
    char listed[128];            // the ident of a device of the registry
    unsigned status;             // when all of it is taken
};

static json_t *answer_of(const struct errand *errand) {
    if (*errand->by != '\0')
        return json_pack("{s:s, s:i}", "by", errand->by, "seconds", errand->seconds);
    if (*errand->listed != '\0')
        return json_pack("{s:s}", "ident", errand->listed);
    return *errand->mark != '\0' ? json_pack("{s:s}", "mark", errand->mark)
                                 : json_pack("{s:i}", "canceled", (int)errand->count);
}

// Not now, until the broker has taken all of it.
static struct http_answer follow(const struct call *call, const struct errand *errand) {
    const char *reason;
    enum desk_state state = desk_states(call->api->parts.desk, errand->first, errand->count, &reason);
    if (state == DESK_REFUSED)
        return reply_fault(502, "the broker did not take it: %s", reason);
    if (state == DESK_WAITS && clock_ticks() > errand->until)
        return reply_fault(504, "the broker did not answer; it may have been published");
    if (state == DESK_WAITS)
        return HTTP_LATER;
    return reply_json(errand->status, answer_of(errand));
}

static struct errand *begin_errand(const struct call *call, unsigned status) {
    struct errand *errand = must_have(calloc(1, sizeof *errand));
    errand->until = clock_ticks() + DESK_TIME;
    errand->status = status;
    http_set_note(call->request, errand, free);
    return errand;
}

static struct http_answer not_now(const struct call *call, unsigned published) {
    const char *why = desk_hindrance(call->api->parts.desk);
    return published == 0 ? reply_fault(503, "%s; nothing was published", why)
                          : reply_fault(503, "%s; %u were published", why, published);
}

static struct http_answer post_command(struct call *call) {
    const struct fleet_device *device = find_device(call);
    const struct http_view *view = http_view(call->request);
    struct errand *errand = http_note(call->request);
    json_t *fault = NULL;
    char place[ROW_PLACE_MAX];
    if (errand != NULL)
        return follow(call, errand);
    if (device == NULL)
        return no_device(call);
    errand = begin_errand(call, 202);
    desk_mark(errand->mark);
    const struct codec *codec = codec_by_id((unsigned)device->protocol);
    json_t *commands = desk_check(view->body, view->length, codec != NULL ? codec->name : NULL, errand->mark,
                                  call->user, &fault);
    if (commands == NULL)
        return reply_json(422, fault);
    char *topic = text_format("command/gw/%s", row_place(device, place));
    errand->first = desk_publish(call->api->parts.desk, topic, commands, MQTT_NOT_RETAINED);
    errand->count = 1;
    free(topic);
    json_decref(commands);
    return errand->first == 0 ? not_now(call, 0) : follow(call, errand);
}

struct canceling {
    const struct call *call;
    struct errand *errand;
    const char *place, *only; // only: the id, or NULL for all
    bool away;
};

static void cancel(void *context, const char *id) {
    struct canceling *canceling = context;
    if (canceling->away || (canceling->only != NULL && strcmp(canceling->only, id) != 0))
        return;
    char *topic = text_format("state/gw/%s/commands-queue/%s", canceling->place, id);
    unsigned number = desk_publish(canceling->call->api->parts.desk, topic, NULL, MQTT_RETAINED);
    free(topic);
    canceling->away = number == 0;
    if (canceling->away)
        return;
    canceling->errand->first = canceling->errand->count++ == 0 ? number : canceling->errand->first;
}

static struct http_answer delete_commands(struct call *call) {
    const struct fleet_device *device = find_device(call);
    const char *only = *call->parts[1] != '\0' ? call->parts[1] : http_query(call->request, "id");
    struct errand *errand = http_note(call->request);
    char place[ROW_PLACE_MAX];
    if (errand != NULL)
        return follow(call, errand);
    if (device == NULL)
        return no_device(call);
    row_place(device, place);
    if (only != NULL && !waiting_has(call->api->parts.waiting, place, only))
        return reply_fault(404, "no command \"%.32s\" waits for this device", only);
    errand = begin_errand(call, 200);
    struct canceling canceling = {.call = call, .errand = errand, .place = place, .only = only};
    waiting_each(call->api->parts.waiting, place, cancel, &canceling);
    return canceling.away ? not_now(call, errand->count) : follow(call, errand);
}

static struct http_answer get_capture(struct call *call) {
    const struct api_parts *parts = &call->api->parts;
    const struct fleet_device *device = find_device(call);
    struct text_out out = {0};
    if (device == NULL)
        return no_device(call);
    json_t *running = captured_json(parts->captured, parts->gateways, device);
    char *text = text_of_json(running, TEXT_TIME_DIGITS);
    text_out_bytes(&out, "{\"running\":", 11);
    text_out_bytes(&out, text, strlen(text));
    text_out_bytes(&out, ",\"chunks\":", 10);
    journal_write(parts->chunks, device->ident, ENTRIES_MAX, &out);
    text_out_bytes(&out, "}", 1);
    json_decref(running);
    free(text);
    return reply_text(200, &out);
}

static struct http_answer get_captures(struct call *call) {
    const struct api_parts *parts = &call->api->parts;
    return reply_json(200, captured_json(parts->captured, parts->gateways, NULL));
}

// 0 when the body has another value, or is something else.
static int seconds_of(const struct http_view *view) {
    json_t *body = json_loadb(view->body, view->length, 0, NULL);
    const json_t *given = json_object_get(body, "seconds");
    json_int_t seconds = given != NULL ? json_integer_value(given) : CAPTURE_TIME;
    bool sound = view->length == 0 || (json_is_object(body) && json_object_size(body) == (given != NULL));
    json_decref(body);
    return sound && seconds >= 1 && seconds <= CAPTURE_MAX ? (int)seconds : 0;
}

// Asks all gateways; each user has captures of his own. seconds 0 ends his.
static struct http_answer ask_for_capture(const struct call *call, const struct fleet_device *device,
                                          int seconds, unsigned status) {
    struct errand *errand = begin_errand(call, status);
    errand->seconds = seconds;
    snprintf(errand->by, sizeof errand->by, "web:%s", call->user);
    json_t *request =
        json_pack("{s:s, s:i, s:s}", "device", device->ident, "seconds", seconds, "by", errand->by);
    errand->first =
        desk_publish(call->api->parts.desk, TOPIC_REQUEST TOPIC_CAPTURE, request, MQTT_NOT_RETAINED);
    errand->count = 1;
    json_decref(request);
    return errand->first == 0 ? not_now(call, 0) : follow(call, errand);
}

static struct http_answer post_capture(struct call *call) {
    const struct fleet_device *device = find_device(call);
    const struct errand *errand = http_note(call->request);
    int seconds = seconds_of(http_view(call->request));
    if (errand != NULL)
        return follow(call, errand);
    if (device == NULL)
        return no_device(call);
    if (seconds == 0)
        return reply_fault(422, "expected nothing, or {\"seconds\":N} with a number from 1 to %d",
                           CAPTURE_MAX);
    if (gateways_online(call->api->parts.gateways) ==
        0) // the broker keeps no request for one that comes later
        return reply_fault(503, "no gateway is online: nobody would hear of the capture");
    return ask_for_capture(call, device, seconds, 202);
}

static struct http_answer delete_capture(struct call *call) {
    const struct fleet_device *device = find_device(call);
    const struct errand *errand = http_note(call->request);
    if (errand != NULL)
        return follow(call, errand);
    return device != NULL ? ask_for_capture(call, device, 0, 200) : no_device(call);
}

// --- the registry in the broker ---

// listing NULL: it is taken out.
static struct http_answer publish_listing(const struct call *call, const json_t *listing) {
    struct errand *errand = begin_errand(call, 202);
    char *topic = text_format(TOPIC_REGISTRY TOPIC_DEVICES "%s", call->parts[0]);
    snprintf(errand->listed, sizeof errand->listed, "%s", call->parts[0]);
    errand->first = desk_publish(call->api->parts.desk, topic, listing, MQTT_RETAINED);
    errand->count = 1;
    free(topic);
    return errand->first == 0 ? not_now(call, 0) : follow(call, errand);
}

static struct http_answer put_listing(struct call *call) {
    const struct http_view *view = http_view(call->request);
    const struct errand *errand = http_note(call->request);
    json_t *fault = NULL;
    if (errand != NULL)
        return follow(call, errand);
    if (!device_ident_valid(call->parts[0]))
        return reply_fault(422, "\"%.64s\" is no ident", call->parts[0]);
    json_t *listing = desk_check_listing(call->parts[0], view->body, view->length, &fault);
    if (listing == NULL)
        return reply_json(422, fault);
    struct http_answer answer = publish_listing(call, listing);
    json_decref(listing);
    return answer;
}

static struct http_answer delete_listing(struct call *call) {
    const struct errand *errand = http_note(call->request);
    if (errand != NULL)
        return follow(call, errand);
    if (!listed_has(call->api->parts.listed, call->parts[0]))
        return reply_fault(404, "the broker's registry has no device \"%.64s\"", call->parts[0]);
    return publish_listing(call, NULL);
}

// --- what there is ---

static struct http_answer get_gateways(struct call *call) {
    struct gateways *gateways = call->api->parts.gateways;
    return reply_json(200, json_pack("{s:o, s:o}", "gateways", gateways_json(gateways), "channels",
                                     gateways_channels_json(gateways)));
}

static json_t *field_json(const struct field_info *info) {
    json_t *field =
        json_pack("{s:s, s:s, s:s, s:b, s:b}", "name", info->name, "type", field_type_name(info->type),
                  "description", info->description, "indexed", info->indexed, "alarm", info->alarm);
    if (*info->unit != '\0')
        json_object_set_new(field, "unit", json_string(info->unit));
    if (info->title != NULL)
        json_object_set_new(field, "title", json_string(info->title));
    return field;
}

static struct http_answer get_fields(struct call *call) {
    json_t *fields = must_have(json_array());
    for (int i = FIELD_NONE + 1; i < FIELD_COUNT; i++)
        json_array_append_new(fields, field_json(&field_table[i]));
    return reply_json(200, fields);
}

static struct http_answer get_commands(struct call *call) {
    const char *protocol = call->parts[0];
    if (codec_find(protocol) == NULL)
        return reply_fault(404, "there is no protocol \"%.64s\"", protocol);
    const json_t *catalogue = schema_of_commands(protocol);
    return reply_json(200, catalogue != NULL ? json_deep_copy(catalogue) : json_pack("{s:{}}", "$defs"));
}

static struct http_answer get_events(struct call *call) {
    const char *ident = http_query(call->request, "device");
    if (ident != NULL && fleet_by_ident(call->api->parts.fleet, ident) == NULL)
        return reply_fault(404, "there is no device with the ident \"%.64s\"", ident);
    return streams_open(call->api->parts.streams, call->request, ident,
                        guard_session(&call->api->guard, call->request));
}

static struct http_answer get_session(struct call *call) {
    const struct config *config = call->api->parts.config;
    bool up = call->api->parts.carrier->is_up(call->api->parts.carrier->context);
    bool needed = login_is_needed(call->api->parts.login);
    char *broker = text_format("%s:%d", config->mqtt.host, config->mqtt.port);
    json_t *session =
        json_pack("{s:s?, s:b, s:b, s:s, s:s?, s:s, s:s, s:s, s:b, s:I}", "user", call->user, "login", needed,
                  "commands", guard_refusal_to_command(&call->api->guard, call->user) == NULL, "version",
                  TRACKBUS_VERSION, "tiles", config->web.tiles, "attribution", config->web.attribution,
                  "prefix", config->mqtt.topic_prefix, "broker", broker, "broker_up", up, "gateways_online",
                  (json_int_t)gateways_online(call->api->parts.gateways));
    free(broker);
    return reply_json(200, session);
}

static struct http_answer get_metrics(struct call *call) {
    const struct api_parts *parts = &call->api->parts;
    struct text_out out = {0};
    size_t length;
    prometheus_write(parts->gateways, &out);
    text_out_print(
        &out,
        "# HELP trackbus_web_broker_up Whether the page's own connection to the broker is up (1).\n"
        "# TYPE trackbus_web_broker_up gauge\ntrackbus_web_broker_up %d\n"
        "# HELP trackbus_web_event_streams Event streams that are open.\n"
        "# TYPE trackbus_web_event_streams gauge\ntrackbus_web_event_streams %zu\n"
        "# HELP trackbus_web_devices Devices that the page knows.\n"
        "# TYPE trackbus_web_devices gauge\ntrackbus_web_devices %zu\n",
        parts->carrier->is_up(parts->carrier->context), streams_count(parts->streams), parts->fleet->count);
    char *text = text_out_take(&out, &length);
    return http_text(200, "text/plain; version=0.0.4; charset=utf-8", text, length);
}

static struct http_answer get_health(struct call *call) {
    return reply_json(200, json_pack("{s:s}", "status", "ok"));
}

// A gateway in this process is asked itself.
static struct http_answer get_ready(struct call *call) {
    const struct api_parts *parts = &call->api->parts;
    const json_t *own = gateways_own(parts->gateways);
    const json_t *up = json_object_get(own, "broker_up"), *writable = json_object_get(own, "store_writable");
    if (!parts->carrier->is_up(parts->carrier->context) || json_is_false(up))
        return reply_fault(503, "the broker is not connected");
    if (json_is_false(writable))
        return reply_fault(503, "the store cannot be written");
    if (json_is_true(json_object_get(own, "store_full")))
        return reply_fault(503, "the store is full");
    return reply_json(200, json_pack("{s:s}", "status", "ready"));
}

static struct http_answer log_in(struct call *call) {
    return guard_log_in(&call->api->guard, call->request);
}

static struct http_answer log_out(struct call *call) {
    return guard_log_out(&call->api->guard, call->request);
}

// --- which function ---

enum access { OPEN, LOOK, COMMAND };

static const struct route {
    const char *method, *path; // * stands for one part of the path
    enum access access;
    call_fn *fn;
} routes[] = {
    {"GET", "/healthz", OPEN, get_health},
    {"POST", "/login", OPEN, log_in},
    {"POST", "/api/login", OPEN, log_in},
    {"POST", "/api/logout", OPEN, log_out},
    {"GET", "/readyz", LOOK, get_ready},
    {"GET", "/metrics", LOOK, get_metrics},
    {"GET", "/api/session", LOOK, get_session},
    {"GET", "/api/devices", LOOK, get_devices},
    {"GET", "/api/devices/*", LOOK, get_device},
    {"GET", "/api/devices/*/track", LOOK, get_track},
    {"GET", "/api/devices/*/log", LOOK, get_log},
    {"GET", "/api/devices/*/messages", LOOK, get_messages},
    {"GET", "/api/devices/*/commands", LOOK, get_waiting},
    {"POST", "/api/devices/*/commands", COMMAND, post_command},
    {"DELETE", "/api/devices/*/commands", COMMAND, delete_commands},
    {"DELETE", "/api/devices/*/commands/*", COMMAND, delete_commands},
    {"GET", "/api/devices/*/capture", LOOK, get_capture},
    {"POST", "/api/devices/*/capture", COMMAND, post_capture},
    {"DELETE", "/api/devices/*/capture", COMMAND, delete_capture},
    {"PUT", "/api/registry/*", COMMAND, put_listing},
    {"DELETE", "/api/registry/*", COMMAND, delete_listing},
    {"GET", "/api/captures", LOOK, get_captures},
    {"GET", "/api/gateways", LOOK, get_gateways},
    {"GET", "/api/log", LOOK, get_other_log},
    {"GET", "/api/fields", LOOK, get_fields},
    {"GET", "/api/commands/*", LOOK, get_commands},
    {"GET", "/api/events", LOOK, get_events},
};
#define ROUTES (sizeof routes / sizeof routes[0])

static bool take_part(struct call *call, size_t index, const char *path, size_t length) {
    if (length == 0 || length >= sizeof call->parts[0] || index >= PARTS_MAX)
        return false;
    memcpy(call->parts[index], path, length);
    call->parts[index][length] = '\0';
    return true;
}

static bool matches(const char *pattern, const char *path, struct call *call) {
    size_t parts = 0;
    while (*pattern != '\0') {
        size_t length = strcspn(path, "/");
        if (*pattern == '*') {
            if (!take_part(call, parts++, path, length))
                return false;
            pattern++;
            path += length;
        } else if (*pattern++ != *path++) {
            return false;
        }
    }
    return *path == '\0';
}

static bool is_method(const char *method, const char *wanted) {
    return strcmp(method, wanted) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(wanted, "GET") == 0);
}

static struct http_answer give_file(const struct call *call, const struct file *file) {
    const char *known = http_header(call->request, "If-None-Match");
    bool has = known != NULL && strcmp(known, file->tag) == 0;
    struct http_answer answer = http_bytes(has ? 304 : 200, file->type, file->bytes, has ? 0 : file->length);
    http_add(answer, "ETag", file->tag);
    http_add(answer, "Cache-Control", "no-cache");
    return answer;
}

static const struct file *find_file(const char *path) {
    if (strcmp(path, "/login.html") == 0) // it is a form to be filled in
        return NULL;
    return file_find(strcmp(path, "/") == 0 ? "/index.html" : path);
}

static struct http_answer wrong_method(const char *allowed) {
    struct http_answer answer = reply_fault(405, "this takes %s", allowed);
    http_add(answer, "Allow", allowed);
    return answer;
}

static struct http_answer no_route(const struct call *call, const char *allowed) {
    const struct http_view *view = http_view(call->request);
    const struct file *file = find_file(view->path);
    if (call->user == NULL && login_is_needed(call->api->parts.login))
        return guard_refuse(&call->api->guard, call->request, call->login);
    if (*allowed != '\0')
        return wrong_method(allowed);
    if (file == NULL)
        return reply_fault(404, "there is nothing at this path");
    return is_method(view->method, "GET") ? give_file(call, file) : wrong_method("GET");
}

static struct http_answer take_route(const struct route *route, struct call *call) {
    bool needed = login_is_needed(call->api->parts.login);
    if (route->access != OPEN && needed && call->user == NULL)
        return guard_refuse(&call->api->guard, call->request, call->login);
    const char *refusal = guard_refusal_to_command(&call->api->guard, call->user);
    if (route->access == COMMAND && refusal != NULL)
        return reply_fault(403, "%s", refusal);
    return route->fn(call);
}

static struct http_answer find_route(struct call *call) {
    const struct http_view *view = http_view(call->request);
    char allowed[64] = "";
    for (size_t i = 0; i < ROUTES; i++) {
        size_t used = strlen(allowed);
        memset(call->parts, 0, sizeof call->parts);
        if (!matches(routes[i].path, view->path, call))
            continue;
        if (is_method(view->method, routes[i].method))
            return take_route(&routes[i], call);
        snprintf(allowed + used, sizeof allowed - used, "%s%s", used > 0 ? ", " : "", routes[i].method);
    }
    return no_route(call, allowed);
}

struct http_answer api_answer(void *context, struct http_request *request) {
    struct api *api = context;
    struct call call = {.api = api, .request = request};
    call.user = guard_user(&api->guard, request, &call.login);
    struct http_answer answer = flespi_has(http_view(request)->path)
                                    ? flespi_answer(&api->parts, &api->guard, request, call.user, call.login)
                                : guard_is_own(&api->guard, request) ? find_route(&call)
                                                                     : reply_fault(403, GUARD_NOT_OWN);
    if (answer.status != 0 && !answer.shared)
        guard_add_headers(&api->guard, answer);
    return answer;
}

struct http_answer api_refusal(const char *path, unsigned status, const char *why) {
    return flespi_has(path) ? flespi_fault(status, "%s", why) : reply_fault(status, "%s", why);
}

struct api *api_new(const struct api_parts *parts) {
    struct api *api = must_have(calloc(1, sizeof *api));
    api->parts = *parts;
    api->guard = (struct guard){parts->config, parts->login};
    return api;
}

void api_free(struct api *api) {
    http_snapshot_release(api->list);
    free(api);
}
