// Files that a configuration names; see files.h.
#include "gateway/config/files.h"

#include <errno.h>
#include <libgen.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "gateway/base/memory.h"
#include "gateway/base/text.h"

#define CREDENTIALS "%d/" // the folder, as in a unit of systemd

static const struct {
    const char *path; // that those of the section begin with
    unsigned files;
} sections[] = {
    {"$.mqtt.", FILES_OF_MQTT},
    {"$.web.", FILES_OF_WEB},
    {"$.devices_file", FILES_WITH_DEVICES},
    {"$.commands.", FILES_OF_COMMANDS},
    {"$.geolocation.", FILES_OF_GEOLOCATION},
};

struct finding {
    struct faults *faults;
    unsigned needed;
    const char *configuration, *folder; // or NULL
};

static bool is_needed(const struct finding *finding, const char *path) {
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++)
        if (strncmp(path, sections[i].path, strlen(sections[i].path)) == 0)
            return (finding->needed & sections[i].files) != 0;
    return finding->needed == FILES_ALL;
}

// Of LoadCredential=secrets:FOLDER systemd names each copy after both: secrets_mqtt. NULL when name is not so made.
static char *find_source(const struct finding *finding, const char *name) {
    const char *joint = strchr(name, '_');
    if (finding->configuration == NULL || joint == NULL)
        return NULL;
    char *copy = must_have(strdup(finding->configuration));
    char *source = text_format("%s/%.*s/%s", dirname(copy), (int)(joint - name), name, joint + 1);
    free(copy);
    return source;
}

static void complain(const struct finding *finding, const char *path, const char *file, const char *source) {
    static const char instead[] = ", or TRACKBUS_MQTT_USERNAME and TRACKBUS_MQTT_PASSWORD";
    if (source == NULL)
        faults_add(
            finding->faults, path,
            "is \"%s\", but there are no credentials, expected to be run by systemd with LoadCredential=",
            file);
    else
        faults_add(finding->faults, path,
                   "is \"%s\", outside the service the file \"%s\", which cannot be read: %s, expected root "
                   "(sudo)%s",
                   file, source, strerror(errno), strcmp(path, "$.mqtt.password_file") == 0 ? instead : "");
}

// The path of a credential, for the caller to free, or NULL after a fault.
static char *find_credential(const struct finding *finding, const char *path, const char *file) {
    const char *name = file + strlen(CREDENTIALS);
    if (finding->folder != NULL)
        return text_format("%s/%s", finding->folder, name);
    char *source = find_source(finding, name);
    if (source != NULL &&
        (access(source, R_OK) == 0 || (errno == ENOENT && (finding->needed & FILES_TO_MAKE) != 0)))
        return source;
    complain(finding, path, file, source);
    free(source);
    return NULL;
}

static void find_file(const struct finding *finding, json_t *object, const char *key, const char *path) {
    const char *file = json_string_value(json_object_get(object, key));
    size_t length = strlen(key);
    if (file == NULL || length < 5 || strcmp(key + length - 5, "_file") != 0)
        return;
    bool needed = is_needed(finding, path);
    if (needed && strncmp(file, CREDENTIALS, strlen(CREDENTIALS)) != 0)
        return;
    char *whole = needed ? find_credential(finding, path, file) : NULL;
    json_object_set_new(object, key, whole != NULL ? json_string(whole) : json_null());
    free(whole);
}

static void find_files(const struct finding *finding, json_t *json, const char *path) {
    const char *key;
    json_t *value;
    void *next;
    json_object_foreach_safe(json, next, key, value) {
        char *inner = text_format("%s.%s", path, key);
        find_file(finding, json, key, inner);
        find_files(finding, value, inner);
        free(inner);
    }
}

void files_find(struct faults *faults, json_t *json, unsigned needed, const char *configuration) {
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    const struct finding finding = {faults, needed, configuration,
                                    folder != NULL && *folder != '\0' ? folder : NULL};
    find_files(&finding, json, "$");
}
