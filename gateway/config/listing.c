// Devices of the registry as they are written; see listing.h.
#include "gateway/config/listing.h"

#include <stdlib.h>

#include "gateway/base/text.h"
#include "gateway/config/ident.h"
#include "schema/json_schema.h"
#include "schema/schemas.h"

// Without an id, that which it would have outside the registry.
static int64_t id_of(const char *ident, const json_t *json) {
    const json_t *id = json_object_get(json, "id");
    return json_is_integer(id) || ident == NULL ? json_schema_integer(id) : device_default_id(ident);
}

struct config_device listing_of(const char *ident, const json_t *json) {
    const char *name = json_string_value(json_object_get(json, "name"));
    return (struct config_device){.ident = ident,
                                  .id = id_of(ident, json),
                                  .name = name != NULL ? name : ident,
                                  .type_id = json_schema_integer(json_object_get(json, "type_id"))};
}

static const json_t *rules_of_devices(void) {
    const json_t *keys = json_object_get(schema_find("config.schema.json"), "properties");
    return json_object_get(json_object_get(keys, "devices"), "items");
}

json_t *listing_rules(void) {
    json_t *rules = json_deep_copy(rules_of_devices());
    json_object_del(json_object_get(rules, "properties"), "ident");
    json_object_del(rules, "required");
    return rules;
}

static unsigned check_ident(const char *ident, config_fault_fn *fault, void *context) {
    const json_t *root = schema_find("config.schema.json");
    const json_t *rule = json_object_get(json_object_get(rules_of_devices(), "properties"), "ident");
    json_t *text = json_string(ident);
    unsigned faults = json_schema_check(root, rule, text, "$.ident", fault, context);
    json_decref(text);
    return faults;
}

static void report_json_fault(const json_error_t *error, config_fault_fn *fault, void *context) {
    char *problem =
        text_format("line %d, column %d: %s, expected JSON", error->line, error->column, error->text);
    fault(context, "$", problem);
    free(problem);
}

json_t *listing_read(const json_t *rules, const char *ident, const char *payload, size_t length,
                     config_fault_fn *fault, void *context, struct config_device *device) {
    json_error_t error;
    json_t *json = json_loadb(payload, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (json == NULL) {
        report_json_fault(&error, fault, context);
        return NULL;
    }
    unsigned faults =
        check_ident(ident, fault, context) + json_schema_check(rules, rules, json, "$", fault, context);
    if (faults > 0) {
        json_decref(json);
        return NULL;
    }
    *device = listing_of(ident, json);
    return json;
}
