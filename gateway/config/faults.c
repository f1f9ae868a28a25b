// Faults of a configuration; see faults.h.
#include "gateway/config/faults.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/base/text.h"

void faults_add(struct faults *faults, const char *path, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    char *problem = text_vformat(format, arguments);
    va_end(arguments);
    faults->count++;
    faults->fault(faults->context, path, problem);
    free(problem);
}

static bool may_be_secret(const char *path) {
    static const char *const places[] = {"$", "$.mqtt", "$.mqtt.password", "$.mqtt.url"};
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++)
        if (strcmp(path, places[i]) == 0)
            return true;
    return strncmp(path, "$.mqtt.url[", strlen("$.mqtt.url[")) == 0;
}

// A problem reads "is VALUE, expected …".
void faults_add_of_schema(struct faults *faults, const char *path, const char *problem) {
    static const char joint[] = ", expected ";
    const char *expected = NULL;
    for (const char *at = strstr(problem, joint); at != NULL; at = strstr(at + 1, joint))
        expected = at;
    if (may_be_secret(path) && expected != NULL && strncmp(problem, "is ", 3) == 0)
        faults_add(faults, path, "is something else%s", expected);
    else
        faults_add(faults, path, "%s", problem);
}
