// How Home Assistant is told of devices; see discovery.h.
#include "gateway/state/discovery.h"

#include <string.h>

const char discovery_migrate[] = "{\"migrate_discovery\":true}";

struct discovery_place discovery_place(const struct config *config, bool other) {
    bool whole = (config->home_assistant.discovery == DISCOVERY_DEVICE) != other;
    return (struct discovery_place){config->home_assistant.prefix,
                                    whole ? DISCOVERY_DEVICE : DISCOVERY_ENTITIES};
}

void discovery_clean(char *node) {
    for (char *c = node; *c != '\0'; c++)
        if (strchr("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-", *c) == NULL)
            *c = '_';
}
