// Reading the configuration again; see reload.h.
#include "gateway/config/reload.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"
#include "gateway/config/config.h"

// What can change while the gateway runs: keys, or sections as a whole.
static const char *const changeable[] = {"devices",
                                         "devices_file",
                                         "messages",
                                         "unknown_devices",
                                         "telemetry",
                                         "telemetry_interval",
                                         "limits",
                                         "home_assistant.unknown_devices",
                                         "geolocation",
                                         "commands.ttl",
                                         "commands.timeout",
                                         "log",
                                         "commands.max_attempts",
                                         "commands.udp_reachable"};

static bool can_change(const char *path) {
    for (size_t i = 0; i < sizeof changeable / sizeof changeable[0]; i++)
        if (strcmp(changeable[i], path) == 0)
            return true;
    return false;
}

static void add_path(char **list, const char *path) {
    char *longer = text_format("%s%s%s", *list, **list != '\0' ? ", " : "", path);
    free(*list);
    *list = longer;
}

// Defaults have been filled in, so that both have all keys.
static void compare(const json_t *old, const json_t *fresh, const char *section, char **list) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)fresh, key, value) {
        const json_t *before = json_object_get(old, key);
        char *path = text_format("%s%s%s", section, *section != '\0' ? "." : "", key);
        if (!can_change(path) && !json_equal(before, value)) {
            if (json_is_object(value) && json_is_object(before))
                compare(before, value, path, list);
            else
                add_path(list, path);
        }
        free(path);
    }
}

static bool same_text(const char *one, const char *other) {
    return (one == NULL) == (other == NULL) && (one == NULL || strcmp(one, other) == 0);
}

static char *list_of_restarts(const struct config *config, const struct config *fresh) {
    char *list = text_format("%s", "");
    compare(config->json, fresh->json, "", &list);
    if (config->password_text != NULL && fresh->password_text != NULL &&
        !same_text(config->password_text, fresh->password_text))
        add_path(&list, "mqtt.password_file");
    return list;
}

// The other configuration is left with the texts of before, which it frees.
static void take_geolocation(struct config *config, struct config *fresh) {
    char *url = config->geolocation.url, *key = config->geolocation.key;
    config->geolocation = fresh->geolocation;
    fresh->geolocation.url = url;
    fresh->geolocation.key = key;
}

// No texts, which the other configuration owns.
static void take(struct config *config, const struct config *fresh) {
    config->unknown_devices = fresh->unknown_devices;
    config->on_channels = fresh->on_channels;
    config->on_devices = fresh->on_devices;
    config->telemetry = fresh->telemetry;
    config->telemetry_interval = fresh->telemetry_interval;
    config->limits = fresh->limits;
    config->home_assistant.unknown_devices = fresh->home_assistant.unknown_devices;
    config->commands.ttl = fresh->commands.ttl;
    config->commands.timeout = fresh->commands.timeout;
    config->commands.max_attempts = fresh->commands.max_attempts;
    config->commands.udp_reachable = fresh->commands.udp_reachable;
    config->log_level = fresh->log_level;
    config->log_format = fresh->log_format;
}

struct config_devices *config_take(struct config *config, struct config *fresh, char **restart) {
    struct config_devices *devices = fresh->devices;
    *restart = list_of_restarts(config, fresh);
    take(config, fresh);
    take_geolocation(config, fresh);
    fresh->devices = NULL;
    return devices;
}

struct config_devices *config_reload(struct config *config, char **restart, config_fault_fn *fault,
                                     void *context) {
    struct config *fresh = config_load(config->file, fault, context);
    if (fresh == NULL)
        return NULL;
    struct config_devices *devices = config_take(config, fresh, restart);
    config_free(fresh);
    return devices;
}
