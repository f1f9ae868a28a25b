// flespi's HTTP API: who may, and which function answers; and the lists. See flespi.h.
#include "gateway/web/flespi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "codecs/codec.h"
#include "gateway/base/memory.h"
#include "gateway/broker/topic.h"
#include "gateway/web/flespi_choice.h"
#include "gateway/web/flespi_walk.h"
#include "schema/field.h"
#include "schema/schemas.h"

#define BASE      "/gw/"
#define TYPES_MAX 100

bool flespi_has(const char *path) {
    return topic_after(path, BASE) != NULL;
}

// --- lists ---

static bool list_device(void *context, const struct fleet_device *device) {
    flespi_list_device(context, device);
    return true;
}

static struct http_answer walk_devices(struct flespi_asked *asked) {
    struct flespi_walk *walk = flespi_walk_new(asked->call->parts->fleet, &asked->selector[0], &asked->list);
    if (walk == NULL)
        return flespi_fault(503, "too many are reading lists of devices; try again");
    const struct http_source source = {walk, flespi_walk_read, flespi_walk_free};
    struct http_answer answer;
    if (http_stream(asked->call->request, "application/json", &source, &answer) != NULL) {
        http_add(answer, "Cache-Control", "no-store");
        return answer;
    }
    flespi_walk_free(walk);
    return flespi_fault(503, "too many are reading streams; try again");
}

static struct http_answer get_devices(struct flespi_asked *asked) {
    struct fleet *fleet = asked->call->parts->fleet;
    if (asked->selector[0].kind != SELECT_IDS && fleet->count > FLESPI_AT_ONCE_MAX)
        return walk_devices(asked);
    flespi_each_device(fleet, &asked->selector[0], &asked->list, list_device, &asked->list);
    return flespi_list_end(&asked->list);
}

// items is taken over.
static struct http_answer list_of(struct flespi_asked *asked, json_t *items,
                                  const struct selector *selector) {
    flespi_list_add(&asked->list, items, selector);
    json_decref(items);
    return flespi_list_end(&asked->list);
}

static struct http_answer get_channels(struct flespi_asked *asked) {
    return list_of(asked, gateways_channels_json(asked->call->parts->gateways), &asked->selector[0]);
}

// The dictionary knows of no field which protocol has it.
static json_t *message_parameters(void) {
    json_t *parameters = must_have(json_array());
    for (int i = FIELD_NONE + 1; i < FIELD_COUNT; i++) {
        const struct field_info *info = &field_table[i];
        const char *type = info->type == FIELD_LIST ? "array" : field_type_name(info->type);
        if (info->list == FIELD_NONE)
            json_array_append_new(parameters, json_pack("{s:s, s:s, s:s*, s:s}", "name", info->name, "type",
                                                        type, "unit", *info->unit != '\0' ? info->unit : NULL,
                                                        "info", info->description));
    }
    return parameters;
}

static json_t *protocols_json(void) {
    json_t *protocols = must_have(json_array()), *parameters = message_parameters();
    for (size_t i = 0; codec_at(i) != NULL; i++)
        json_array_append_new(protocols, json_pack("{s:i, s:s, s:s, s:O}", "id", (int)codec_at(i)->id, "name",
                                                   codec_at(i)->name, "title", codec_at(i)->title,
                                                   "message_parameters", parameters));
    json_decref(parameters);
    return protocols;
}

static struct http_answer get_protocols(struct flespi_asked *asked) {
    return list_of(asked, protocols_json(), &asked->selector[0]);
}

// --- types of devices: those that there are ---

static json_t *type_json(int64_t type, const struct codec *codec) {
    const json_t *model = schema_of_model(type);
    const char *name = json_string_value(json_object_get(model, "model"));
    return json_pack("{s:I, s:s, s:s*, s:i}", "id", (json_int_t)type, "name",
                     name != NULL ? name : codec->title, "manufacturer",
                     json_string_value(json_object_get(model, "manufacturer")), "protocol_id",
                     (int)codec->id);
}

// Of a protocol it is decided once, however many devices speak it.
static bool is_taken(const struct selector *protocols, const struct codec *codec, json_t *decided) {
    const json_t *known = json_object_get(decided, codec->name);
    if (known != NULL)
        return json_is_true(known);
    json_t *protocol = json_pack("{s:i, s:s}", "id", (int)codec->id, "name", codec->name);
    bool taken = selector_takes(protocols, codec->id, expression_member, protocol);
    json_object_set_new(decided, codec->name, json_boolean(taken));
    json_decref(protocol);
    return taken;
}

// seen: those that are among the types already.
static void add_type(json_t *types, json_t *seen, int64_t type, const struct codec *codec) {
    char key[48];
    snprintf(key, sizeof key, "%lld of %u", (long long)type, codec->id);
    if (json_object_get(seen, key) != NULL)
        return;
    json_object_set_new(seen, key, json_true());
    json_array_append_new(types, type_json(type, codec));
}

static json_t *types_json(struct fleet *fleet, const struct selector *protocols) {
    json_t *types = must_have(json_array()), *seen = must_have(json_object()),
           *decided = must_have(json_object());
    const struct fleet_device *device = fleet_newest(fleet);
    for (; device != NULL && json_array_size(types) < TYPES_MAX; device = device->next) {
        const struct codec *codec = codec_by_id((unsigned)device->protocol);
        if (codec != NULL && device->type > 0 && is_taken(protocols, codec, decided))
            add_type(types, seen, device->type, codec);
    }
    json_decref(seen);
    json_decref(decided);
    return types;
}

static struct http_answer get_types(struct flespi_asked *asked) {
    return list_of(asked, types_json(asked->call->parts->fleet, &asked->selector[0]), &asked->selector[1]);
}

// --- which function ---

static const struct route {
    const char *method, *path; // behind BASE; * stands for a selector, @ for any text
    bool commands;             // needs who may command
    struct http_answer (*fn)(struct flespi_asked *asked);
} routes[] = {
    {"GET", "devices/*", false, get_devices},
    {"GET", "devices/*/telemetry/@", false, flespi_get_telemetry},
    {"GET", "devices/*/messages", false, flespi_get_messages},
    {"GET", "devices/*/commands-queue", false, flespi_get_commands},
    {"GET", "devices/*/commands-queue/*", false, flespi_get_commands},
    {"POST", "devices/*/commands-queue", true, flespi_post_commands},
    {"GET", "channels/*", false, get_channels},
    {"GET", "channel-protocols/*", false, get_protocols},
    {"GET", "channel-protocols/*/device-types/*", false, get_types},
};
#define ROUTES (sizeof routes / sizeof routes[0])

static bool matches(const char *pattern, const char *path) {
    while (*pattern != '\0') {
        size_t length = strcspn(path, "/");
        bool part = *pattern == '*' || *pattern == '@';
        if (part ? length == 0 : *pattern != *path)
            return false;
        path += part ? length : 1;
        pattern++;
    }
    return *path == '\0';
}

// Cuts the parts out of path, which matches.
static void cut(const char *pattern, char *path, struct flespi_asked *asked) {
    for (size_t parts = 0; *pattern != '\0'; pattern++) {
        size_t length = strcspn(path, "/");
        bool part = *pattern == '*' || *pattern == '@';
        if (part) {
            asked->part[parts++] = path;
            path += length;
            *path++ = '\0'; // a slash, or the end
            pattern += pattern[1] == '/';
        } else {
            path++;
        }
    }
}

// NULL, or why a selector makes no sense, for the caller to free.
static char *read_selectors(const char *pattern, struct flespi_asked *asked) {
    size_t parts = 0;
    char *reason = NULL;
    for (; *pattern != '\0' && reason == NULL; pattern++) {
        if (*pattern == '*')
            reason = selector_read(&asked->selector[parts], asked->part[parts], strlen(asked->part[parts]));
        parts += *pattern == '*' || *pattern == '@';
    }
    return reason;
}

static struct http_answer answer_asked(const struct route *route, struct flespi_asked *asked) {
    struct http_answer answer;
    char *reason = read_selectors(route->path, asked);
    if (reason != NULL)
        answer = flespi_fault(400, "%s", reason);
    else if (flespi_list_begin(&asked->list, asked->call->request, &answer))
        answer = route->fn(asked);
    free(reason);
    flespi_list_free(&asked->list);
    for (size_t i = 0; i < FLESPI_PARTS_MAX; i++)
        selector_free(&asked->selector[i]);
    return answer;
}

static struct http_answer take_route(const struct flespi_call *call, const struct route *route) {
    const char *refusal = route->commands ? guard_refusal_to_command(call->guard, call->user) : NULL;
    if (refusal != NULL)
        return flespi_fault(403, "%s", refusal);
    char *path = must_have(strdup(http_view(call->request)->path + strlen(BASE)));
    struct flespi_asked asked = {.call = call};
    cut(route->path, path, &asked);
    struct http_answer answer = answer_asked(route, &asked);
    free(path);
    return answer;
}

static bool is_method(const char *method, const char *wanted) {
    return strcmp(method, wanted) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(wanted, "GET") == 0);
}

static struct http_answer wrong_method(const char *allowed) {
    struct http_answer answer = flespi_fault(405, "this takes %s", allowed);
    http_add(answer, "Allow", allowed);
    return answer;
}

static struct http_answer find_route(const struct flespi_call *call) {
    const struct http_view *view = http_view(call->request);
    char allowed[64] = "";
    for (size_t i = 0; i < ROUTES; i++) {
        size_t used = strlen(allowed);
        if (!matches(routes[i].path, view->path + strlen(BASE)))
            continue;
        if (is_method(view->method, routes[i].method))
            return take_route(call, &routes[i]);
        snprintf(allowed + used, sizeof allowed - used, "%s%s", used > 0 ? ", " : "", routes[i].method);
    }
    return *allowed != '\0' ? wrong_method(allowed)
                            : flespi_fault(404, "trackbus does not have this part of flespi's API");
}

static struct http_answer refuse_login(const struct flespi_call *call) {
    unsigned status;
    const char *reason = guard_login_fault(call->request, call->login, &status);
    struct http_answer answer = flespi_fault(status, "%s", reason);
    if (call->login == LOGIN_TOO_OFTEN)
        http_add(answer, "Retry-After", "60");
    return answer;
}

struct http_answer flespi_answer(const struct api_parts *parts, const struct guard *guard,
                                 struct http_request *request, const char *user, enum login_result result) {
    const struct flespi_call call = {parts, guard, request, user, result};
    if (!guard_is_own(guard, request))
        return flespi_fault(403, GUARD_NOT_OWN);
    if (login_is_needed(guard->login) && user == NULL)
        return refuse_login(&call);
    return find_route(&call);
}
