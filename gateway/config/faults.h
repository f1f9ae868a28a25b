// Faults of a configuration on their way to whoever asked: counted, and without secrets.
#pragma once

#include <stdarg.h>

// Called for each fault: path is a JSON path such as "$.mqtt.url", or begins with the name of a file that the
// configuration names ("devices.json[0].id"). Both texts are good during the call.
typedef void config_fault_fn(void *context, const char *path, const char *problem);

struct faults {
    config_fault_fn *fault;
    void *context;
    unsigned count;
};

__attribute__((format(printf, 3, 4))) void faults_add(struct faults *faults, const char *path,
                                                      const char *format, ...);
// The same for a fault of the schema: of a value that may hold a password it does not say what it is.
void faults_add_of_schema(struct faults *faults, const char *path, const char *problem);
