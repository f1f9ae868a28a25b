// What the tests of state, telemetry, logs and the registry share; see state.h.
#include "tests/e2e/state.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct saying {
    struct rig *rig;
    char topic[96];
    size_t before;
};

static bool is_published(void *context) {
    const struct saying *saying = context;
    return rig_count(saying->rig, saying->topic) > saying->before;
}

void say(struct rig *rig, int device, const char *ident, const char *items) {
    char text[512];
    struct saying saying = {.rig = rig};
    snprintf(saying.topic, sizeof saying.topic, "message/gw/channels/+/%s", ident);
    saying.before = rig_count(rig, saying.topic);
    snprintf(text, sizeof text, "MT;6;%s;%s\r\n", ident, items);
    device_send(device, text);
    cr_assert(rig_wait(is_published, &saying, RIG_DEADLINE), "no message came of %s", text);
}

void expect_keys(const json_t *object, const char *keys) {
    char came[512] = "";
    char *text = json_dumps(object, JSON_SORT_KEYS);
    json_t *sorted = json_loads(text, 0, NULL); // jansson keeps the order of what it reads
    const char *key;
    json_t *value;
    json_object_foreach(sorted, key, value) {
        size_t used = strlen(came);
        snprintf(came + used, sizeof came - used, "%s%s", used > 0 ? " " : "", key);
    }
    cr_assert_str_eq(came, keys, "the keys are '%s', expected '%s': %s", came, keys, text);
    json_decref(sorted);
    free(text);
}

void stop_and_hear(struct rig *rig) {
    rig_gateway_stop(rig);
    rig_expect(rig, INSTANCE, "{'state':'offline'}"); // the last that it says
}

void kill_and_hear(struct rig *rig) {
    rig_gateway_kill(rig);
    rig_expect(rig, INSTANCE, "{'state':'offline'}");
}

const json_t *member(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (value == NULL) {
        char *text = json_dumps(object, JSON_ENCODE_ANY | JSON_SORT_KEYS);
        cr_assert_fail("no %s in %s", key, text);
    }
    return value;
}
