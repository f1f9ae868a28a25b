// The files that a configuration names, in its keys that end with _file: which of them are needed, and where the ones are
// that the service manager hands to the service.
#pragma once

#include <jansson.h>

#include "gateway/config/faults.h"

// Those of one section, which a caller needs or not.
#define FILES_OF_MQTT        1U
#define FILES_OF_WEB         2U
#define FILES_WITH_DEVICES   4U
#define FILES_OF_COMMANDS    8U
#define FILES_OF_GEOLOCATION 16U
#define FILES_TO_MAKE        32U // beside a section: its credentials are made where they are not there yet
#define FILES_ALL                                                                                            \
    (FILES_OF_MQTT | FILES_OF_WEB | FILES_WITH_DEVICES | FILES_OF_COMMANDS | FILES_OF_GEOLOCATION)

// Takes out of json, a configuration, the files that are not among needed (FILES_…). In the others "%d/" at the beginning
// becomes the folder of the service's credentials ($CREDENTIALS_DIRECTORY, which systemd sets for LoadCredential=).
// Outside the service "%d/secrets_mqtt" is what systemd would copy there: the file secrets/mqtt beside the configuration
// (its path, or NULL: it is in no file). A fault: there is neither, or this user may not read it.
void files_find(struct faults *faults, json_t *json, unsigned needed, const char *configuration);
